"""A batch as the named tensors that a processor gives and a model takes, and back.

input_ids        (B, L) int64, left-padded; a clip takes no place in it
attention_mask   (B, L) int64, 1 over tokens
audio_rows       (A,) int64, the row that hears each clip
audio_positions  (A,) int64: it is heard before this token of its row, padding not counted
features_0       (A, F, M) or (A, S) float32, for the first `FeatureSpec` of the model; features_1 for the second
feature_lengths_0  (A,) int64
prompt_ids       (B, P) int64, the written question alone, where it scales LoRA
prompt_lengths   (B,) int64
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sonant.audio.features import FeatureSpec
from sonant.batch import Batch
from sonant.errors import RequestError
from sonant.models.splice import pad_left

# What a prompt consists of, by name; all else that `generate` is given is transformers' own.
NAMES = (
    *("input_ids", "attention_mask", "audio_rows", "audio_positions", "prompt_ids", "prompt_lengths"),
    *("features_0", "feature_lengths_0", "features_1", "feature_lengths_1"),
)


def as_inputs(batch: Batch, specs: Sequence[FeatureSpec], *, pad_id: int, reads_prompt: bool) -> dict[str, Tensor]:
    """Returns the tensors of a batch of questions, by name; those of clips only where there is one."""
    token_ids, mask = pad_left(batch.token_ids, batch.token_lengths)
    inputs = {"input_ids": token_ids.masked_fill(~mask, pad_id), "attention_mask": mask.long()}
    if batch.num_audio:
        inputs |= {"audio_rows": batch.audio_row, "audio_positions": batch.audio_position}
        for index, spec in enumerate(specs):
            inputs[f"features_{index}"] = batch.features[spec]
            inputs[f"feature_lengths_{index}"] = batch.feature_lengths[spec]
    if reads_prompt:
        inputs |= {"prompt_ids": batch.prompt_ids, "prompt_lengths": batch.prompt_lengths}
    return inputs


def as_batch(inputs: Mapping[str, Tensor | None], specs: Sequence[FeatureSpec], *, reads_prompt: bool) -> Batch:
    """Returns the batch of the tensors of `as_inputs`, padded on any side; without a mask, every token counts.

    Raises: RequestError if some are missing, or there are features that the model does not read.
    """
    given = {name: tensor for name, tensor in inputs.items() if tensor is not None}
    heard = [f"{name}_{index}" for index in range(len(specs)) for name in ("features", "feature_lengths")]
    heard = ["audio_rows", "audio_positions", *heard]
    wanted = {"input_ids", *(["prompt_ids", "prompt_lengths"] if reads_prompt else [])}
    wanted |= set(heard) if any(name.startswith(("audio", "feature")) for name in given) else set()
    if wrong := wanted ^ (given.keys() - {"attention_mask"}):
        raise RequestError(
            f"this model reads {', '.join(sorted(wanted))} together; missing or too many: {', '.join(sorted(wrong))}; "
            "give all that its processor returns"
        )
    token_ids = given["input_ids"]
    mask = given.get("attention_mask", torch.ones_like(token_ids)).bool()
    order = (~mask).long().argsort(dim=1, stable=True)  # padding goes behind the tokens, which keep their order
    num_rows, none = len(token_ids), token_ids.new_zeros(0)
    clips = given.get("audio_rows", none)
    return Batch(
        ids=("",) * num_rows,
        tasks=("",) * num_rows,
        token_ids=token_ids.gather(1, order) * mask.gather(1, order),
        token_lengths=mask.sum(1),
        loss_mask=torch.zeros_like(token_ids, dtype=torch.float32),
        prompt_ids=given.get("prompt_ids", token_ids[:, :0]),
        prompt_lengths=given.get("prompt_lengths", token_ids.new_zeros(num_rows)),
        audio_row=clips,
        audio_position=given.get("audio_positions", none),
        transcript_ids=clips.new_zeros(len(clips), 0),
        transcript_lengths=torch.zeros_like(clips),
        features={spec: given[f"features_{i}"] for i, spec in enumerate(specs)} if len(clips) else {},
        feature_lengths={spec: given[f"feature_lengths_{i}"] for i, spec in enumerate(specs)} if len(clips) else {},
        audio_duration_s=0.0,
    )

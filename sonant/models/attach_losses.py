"""SpeechMapper's second stage: the projector meets the LLM, which is frozen.

published    (1 - sigma) * cross entropy of the answers  +  sigma * squared error to the transcript's embeddings
distilled    in place of the cross entropy: the LLM that hears should think what the LLM that reads thinks

             the LLM hears   "Say  v1 v2 v3    in German:"  A A A       states of the same tokens, at some layers
             the LLM reads   "Say  the cat     in German:"  A A A       and the next-token distributions of A
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, cast

import pydantic
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sonant.batch import Batch
from sonant.config import Config
from sonant.errors import ModelError, TrainingError
from sonant.models.adapters.conv_transformer import ConvTransformerAdapter
from sonant.models.embedding_table import pad_vector
from sonant.models.encoders.base import valid_mask
from sonant.models.llm import final_hidden, token_embeddings
from sonant.models.lora import lora_disabled
from sonant.models.losses import LossOutput, cross_entropy, in_chunks, kl_divergence, predicting, unwrap
from sonant.models.mapping_losses import grouped_mse, left_justified
from sonant.models.packing import Pack
from sonant.models.speech_lm import SpeechLM, SpeechLMOutput, eval_mode
from sonant.models.splice import Slots, Spliced, splice


class DistillConfig(Config):
    """What of the LLM that reads the transcript is taught to the LLM that hears; a weight of 0 leaves its part out."""

    layers: tuple[int, ...] = (1, 12)  # behind which states are compared; negative: counted from the last, -1
    hidden: float = pydantic.Field(1.0, ge=0)  # of |h - t|^2 / |t|^2
    logits: float = pydantic.Field(1.0, ge=0)  # of KL(reads || hears)

    @pydantic.model_validator(mode="after")
    def _teaches(self) -> Self:
        if not (self.hidden or self.logits) or (self.hidden and not self.layers):
            raise ValueError("distill teaches nothing: give layers and a weight for hidden, or a weight for logits")
        return self


class AttachConfig(Config):
    """The loss of stage 2. Defaults: ASR CE of arXiv 2601.20417; its CE+MSE has sigma 0.9."""

    sigma: float = pydantic.Field(0.0, ge=0, le=1)  # share of the squared error
    alpha: float = pydantic.Field(5.0, ge=0, le=10)  # in it, of the words; the pads' is 10 - alpha
    divide_by_rms: bool = False  # the squared error by the mean square of the embedding table
    distill: DistillConfig | None = None  # in place of the cross entropy


@dataclass(frozen=True, eq=False)
class _Read:
    """The rows as the LLM reads them, the transcript in the place of the audio."""

    spliced: Spliced
    hidden: Tensor  # (B, L', D)
    states: dict[int, Tensor]  # (B, L', D) behind each layer


class AttachLoss:
    """A sum over supervised tokens of (1 - sigma) * (cross entropy or distillation) + sigma * squared error.

    The squared error is one number a clip, and states have one for each token behind the first audio: in both, a row
    weighs as much as its supervised tokens, so that any split into batches gives the same total. Parts: "ce" or
    "hidden" and "logits", and "mse", those whose weight is not 0. The LLM that reads is the one without LoRA.

    What instructions the rows hold decides what is learned: with ASR prompts alone the projector learns to ask for
    transcripts. Source: arXiv 2601.20417, section on stage 2; distillation after ACIF, whose layers are 1 or 12.
    """

    def __init__(self, config: AttachConfig, *, chunk_tokens: int = 2048) -> None:
        self.config, self.chunk_tokens = config, chunk_tokens
        self._pad: Tensor | None = None  # and the mean square of the table: the LLM is frozen, they stay what they are
        self._mean_square = 1.0

    def weight(self, batch: Batch) -> float:
        """Returns the sum of the loss mask over tokens that something predicts."""
        return batch.num_target_tokens

    def __call__(self, model: nn.Module, batch: Batch) -> LossOutput:
        """Returns the sum over the batch.

        Raises: TrainingError, with the ids, for clips without a transcript where one is needed; ModelError for an
        adapter that has no left-justified output (sigma > 0), or a layer that the LLM lacks.
        """
        lm, config, distill = cast(SpeechLM, unwrap(model)), self.config, self.config.distill
        if distill is not None or config.sigma:
            _refuse_unknown(batch)
        layers = _layers(lm.llm, distill.layers) if distill is not None and distill.hidden else []
        with layer_states(lm.llm, layers) as states:
            output: SpeechLMOutput = model(batch)
        terms: dict[str, tuple[float, Tensor]] = {}
        if config.sigma < 1 and distill is None:
            terms["ce"] = 1 - config.sigma, self._cross_entropy(lm, output)
        if config.sigma < 1 and distill is not None:
            read = _read(lm, batch, layers)
            if distill.hidden:
                terms["hidden"] = (1 - config.sigma) * distill.hidden, _hidden_error(batch, output, states, read)
            if distill.logits:
                terms["logits"] = (1 - config.sigma) * distill.logits, self._divergence(lm, output, read)
        if config.sigma:
            terms["mse"] = config.sigma, self._squared_error(lm, batch, output.spliced)
        total = torch.stack([share * term for share, term in terms.values()]).sum()
        weight = self.weight(batch)
        return LossOutput(total, weight, {name: (term.detach(), weight) for name, (_, term) in terms.items()})

    def _cross_entropy(self, lm: SpeechLM, output: SpeechLMOutput) -> Tensor:
        rows, columns, weights = predicting(output.spliced)
        hidden, labels = output.hidden[rows, columns], output.spliced.labels[rows, columns + 1]
        return (weights * in_chunks(partial(cross_entropy, lm), hidden, labels, chunk_tokens=self.chunk_tokens)).sum()

    def _divergence(self, lm: SpeechLM, output: SpeechLMOutput, read: _Read) -> Tensor:
        rows, columns, weights = predicting(output.spliced)
        hidden, reference = output.hidden[rows, columns], read.hidden[predicting(read.spliced)[:2]]
        return (
            weights * in_chunks(partial(kl_divergence, lm), hidden, reference, chunk_tokens=self.chunk_tokens)
        ).sum()

    def _squared_error(self, lm: SpeechLM, batch: Batch, spliced: Spliced) -> Tensor:
        if not isinstance(lm.adapter, ConvTransformerAdapter):
            raise ModelError(
                f"sigma={self.config.sigma}: {type(lm.adapter).__name__} has no slot for each token; distil, or use "
                "the adapter conv_transformer"
            )
        if not batch.num_audio:
            return 0.0 * spliced.inputs_embeds.sum()
        vectors = nn.utils.rnn.pad_sequence(
            list(spliced.inputs_embeds[spliced.is_audio].split(spliced.audio_lengths.tolist())), batch_first=True
        )
        ids, counts = batch.transcript_ids, batch.transcript_lengths
        with torch.no_grad():
            said = token_embeddings(lm.llm, ids)  # a table of its own, so that the whole one is not copied
            places = torch.arange(ids.numel(), device=ids.device).view_as(ids)
            slots = left_justified(
                places, counts, spliced.audio_lengths, table=said.flatten(0, 1), pad=self._pad_of(lm.llm, lm.adapter)
            )
        word, other = grouped_mse(vectors, slots)
        errors = self.config.alpha * word + (10 - self.config.alpha) * other
        if self.config.divide_by_rms:
            errors = errors / self._mean_square
        clips = torch.bincount(batch.audio_row, minlength=batch.num_rows)
        return ((_row_weights(batch) / clips.clamp(min=1))[batch.audio_row] * errors).sum()

    def _pad_of(self, llm: PreTrainedModel, adapter: ConvTransformerAdapter) -> Tensor:
        if self._pad is None:
            embeddings = llm.get_input_embeddings()
            every = torch.arange(embeddings.num_embeddings, device=embeddings.weight.device)
            table = token_embeddings(llm, every[None])[0]
            self._pad, self._mean_square = pad_vector(table, adapter.pad_id), float(table.float().square().mean())
        return self._pad


@contextmanager
def layer_states(llm: PreTrainedModel, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Inside the block the outputs (B, L, D) of `layers`, counted from 1, are put into the dict it gives."""
    found: dict[int, Tensor] = {}

    def keep(
        layer: int, module: nn.Module, inputs: object, named: Mapping[str, Any], output: Tensor | tuple[Tensor, ...]
    ) -> None:
        states, pack = output[0] if isinstance(output, tuple) else output, named.get("pack")
        found[layer] = pack.unpack(states) if isinstance(pack, Pack) else states

    read = [llm.get_decoder().layers[layer - 1] for layer in layers]
    hooks = [
        module.register_forward_hook(partial(keep, n), with_kwargs=True) for n, module in zip(layers, read, strict=True)
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def _read(lm: SpeechLM, batch: Batch, layers: Sequence[int]) -> _Read:
    """What the LLM without LoRA makes of the same rows, reading what is said."""
    spliced = splice(
        token_embeddings(lm.llm, batch.token_ids),
        batch.token_ids,
        batch.token_lengths,
        batch.loss_mask,
        slots=Slots(batch.audio_row, batch.audio_position),
        audio=token_embeddings(lm.llm, batch.transcript_ids),
        audio_lengths=batch.transcript_lengths,
    )
    with eval_mode(lm.llm), lora_disabled(lm.llm), layer_states(lm.llm, layers) as states:
        hidden = final_hidden(lm.llm, spliced.inputs_embeds, spliced.lengths)
    return _Read(spliced, hidden, states)


def _hidden_error(batch: Batch, output: SpeechLMOutput, states: Mapping[int, Tensor], read: _Read) -> Tensor:
    """The mean over layers and over each row's tokens behind its first audio, times the row's weight, summed."""
    first = batch.token_lengths.scatter_reduce(0, batch.audio_row, batch.audio_position, "amin")
    places = torch.arange(batch.token_ids.shape[1], device=first.device)
    behind = valid_mask(batch.token_lengths, len(places)) & (places >= first[:, None])  # (B, tokens)
    share = (_row_weights(batch) / behind.sum(dim=1).clamp(min=1))[:, None].expand_as(behind)[behind]
    chosen = behind[valid_mask(batch.token_lengths, len(places))]  # of all tokens of the batch in a row
    errors = []
    for layer in states:
        mine, other = (
            of_layer[layer][spliced.attention_mask.bool() & ~spliced.is_audio][chosen].float()
            for of_layer, spliced in ((states, output.spliced), (read.states, read.spliced))
        )
        errors.append((share * (mine - other).square().sum(-1) / other.square().sum(-1)).sum())
    return torch.stack(errors).mean()


def _row_weights(batch: Batch) -> Tensor:
    """(B,) of supervised tokens, of which a row's first is never predicted."""
    return batch.loss_mask[:, 1:].sum(dim=1)


def _layers(llm: PreTrainedModel, wanted: Sequence[int]) -> list[int]:
    """Layers counted from 1, in ascending order."""
    depth = len(llm.get_decoder().layers)
    if wrong := [layer for layer in wanted if not 1 <= abs(layer) <= depth]:
        raise ModelError(f"distill.layers {list(wanted)}: the LLM has layers 1 to {depth}; {wrong} is not among them")
    return sorted({layer if layer > 0 else depth + 1 + layer for layer in wanted})


def _refuse_unknown(batch: Batch) -> None:
    unknown = batch.audio_row[batch.transcript_lengths == 0].unique().tolist()
    if unknown:
        raise TrainingError(
            f"{len(unknown)} of {batch.num_rows} rows do not say what is spoken: "
            f"{', '.join(repr(batch.ids[row]) for row in unknown)}; give their audio a transcript"
        )

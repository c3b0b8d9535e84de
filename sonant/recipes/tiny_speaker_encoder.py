"""The tiny speaker encoder: who speaks and how, learnt in minutes from pairs of clips.

    pair of clips ─ noise · room ─ mels ─▶ apart, and joined by a pause in chance order ─▶ `sonant.models.voice_losses`

Neither speed nor pitch nor loudness is augmented: they are what is to be heard. `sonant world build` runs this on the
pairs it makes; no variant of dev is in training.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from sonant.audio.augment import AugmentConfig, Augmenter
from sonant.batch import Batch, Example, collate, make_example
from sonant.chat.messages import Conversation
from sonant.chat.tokenizer import ChatTokenizer
from sonant.config import Config
from sonant.data.blend import Source
from sonant.data.loader import BatchStream, LoaderConfig
from sonant.data.manifest import Manifest
from sonant.data.measure import RowSizes
from sonant.data.plan import PlanConfig
from sonant.evaluate.metrics.verification import equal_error_rate
from sonant.models.encoders.base import EncoderConfig
from sonant.models.encoders.tiny_speaker import TinySpeakerArchitecture, TinySpeakerEncoder
from sonant.models.freeze import FreezePlan, GroupConfig
from sonant.models.parts import resolve_part
from sonant.models.voice_losses import (
    VoiceLoss,
    VoiceLossConfig,
    VoiceStudent,
    VoiceTruth,
    join,
    silence_of,
    span_means,
    whole,
)
from sonant.train import distributed
from sonant.train.trainer import TrainConfig, train

AUGMENT = AugmentConfig(
    noise_snr_db=(10.0, 35.0),
    room_probability=0.15,
    speed_probability=0.0,
    gain_probability=0.0,
    tilt_probability=0.0,
    vtlp_probability=0.0,
    spec_probability=0.0,
)


class TinySpeakerRecipe(Config):
    """Every choice of a run; the defaults made the encoder that is shipped (its provenance says on which speakers)."""

    tokenizer: str = "tiny/llm"  # rows are rendered with it; nothing is learnt from their text
    architecture: TinySpeakerArchitecture = TinySpeakerArchitecture()
    augment: AugmentConfig = AUGMENT
    loss: VoiceLossConfig = VoiceLossConfig()
    learning_rate: float = Field(default=3e-3, gt=0)
    plan: PlanConfig = PlanConfig(token_budget=1400, max_rows=16, window=512)  # frames of 40 ms
    loader: LoaderConfig = LoaderConfig(prefetch=8)
    train: TrainConfig = TrainConfig(steps=1500, warmup_steps=60, weight_decay=1e-2, validate_every=300)


def build_speaker_encoder(
    manifest: Path,
    out: Path,
    *,
    config: TinySpeakerRecipe,
    run_dir: Path,
    dev: Path,
    command: str = "",
    say: Callable[[str], None] = print,
) -> dict[str, float]:
    """Trains on the pairs of `manifest` and writes the encoder's folder to `out`; returns its scores on `dev`.

    Under torchrun only the first process writes and measures. Raises: SonantError where manifests, settings or the
    tokenizer do not fit.
    """
    started = time.monotonic()
    torch.manual_seed(config.train.seed)
    tokenizer = ChatTokenizer.from_folder(resolve_part(config.tokenizer))
    encoder = TinySpeakerEncoder(EncoderConfig(kind="tiny_speaker", architecture=config.architecture.model_dump()))
    rows = Manifest(manifest)
    names = {kind: names_of(rows, kind) for kind in ("speakers", "throats", "manners")}
    student = VoiceStudent(encoder, **{f"num_{kind}": len(known) for kind, known in names.items()})
    truths = {row.id: VoiceTruth(*(_indices(row.extra[kind], known) for kind, known in names.items())) for row in rows}
    say(f"{sum(p.numel() for p in encoder.parameters()):,} parameters; {len(truths):,} pairs")
    result = train(
        student,
        make_stream(config, rows, encoder, tokenizer),
        loss=VoiceLoss(truths, spec=encoder.feature_spec, config=config.loss),
        config=config.train,
        groups=FreezePlan(
            {  # the sum over the states stays a mean, for a recipe to weigh
                "fixed": GroupConfig(patterns=("encoder.layer_weights",), lr=0.0),
                "all": GroupConfig(patterns=("*",), lr=config.learning_rate),
            }
        ).apply(student),
        run_dir=run_dir,
        validate=lambda step: scores(student, Manifest(dev), tokenizer, manners=names["manners"], limit=400),
    )
    if not distributed.leads():
        return {}
    encoder.save(out)
    measured = scores(student.eval(), Manifest(dev), tokenizer, manners=names["manners"])
    provenance = {
        "command": command,
        "recipe": config.model_dump(mode="json"),
        "steps": result.step,
        "seconds": round(time.monotonic() - started),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "torch": torch.__version__,
        "data": {name: hashlib.sha256(p.read_bytes()).hexdigest() for name, p in (("train", manifest), ("dev", dev))},
        "dev": {name: round(score, 2) for name, score in measured.items()},
    }
    (out / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
    return measured


def names_of(rows: Iterable[Conversation], kind: str) -> dict[str, int]:
    """Returns name -> index of every name that the rows' extra `kind` holds, in order."""
    return {name: index for index, name in enumerate(sorted({name for row in rows for name in row.extra[kind]}))}


def make_stream(
    config: TinySpeakerRecipe, rows: Manifest, encoder: TinySpeakerEncoder, tokenizer: ChatTokenizer
) -> BatchStream:
    """Returns batches of pairs, two clips a row; lengths are counted in 40 ms frames."""
    augmenter = Augmenter(config.augment)

    def example(row: Conversation, rng: np.random.Generator) -> Example:
        return make_example(row, tokenizer, [encoder.feature_spec], augmenter=augmenter, rng=rng)

    sizes = RowSizes(text_tokens=lambda row: 0, audio_tokens=lambda seconds: round(seconds * encoder.frame_rate_hz))
    return BatchStream(Source("pairs", rows), example, sizes=sizes, plan=config.plan, loader=config.loader)


@torch.no_grad()
def scores(
    student: VoiceStudent,
    rows: Sequence[Conversation],
    tokenizer: ChatTokenizer,
    *,
    manners: Mapping[str, int],
    limit: int | None = None,
) -> dict[str, float]:
    """Returns percentages over (the first `limit`) pairs, EER = equal error rate.

    TASK_cosine_eer by the cosine of the clips' mean frames; TASK_joined_eer by one linear map of the mean frame of both
    clips joined; manner_accuracy and manner_recall (the mean of the manners') of single clips.
    """
    kept, told = list(rows)[:limit], torch.Generator().manual_seed(0)
    heard: list[Tensor] = []  # (B, 2 + number of manners): cosine, logit of one speaker, logits of the first's manner
    for first in range(0, len(kept), 50):
        part = [make_example(row, tokenizer, [student.encoder.feature_spec]) for row in kept[first : first + 50]]
        heard.append(_heard(student, collate(part).to(student.same.device), told).cpu())
    cosines, logits, guesses = torch.cat(heard).split([1, 1, len(manners)], dim=1)
    is_one = np.array([len(set(row.extra["speakers"])) == 1 for row in kept])
    tasks, found = np.array([row.task for row in kept]), {}
    for task in sorted(set(tasks.tolist())):
        for name, score in (("cosine", cosines), ("joined", logits)):
            of_task = score[:, 0].double().numpy()[tasks == task]
            found[f"{task}_{name}_eer"] = equal_error_rate(of_task, is_one[tasks == task]).value
    truth = torch.tensor([manners[row.extra["manners"][0]] for row in kept])
    right = (guesses.argmax(1) == truth).double()
    found["manner_accuracy"] = 100 * float(right.mean())
    found["manner_recall"] = 100 * float(torch.stack([right[truth == m].mean() for m in truth.unique()]).mean())
    return found


def _heard(student: VoiceStudent, batch: Batch, told: torch.Generator) -> Tensor:
    encoder, num = student.encoder, batch.num_rows
    mels, lengths = batch.features[encoder.feature_spec], batch.feature_lengths[encoder.feature_spec]
    clips = span_means(encoder(mels, lengths), whole(encoder.output_lengths(lengths)))
    pauses = torch.randint(20, 51, (num,), generator=told)
    joined = join(
        mels, lengths, order=torch.tensor([[0, 1]] * num), pauses=pauses, silence=silence_of(encoder.feature_spec)
    )
    both = span_means(encoder(joined.mels, joined.lengths), whole(encoder.output_lengths(joined.lengths)))
    cosines = F.cosine_similarity(clips[::2], clips[1::2])[:, None]
    return torch.cat([cosines, student.alone(both), student.manner(clips[::2])], dim=1)


def _indices(names: Sequence[str], known: Mapping[str, int]) -> tuple[int, int]:
    first, second = (known[name] for name in names)
    return first, second

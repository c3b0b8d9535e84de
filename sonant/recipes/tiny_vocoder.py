"""The tiny vocoder: sound of log mels, learnt from clips alone; what is said in them plays no part.

    clip ─ samples ─ log mels ─▶ `sonant.models.vocoders.vocos` ─▶ sound ─▶ `sonant.models.vocoders.loss`

`sonant world build --part vocoder` runs this on clips of the training voices.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from sonant.audio.mel import log_mel
from sonant.batch import Example
from sonant.chat.messages import Conversation
from sonant.config import Config
from sonant.data.blend import Group, Source
from sonant.data.loader import BatchStream, LoaderConfig
from sonant.data.manifest import Manifest
from sonant.data.measure import RowSizes
from sonant.data.plan import PlanConfig
from sonant.models.freeze import FreezePlan, GroupConfig
from sonant.models.vocoders.base import Vocoder
from sonant.models.vocoders.loss import SAMPLES, VocoderLoss, VocoderLossConfig
from sonant.models.vocoders.vocos import Vocos, VocosConfig
from sonant.train import distributed
from sonant.train.provenance import Provenance
from sonant.train.trainer import TrainConfig, train


class TinyVocoderRecipe(Config):
    """Every choice of a run; the defaults made the vocoder that is shipped."""

    architecture: VocosConfig = VocosConfig()
    loss: VocoderLossConfig = VocoderLossConfig()
    learning_rate: float = Field(default=2e-3, gt=0)
    plan: PlanConfig = PlanConfig(token_budget=640, max_rows=12, window=512)  # mel frames
    loader: LoaderConfig = LoaderConfig(prefetch=8)
    train: TrainConfig = TrainConfig(steps=800, warmup_steps=40, weight_decay=1e-3, validate_every=400)


def build_vocoder(
    manifests: Sequence[Path],
    out: Path,
    *,
    config: TinyVocoderRecipe,
    run_dir: Path,
    dev: Mapping[str, Path] | None = None,
    command: str = "",
    say: Callable[[str], None] = print,
) -> dict[str, float]:
    """Trains on the clips of `manifests` and writes the vocoder's folder to `out`.

    dev: voice group -> manifest; returns voice group -> mean distance of log mels. Under torchrun only the first
    process writes and measures.

    Raises: SonantError where manifests and settings do not fit.
    """
    provenance = Provenance(config, command)
    torch.manual_seed(config.train.seed)
    vocoder = Vocos(config.architecture)
    held_out = {group: Manifest(path) for group, path in (dev or {}).items()}
    say(f"{sum(p.numel() for p in vocoder.parameters()):,} parameters, {vocoder.context_frames} frames of context")
    result = train(
        vocoder,
        make_stream(config, manifests),
        loss=VocoderLoss(vocoder.mel, config.loss),
        config=config.train,
        groups=FreezePlan({"vocoder": GroupConfig(patterns=("*",), lr=config.learning_rate)}).apply(vocoder),
        run_dir=run_dir,
        validate=lambda step: mel_distances(vocoder, held_out, limit=20),
    )
    if not distributed.leads():
        return {}
    vocoder.save(out)
    scores = mel_distances(Vocos.from_folder(out), held_out)
    provenance.write(out, steps=result.step, data=manifests, dev_log_mel_distance=scores)
    return scores


def make_stream(config: TinyVocoderRecipe, manifests: Sequence[Path]) -> BatchStream:
    """Returns batches of clips as samples, each manifest as large as it is; lengths are counted in mel frames."""
    mel = config.architecture.mel

    def example(row: Conversation, rng: np.random.Generator) -> Example:
        return clip_example(row, sample_rate_hz=mel.sample_rate_hz)

    clips = Group("clips", [Source(path.stem, Manifest(path)) for path in manifests], temperature=1.0)
    sizes = RowSizes(text_tokens=lambda row: 0, audio_tokens=lambda seconds: round(seconds * mel.frame_rate_hz))
    return BatchStream(clips, example, sizes=sizes, plan=config.plan, loader=config.loader)


def clip_example(row: Conversation, *, sample_rate_hz: int) -> Example:
    """Returns the row's first recording as samples, and none of its text."""
    samples = clip_samples(row, sample_rate_hz=sample_rate_hz)
    nothing = np.zeros(0, np.int64)
    return Example(
        id=row.id,
        task=row.task,
        token_ids=nothing,
        loss_mask=np.zeros(0, np.float32),
        prompt_ids=nothing,
        audio_positions=np.zeros(1, np.int64),
        transcript_ids=[nothing],
        features={SAMPLES: [samples]},
        audio_duration_s=len(samples) / sample_rate_hz,
        reference="",
    )


def clip_samples(row: Conversation, *, sample_rate_hz: int) -> Tensor:
    """Returns the samples (S,) of the stretch that the row's first recording names. Raises: AudioError."""
    part = row.audio_parts[0]
    samples = part.load(sample_rate_hz=sample_rate_hz)
    return torch.from_numpy(samples)


@torch.no_grad()
def mel_distances(
    vocoder: Vocoder, groups: Mapping[str, Sequence[Conversation]], *, limit: int | None = None
) -> dict[str, float]:
    """Returns group -> mean of |log mel of the vocoder's sound - log mel of the clip| over (the first `limit`) rows."""
    where = next(vocoder.parameters()).device if isinstance(vocoder, nn.Module) else torch.device("cpu")
    found = {}
    for group, rows in groups.items():
        gaps = []
        for row in list(rows)[:limit]:
            rate_hz = vocoder.mel.sample_rate_hz
            true = log_mel(clip_samples(row, sample_rate_hz=rate_hz), vocoder.mel)
            sound = vocoder(true[None].to(where), torch.tensor([len(true)], device=where))[0].cpu()
            gaps.append((log_mel(sound, vocoder.mel) - true).abs().mean())
        found[group] = float(torch.stack(gaps).mean())
    return found

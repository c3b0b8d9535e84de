"""What a recipe of several stages is made of: settings of a stage, cached frames, transcripts."""

import copy
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from pydantic import Field
from torch import nn

from sonant.audio.features import FeatureSpec
from sonant.batch import CachedFrames
from sonant.chat.messages import Conversation, Part, TextPart
from sonant.config import Config
from sonant.data.frame_cache import Encode, FrameCache, write_frame_cache
from sonant.data.growing_cache import GrowingFrameCache
from sonant.data.training_set import DataConfig
from sonant.generate.encode import clip_encoder
from sonant.models.build import SpeechLMConfig
from sonant.models.checkpoint import copy_speech_lm
from sonant.models.encoders.base import EncoderConfig, SpeechEncoder
from sonant.models.encoders.identity import encoded_spec
from sonant.models.encoders.load import load_encoder
from sonant.models.freeze import FreezePlan, GroupConfig
from sonant.models.speech_lm import SpeechLM
from sonant.recipes.fitting import ModelSettings
from sonant.train.distributed import own_gpu
from sonant.train.optim import Schedule
from sonant.train.trainer import TrainConfig, TrainResult


class Stage(Config):
    """What a stage trains on, and how long; all else is as in the recipe's `train`."""

    data: DataConfig
    steps: int = Field(gt=0)
    schedule: Schedule = "cosine"
    warmup_steps: int = Field(0, ge=0)
    validate_every: int = Field(0, ge=0)
    metric: str | None = None
    metric_mode: Literal["min", "max"] = "min"
    final_lr_ratio: float | None = Field(None, ge=0, le=1)  # None: as in `train`
    average_last: float | None = Field(None, ge=0, le=1)  # likewise

    def data_under(self, root: str) -> DataConfig:
        """Returns the data, its manifests relative to `root`."""
        return self.data.model_copy(update={"root": str(Path(root, self.data.root))})

    def manifests(self, root: str) -> list[Path]:
        """Returns every manifest of the stage: speech, text and dev."""
        return manifests_of(self.data_under(root))

    def train_config(self, common: TrainConfig) -> TrainConfig:
        """Returns the settings of the recipe with this stage's own."""
        names = ["steps", "schedule", "warmup_steps", "validate_every", "metric", "metric_mode"]
        names += [name for name in ("final_lr_ratio", "average_last") if getattr(self, name) is not None]
        return common.model_copy(update={name: getattr(self, name) for name in names})


class ProjectorStage(Stage):
    """A stage that trains one thing, at one rate."""

    lr: float = Field(gt=0)
    weight_decay: float = Field(0.01, ge=0)
    least_gain: float = Field(0.0, ge=0)  # of the metric, for a step to be kept: a dev set's rows come and go by chance

    def groups(self, model: nn.Module, pattern: str) -> list[dict[str, Any]]:
        """Returns the optimiser's group of the parameters that match; all others are frozen."""
        group = GroupConfig(patterns=(pattern,), lr=self.lr, weight_decay=self.weight_decay)
        return FreezePlan({"projector": group}).apply(model)


def manifests_of(data: DataConfig) -> list[Path]:
    """Returns every manifest: speech, text and dev."""
    names = [source.manifest for source in (*data.speech.values(), *data.text.values())]
    return [Path(data.root, name) for name in (*names, *data.dev)]


def device_of(train: TrainConfig) -> str:
    """Returns where this process computes: its GPU if there is one and it may, else the CPU."""
    if train.device == "cpu" or not torch.cuda.is_available():
        return "cpu"
    return str(own_gpu())


def cached_frames(
    encoder: EncoderConfig, manifests: Iterable[Path], folder: Path, *, train: TrainConfig, say: Callable[[str], None]
) -> FrameCache:
    """Returns the frames of every clip of the manifests; those that lack are made, unless torchrun has many processes.

    Raises: ManifestError if `folder` holds frames of another encoder, or has to be made by a command first.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        loaded = load_encoder(encoder)
        encode, spec = clip_encoder(loaded, device=device_of(train)), encoded_spec(loaded)
        report = write_frame_cache(sorted({*manifests}), folder, encode=encode, spec=spec)
        say(f"frames: {report.clips:,} clips in {folder}, {report.new_clips:,} of them new")
        for name, fault in report.left_out.items():
            say(f"no frames of {name}: {fault}")
    return FrameCache(folder)


def frames_on_disk(
    model: SpeechLM,
    settings: ModelSettings,
    groups: Mapping[str, GroupConfig],
    *,
    root: str,
    say: Callable[[str], None],
) -> dict[FeatureSpec, CachedFrames]:
    """Returns a cache for each encoder that `groups` leave frozen, which training fills; none if `settings` ask none.

    A folder given by name holds one for each encoder, called by its number; in ROOT/frames, which "auto" takes, they
    are called by the encoders' names. Where sound is changed before it is heard, "auto" caches nothing.

    Raises: ManifestError as `GrowingFrameCache` does.
    """
    where = settings.frames
    if where is None or (where == "auto" and settings.augment is not None):
        return {}
    FreezePlan(groups).apply(model)
    cached: dict[FeatureSpec, CachedFrames] = {}
    for index, encoder in enumerate(model.speech_encoders):
        if any(parameter.requires_grad for parameter in cast(nn.Module, encoder).parameters()):
            say(f"encoders.{index} trains, so it runs in every step")
            continue
        spec = model.encoded_specs[index]
        name = f"frames/{spec.encoder}-{spec.frame_rate_hz:g}Hz" if where == "auto" else f"{where}/{index}"
        cache = GrowingFrameCache(
            Path(root, name),
            spec,
            partial(_clip_encoder, _copy(model, index), device_of(settings.train)),
            precision=settings.frames_precision,
        )
        say(
            f"frames of encoders.{index}: {len(cache):,} clips in {Path(root, name)}; others are encoded when first met"
        )
        cached[spec] = cache
    return cached


def _copy(model: SpeechLM, index: int) -> Callable[[], SpeechEncoder]:
    """What returns an encoder of its own, equal to the model's, which ranks may come to share among them."""
    config = cast(SpeechLMConfig, model.config).encoders[index]
    if config.path is not None and f"encoders.{index}" not in model.own_parts:
        return partial(load_encoder, config)  # from where the model has it: no memory if all frames are there
    copied = copy.deepcopy(model.speech_encoders[index])
    return lambda: copied


def _clip_encoder(load: Callable[[], SpeechEncoder], device: str) -> Encode:
    return clip_encoder(load(), device=device)


def spoken_as(row: Conversation, *, normalize: Callable[[str], str] = str) -> Conversation:
    """Returns the row with the normalised transcript of every clip heard; one without says the answer."""

    def part(old: Part) -> Part:
        if isinstance(old, TextPart):
            return old
        return replace(old, transcript=normalize(row.reference if old.transcript is None else old.transcript))

    return replace(
        row, messages=tuple(replace(m, parts=tuple(map(part, m.parts))) if m.heard else m for m in row.messages)
    )


def keep_better(
    stage: ProjectorStage,
    result: TrainResult,
    start: Mapping[str, float] | None,
    *,
    before: Path,
    run_dir: Path,
    say: Callable[[str], None],
) -> None:
    """Makes run_dir/model: the stage's best, or its last without a metric; `before` if it gained `least_gain` or less.

    start: the scores of the model that the stage began with, which is the one in `before`.
    """
    kept = run_dir / ("last" if result.best_step is None else "best")
    if start is not None and stage.metric is not None and result.best is not None:
        gain = (result.best - start[stage.metric]) * (1 if stage.metric_mode == "max" else -1)
        say(f"{stage.metric}: {start[stage.metric]:.4g} before, {result.best:.4g} at best")
        if gain <= stage.least_gain:
            kept = before
            say(f"no step was better by more than {stage.least_gain:g} than the model it began with, which is kept")
    copy_speech_lm(kept, run_dir / "model")

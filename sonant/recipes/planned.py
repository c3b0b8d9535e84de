"""What a recipe would train, as shapes: each of its stages with model, loss and batches of the size its plan allows.

settings ──▶ meta device ──▶ shapes ──▶ Planned: model, loss, batch(clip_s) ──▶ sonant.train.fit

Nothing is loaded: hub models are the shapes of `sonant.models.published.yaml`, a folder with config.json, or an
`architecture`.
"""

import contextlib
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sonant.audio.features import FeatureSpec
from sonant.batch import Batch
from sonant.data.plan import PlanConfig
from sonant.errors import ConfigError
from sonant.models.adapters.base import build_adapter
from sonant.models.attach_losses import AttachLoss
from sonant.models.build import SpeechLMConfig, build_speech_lm
from sonant.models.encoders.load import load_encoder
from sonant.models.freeze import FreezePlan, GroupConfig
from sonant.models.losses import TokenLoss
from sonant.models.mapping_losses import MappingLoss
from sonant.models.parts import read_part_config, resolve_part
from sonant.models.projector import Head, Projector
from sonant.models.speech_head.losses import SpeechLoss
from sonant.models.speech_lm import SpeechLM
from sonant.recipes.fitting import ModelSettings
from sonant.recipes.spectron import Spectron
from sonant.recipes.speechmapper import SpeechMapper
from sonant.recipes.typical import Row, typical_batch
from sonant.recipes.voicetextblender import VoiceTextBlender, in_arm
from sonant.recipes.wavllm import WavLLM, extended
from sonant.train.dry_run import shapes_of
from sonant.train.recompute import recompute_layers
from sonant.train.trainer import Loss, TrainConfig


@dataclass(frozen=True, eq=False)
class Planned:
    """One stage of a recipe, its model without numbers.

    specs: what its batches hold: features, or frames from a cache, whose encoders do not run.
    """

    name: str
    model: nn.Module
    loss: Loss
    plan: PlanConfig
    train: TrainConfig
    shapes: FakeTensorMode | None  # None: the model is real
    specs: tuple[FeatureSpec, ...]

    @property
    def most_positions(self) -> int:
        """Returns how many tokens and frames one row may have: for the plan, and for the LLM."""
        held = self.model.positions if isinstance(self.model, SpeechLM) else None
        return self.plan.token_budget if held is None else min(held, self.plan.token_budget)

    def positions(self, row: Row) -> int:
        """Returns the tokens and frames of a row: what the plan's budget is counted in."""
        spoken = 0
        if isinstance(self.model, SpeechLM):
            heard = self.model.audio_tokens(row.clip_s)
            spoken = self.model.spoken_positions(row.clip_s)
        else:
            heard = math.ceil(row.clip_s * self.specs[0].frame_rate_hz)
        return heard + row.text_tokens + spoken

    def num_rows(self, row: Row) -> int:
        """Returns how many such rows the plan puts into a micro-batch; 0 if not even one fits."""
        rows = self.plan.token_budget // self.positions(row)
        return rows if self.plan.max_rows is None else min(rows, self.plan.max_rows)

    def batch(self, row: Row, num_rows: int) -> Batch:
        """Returns such rows side by side."""
        voice = self.model.voice_spec if isinstance(self.model, SpeechLM) else None
        return typical_batch(row, num_rows, specs=self.specs, voice=voice, shapes=self.shapes)


def planned(config: Any, *, real: bool = False) -> list[Planned]:
    """Returns the stages of a recipe's settings, in order; `real` ones with weights, loaded as training would.

    Raises: ModelError for a part whose shape is not known here; ConfigError for a recipe that has no plan.
    """
    loss: Loss
    stages: list[Planned] = []
    match config:
        case VoiceTextBlender():
            config = in_arm(config)
            model, loss = _model(config.model, real=real), TokenLoss(kl_weight=config.kl_weight)
            cached = _reads_frames(config)
            return [_stage("train", model, config.groups, loss, config.data.plan, config.train, cached=cached)]
        case Spectron():
            text = TokenLoss(kl_weight=config.kl_weight)
            model, loss = _model(config.model, real=real), SpeechLoss(text, config.loss)
            cached = _reads_frames(config)
            return [_stage("train", model, config.groups, loss, config.data.plan, config.train, cached=cached)]
        case WavLLM():
            built = _model(config.model, real=real)
            for name, stage in (("stage1", config.stage1), ("stage2", config.stage2)):
                if stage is None or (name == "stage1" and config.begin is not None):
                    continue
                with _meta(real):
                    model = extended(_model(config.model, real=real) if stages else built, stage)
                loss = TokenLoss(kl_weight=stage.kl_weight, over=config.loss_over)
                train, cached = stage.train_config(config.train), _reads_frames(config)
                stages.append(_stage(name, model, stage.groups, loss, stage.data.plan, train, cached=cached))
            return stages
        case SpeechMapper():
            return _mapper(config, real=real)
        case _:
            raise ConfigError(f"{type(config).__name__} has no plan")


def _reads_frames(settings: ModelSettings) -> bool:
    """Whether frozen encoders run once, as they do from the second epoch on."""
    return settings.frames is not None and (settings.frames != "auto" or settings.augment is None)


def _mapper(config: SpeechMapper, *, real: bool) -> list[Planned]:
    with _meta(real):
        encoder = load_encoder(config.model.encoders[0])
        values = read_part_config(resolve_part(str(config.model.llm.path)))
        spec = FeatureSpec.encoded("planned", encoder.dim, encoder.frame_rate_hz)
        table = torch.empty(values["vocab_size"], values["hidden_size"])
        adapter = build_adapter(config.model.adapter, in_dims=[spec.dim], out_dim=table.shape[1], vocab_size=len(table))
        head = Head(adapter, table, pad_id=getattr(config.model.adapter, "pad_id", None))
        projector = Projector({"llm": head}, spec=spec)
    one, two = config.stage1, config.stage2
    group = {"projector": GroupConfig(patterns=("*",), lr=one.lr)}
    train = one.train_config(config.train)
    stages = [_stage("stage1", projector, group, MappingLoss(one.loss), one.data.plan, train)]
    if two is not None:
        model, train = _model(config.model, real=real), two.train_config(config.train)
        group = {"projector": GroupConfig(patterns=("adapter." + two.trains,), lr=two.lr)}
        stages.append(_stage("stage2", model, group, AttachLoss(two.loss), two.data.plan, train, cached=True))
    return stages


def _stage(
    name: str,
    model: nn.Module,
    groups: Mapping[str, GroupConfig],
    loss: Loss,
    plan: PlanConfig,
    train: TrainConfig,
    *,
    cached: bool = False,
) -> Planned:
    FreezePlan(groups).apply(model)
    if train.activation_checkpointing == "layers":
        recompute_layers(model)
    specs = (model.spec,) if isinstance(model, Projector) else _specs(cast(SpeechLM, model), cached=cached)
    shapes = shapes_of(model) if next(model.parameters()).is_meta else None
    return Planned(name, model.train(), loss, plan, train, shapes, specs)


def _specs(model: SpeechLM, *, cached: bool) -> tuple[FeatureSpec, ...]:
    """The features of a batch; with a cache, the frames of every encoder that is frozen."""
    if not cached:
        return model.feature_specs
    own = [FeatureSpec.encoded(f"planned-{i}", e.dim, e.frame_rate_hz) for i, e in enumerate(model.speech_encoders)]
    model.encoded_specs = tuple(own)  # not by their weights, of which there are none
    frozen = [f"encoders.{i}" not in model.own_parts for i in range(len(own))]
    return tuple(
        mine if rests else encoder.feature_spec
        for mine, rests, encoder in zip(own, frozen, model.speech_encoders, strict=True)
    )


def _model(config: SpeechLMConfig, *, real: bool) -> SpeechLM:
    """Returns the model as `build_speech_lm` makes it, on the meta device unless it is to be real."""
    llm = config.llm
    with _meta(real):
        if llm.path is not None and not real:
            values = read_part_config(resolve_part(llm.path))
            llm = llm.model_copy(update={"path": None, "architecture": values})
        return build_speech_lm(config.model_copy(update={"llm": llm}))


@contextlib.contextmanager
def _meta(real: bool) -> Iterator[None]:
    """Within, modules have shapes alone; torch does not tell that what is read from disk vanishes in them."""
    if real:
        yield
        return
    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*non-meta parameter.*")
        yield

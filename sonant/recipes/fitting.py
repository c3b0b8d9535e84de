"""What every recipe that trains a whole speech language model does once it has one: settings in, a model folder out."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator

from sonant.audio.augment import AugmentConfig, Augmenter
from sonant.audio.features import FeatureSpec
from sonant.batch import CachedFrames
from sonant.chat.endpoint_wordings import EndpointWordings
from sonant.chat.messages import Conversation
from sonant.chat.tokenizer import ChatTokenizer
from sonant.config import Config
from sonant.data.frame_shards import Precision
from sonant.data.growing_cache import GrowingFrameCache
from sonant.data.training_set import DataConfig, Ears, make_stream, unedited
from sonant.evaluate.validation import validator
from sonant.generate.assistant import Assistant
from sonant.models.build import SpeechLMConfig
from sonant.models.checkpoint import copy_speech_lm, save_speech_lm
from sonant.models.freeze import FreezePlan, GroupConfig
from sonant.models.parts import resolve_part
from sonant.models.speech_lm import SpeechLM
from sonant.train.distributed import led
from sonant.train.trainer import Loss, TrainConfig, TrainResult, train


def _without_null(groups: Any) -> Any:
    return {n: g for n, g in groups.items() if g is not None} if isinstance(groups, dict) else groups


# A group of null is left out: how an override takes one away.
Groups = Annotated[dict[str, GroupConfig], BeforeValidator(_without_null)]


class ModelSettings(Config):
    """What a recipe is told of its model, whatever it trains it on."""

    model: SpeechLMConfig
    tokenizer: str | None = None  # folder or hub id; None: the LLM's own
    augment: AugmentConfig | None = None
    # Frozen encoders run once: the folder, under the data's root, that keeps their frames; "auto" chooses folder and
    # encoders; None: they run in every step. float32 takes twice the space and rounds nothing.
    frames: str | None = None
    frames_precision: Precision = "float16"
    save: Literal["trained", "all"] = "trained"  # "all" makes a folder that needs no other
    wordings: EndpointWordings = EndpointWordings()  # how `sonant serve` asks the model for what it was trained to do
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _names_what_is_quantized(self) -> "ModelSettings":
        if self.save == "all" and self.model.llm.quantize is not None:
            raise ValueError("a quantised LLM (model.llm.quantize) is never saved, only named; use save=trained")
        return self

    @property
    def provenance(self) -> dict[str, Any]:
        """Returns what a trained model's folder says of its training."""
        return {"wordings": self.wordings.model_dump(mode="json")}


@dataclass(frozen=True)
class Fitting:
    """What trains on what, at which rates, by which loss and for how long."""

    data: DataConfig
    groups: Mapping[str, GroupConfig]
    loss: Loss
    train: TrainConfig
    cached: Mapping[FeatureSpec, CachedFrames] = field(default_factory=dict)  # of encoders that need not run
    edit: Callable[[Conversation], Conversation] = unedited  # what is done to a row of training first


def fit(
    model: SpeechLM, settings: ModelSettings, how: Fitting, *, run_dir: Path, say: Callable[[str], None]
) -> TrainResult:
    """Trains `model` in `run_dir`; returns how the run ended. run_dir/model is the best by dev score, or the last.

    Raises: SonantError where settings, data or parts do not fit, before anything is trained.
    """
    tokenizer = ChatTokenizer.from_folder(resolve_part(settings.tokenizer or str(settings.model.llm.path)))
    plan = FreezePlan(how.groups)
    groups = plan.apply(model)
    for row in plan.table(model):
        start = f" from step {row.start_step}" if row.start_step else ""
        say(f"{row.group:<14} {row.parameters:>13,} parameters  lr {row.lr:g}{start}")

    augmenter = Augmenter(settings.augment) if settings.augment is not None else None
    specs = model.specs_given(how.cached)
    ears = Ears(
        specs,
        model.audio_tokens,
        augmenter,
        cached=how.cached,
        positions=model.positions,
        voice=model.voice_spec,
        spoken_tokens=model.spoken_positions,
    )
    stream = make_stream(how.data, tokenizer, ears, edit=how.edit)
    shares = ", ".join(f"{name} {share:.1%}" for name, share in stream.shares().items())
    say(f"target tokens: {shares}; padding {stream.padding_share:.1%}")

    with kept(how.cached):
        result = train(
            model,
            stream,
            loss=how.loss,
            config=how.train,
            groups=groups,
            run_dir=run_dir,
            validate=validator(how.data, Assistant(model, tokenizer, cached=how.cached)),
            save_model=lambda folder: save_speech_lm(
                model, tokenizer, folder, include=settings.save, provenance=settings.provenance
            ),
        )
    if result.stopped is None:
        led(lambda: copy_speech_lm(run_dir / ("last" if result.best_step is None else "best"), run_dir / "model"))
    return result


@contextmanager
def kept(cached: Mapping[FeatureSpec, CachedFrames]) -> Iterator[None]:
    """Writes, at the end of the block however it ends, the frames that caches have made and not yet written."""
    try:
        yield
    finally:
        for cache in cached.values():
            if isinstance(cache, GrowingFrameCache):
                cache.flush()

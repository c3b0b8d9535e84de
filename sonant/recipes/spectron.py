"""Spectron: one LLM hears, writes its answer and says it, in one pass of text and log mel frames.

    ♪question♪ ──▶ LLM ──▶ text ──▶ speech head ──▶ frames        loss: cross entropy of the text + loss of the frames
    text_only rows keep the LLM's skill; rows whose answer is not spoken (asr) train its text alone

`faithful`: frames are positions of the LLM, one a step, taught by regression; it over-smooths and never stops.
`best`: the head has layers of its own, a pointer over the words of the text, and gives samples. Every option of
`model.speech_head` and of `loss` can be switched alone. Arms: `full`; `null_text` (what is written before speech says
nothing but how many words there are: does the text carry the meaning?).
Source: arXiv 2305.15255; presets `tiny`, `faithful` (as published, completed by specs/spectron.md), `best` (ours).
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sonant.audio.mel import MelSpec
from sonant.chat.messages import Conversation, Part, TextPart
from sonant.chat.spelling import MARKS
from sonant.data.manifest import Manifest
from sonant.data.training_set import DataConfig, unedited
from sonant.errors import ConfigError
from sonant.models.build import build_speech_lm
from sonant.models.checkpoint import load_speech_lm
from sonant.models.losses import TokenLoss
from sonant.models.speech_head.config import SpeechLossConfig
from sonant.models.speech_head.losses import SpeechLoss
from sonant.recipes.fitting import Fitting, Groups, ModelSettings, fit
from sonant.recipes.staged import frames_on_disk
from sonant.spoken import spoken_mels
from sonant.train.trainer import TrainResult

_NULL_WORD = "a"


class Spectron(ModelSettings):
    """Every choice of a run."""

    arm: Literal["full", "null_text"] = "full"
    begin: str | None = None  # a model that speaks already: its weights are where training starts
    data: DataConfig
    groups: Groups
    loss: SpeechLossConfig = SpeechLossConfig()
    kl_weight: float = Field(0.0, ge=0)  # on text rows, to the LLM with LoRA off
    normalisation_rows: int = Field(1000, gt=0)  # of each manifest, from which the mels' mean and deviation are taken


def main(config: Spectron, run_dir: Path, *, say: Callable[[str], None]) -> TrainResult:
    """Trains one arm in `run_dir`; returns how the run ended. run_dir/model is the best by dev score, or the last.

    Raises: SonantError where settings, data or parts do not fit, before anything is trained.
    """
    if config.model.speech_head is None:
        raise ConfigError("spectron speaks, but model.speech_head is null; set it, or train voicetextblender")
    torch.manual_seed(config.train.seed)
    model = build_speech_lm(config.model) if config.begin is None else load_speech_lm(config.begin)
    if config.begin is None and config.model.speech_head.normalise:
        assert model.speech_head is not None
        model.speech_head.fit_normalisation(training_mels(config, model.speech_head.mel))
    nulled = partial(null_text, boundary=config.model.speech_head.spoken_after)
    how = Fitting(
        config.data,
        config.groups,
        SpeechLoss(TokenLoss(kl_weight=config.kl_weight), config.loss),
        config.train,
        cached=frames_on_disk(model, config, config.groups, root=config.data.root, say=say),
        edit=nulled if config.arm == "null_text" else unedited,
    )
    return fit(model, config, how, run_dir=run_dir, say=say)


def training_mels(config: Spectron, voice: MelSpec) -> Iterator[Tensor]:
    """Yields the mels (F, M) of what the training data says: of up to `normalisation_rows` rows of each manifest."""
    for source in config.data.speech.values():
        manifest = Manifest(Path(config.data.root, source.manifest))
        for index in range(0, len(manifest), -(-len(manifest) // config.normalisation_rows)):
            if (part := manifest[index].spoken) is not None:
                yield spoken_mels(part, voice)


def null_text(row: Conversation, *, boundary: str | None = None) -> Conversation:
    """Returns the row with each word of a spoken answer's text replaced by the same one; what is heard stays.

    boundary: what parts the text that is said from the text before it; it stays, so that as much is said.
    """
    if row.spoken is None:
        return row

    def part(old: Part) -> Part:
        if isinstance(old, TextPart):
            return TextPart(boundary.join(map(_null, old.text.split(boundary))) if boundary else _null(old.text))
        marks = {MARKS: [[_NULL_WORD, start] for _, start in old.extra[MARKS]]} if MARKS in old.extra else {}
        said = None if old.transcript is None else _null(old.transcript)
        return replace(old, transcript=said, extra={**old.extra, **marks})

    *before, answer = row.messages
    return replace(row, messages=(*before, replace(answer, parts=tuple(map(part, answer.parts)))))


def _null(text: str) -> str:
    return " ".join(_NULL_WORD for _ in text.split())

"""VoiceTextBlender: one stage of joint speech-text fine-tuning, so that the LLM hears and forgets nothing.

    speech   asr · translation · spoken_qa · mixed_modal (· multi_turn)    loss on every answer
    text     the LLM's own kind of chat                                    the share that keeps its skill
             └────────── one blend, one stage ──────────┘

Trained: LoRA on the LLM, the adapter, the encoder (the preset's `groups` say which, and how fast). Frozen: the rest.
Arms: `joint`; `speech_only` (no text rows: forgets); `frozen_llm` (no LoRA: hears, but answers less well).
Source: arXiv 2410.17485; presets `tiny`, `faithful` (as published), `best` (ours), each difference with its reason.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field

from sonant.data.training_set import DataConfig
from sonant.models.build import build_speech_lm
from sonant.models.freeze import GroupConfig
from sonant.models.losses import TokenLoss
from sonant.recipes.fitting import Fitting, ModelSettings, fit
from sonant.recipes.staged import frames_on_disk
from sonant.train.trainer import TrainResult

Arm = Literal["joint", "speech_only", "frozen_llm"]


class VoiceTextBlender(ModelSettings):
    """Every choice of a run."""

    arm: Arm = "joint"
    data: DataConfig
    groups: dict[str, GroupConfig]
    kl_weight: float = Field(0.0, ge=0)  # on text rows, to the LLM with LoRA off


def main(config: VoiceTextBlender, run_dir: Path, *, say: Callable[[str], None]) -> TrainResult:
    """Trains one arm in `run_dir`; returns how the run ended. run_dir/model is the best by dev score, or the last.

    Raises: SonantError where settings, data or parts do not fit, before anything is trained.
    """
    torch.manual_seed(config.train.seed)
    config = in_arm(config)
    model = build_speech_lm(config.model)
    cached = frames_on_disk(model, config, config.groups, root=config.data.root, say=say)
    how = Fitting(config.data, config.groups, TokenLoss(kl_weight=config.kl_weight), config.train, cached=cached)
    return fit(model, config, how, run_dir=run_dir, say=say)


def in_arm(config: VoiceTextBlender) -> VoiceTextBlender:
    """Returns the settings with what the arm leaves out taken away."""
    if config.arm == "speech_only":
        plan = config.data.plan.model_copy(update={"mixing": "rows"})
        return config.model_copy(update={"data": config.data.model_copy(update={"text": {}, "plan": plan})})
    if config.arm == "frozen_llm":
        groups = {name: group for name, group in config.groups.items() if name != "lora"}
        return config.model_copy(update={"model": config.model.model_copy(update={"lora": None}), "groups": groups})
    return config

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

from sonant.audio.augment import AugmentConfig, Augmenter
from sonant.chat.tokenizer import ChatTokenizer
from sonant.config import Config
from sonant.data.training_set import DataConfig, Ears, make_stream
from sonant.evaluate.validation import validator
from sonant.generate.assistant import Assistant
from sonant.models.build import SpeechLMConfig, build_speech_lm
from sonant.models.checkpoint import copy_speech_lm, save_speech_lm
from sonant.models.freeze import FreezePlan, GroupConfig
from sonant.models.losses import TokenLoss
from sonant.models.parts import resolve_part
from sonant.train.distributed import leads
from sonant.train.trainer import TrainConfig, TrainResult, train

Arm = Literal["joint", "speech_only", "frozen_llm"]


class VoiceTextBlender(Config):
    """Every choice of a run."""

    arm: Arm = "joint"
    model: SpeechLMConfig
    tokenizer: str | None = None  # folder or hub id; None: the LLM's own
    data: DataConfig
    augment: AugmentConfig | None = None
    groups: dict[str, GroupConfig]
    kl_weight: float = Field(0.0, ge=0)  # on text rows, to the LLM with LoRA off
    save: Literal["trained", "all"] = "trained"  # "all" makes a folder that needs no other
    train: TrainConfig = TrainConfig()


def main(config: VoiceTextBlender, run_dir: Path, *, say: Callable[[str], None]) -> TrainResult:
    """Trains one arm in `run_dir`; returns how the run ended. run_dir/model is the best by dev score, or the last.

    Raises: SonantError where settings, data or parts do not fit, before anything is trained.
    """
    torch.manual_seed(config.train.seed)
    config = in_arm(config)
    tokenizer = ChatTokenizer.from_folder(resolve_part(config.tokenizer or str(config.model.llm.path)))
    model = build_speech_lm(config.model)
    plan = FreezePlan(config.groups)
    groups = plan.apply(model)
    for row in plan.table(model):
        start = f" from step {row.start_step}" if row.start_step else ""
        say(f"{row.group:<10} {row.parameters:>13,} parameters  lr {row.lr:g}{start}")

    augmenter = Augmenter(config.augment) if config.augment is not None else None
    ears = Ears(model.feature_specs, model.audio_tokens, augmenter)
    stream = make_stream(config.data, tokenizer, ears)
    shares = ", ".join(f"{name} {share:.1%}" for name, share in stream.shares().items())
    say(f"target tokens: {shares}; padding {stream.padding_share:.1%}")

    result = train(
        model,
        stream,
        loss=TokenLoss(kl_weight=config.kl_weight),
        config=config.train,
        groups=groups,
        run_dir=run_dir,
        validate=validator(config.data, Assistant(model, tokenizer)),
        save_model=lambda folder: save_speech_lm(model, tokenizer, folder, include=config.save),
    )
    if result.stopped is None and leads():
        copy_speech_lm(run_dir / ("last" if result.best_step is None else "best"), run_dir / "model")
    return result


def in_arm(config: VoiceTextBlender) -> VoiceTextBlender:
    """Returns the settings with what the arm leaves out taken away."""
    if config.arm == "speech_only":
        plan = config.data.plan.model_copy(update={"mixing": "rows"})
        return config.model_copy(update={"data": config.data.model_copy(update={"text": {}, "plan": plan})})
    if config.arm == "frozen_llm":
        groups = {name: group for name, group in config.groups.items() if name != "lora"}
        return config.model_copy(update={"model": config.model.model_copy(update={"lora": None}), "groups": groups})
    return config

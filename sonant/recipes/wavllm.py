"""WavLLM: two encoders listen, for what is said and for who says it and how; the LLM learns one task, then several.

    stage 1   one task a row: transcribe, translate, tell voices and manners apart, follow, answer, go on
              trained: adapter, layer weights of the second encoder, LoRA                        run_dir/stage1/model
    stage 2   half of the rows ask for several things at once
              trained: the same and a prompt adapter, which sets LoRA's strength                 run_dir/model
              from the written question

Stage 1 can be shared: `begin` names the model that stage 2 starts from. Arms are settings: `stage2.prompt_lora=null`
is plain LoRA (`stage2.more_rank` gives it as many parameters), `{form: fixed, scale: s}` one strength for all,
`stage2.groups.lora=null` leaves LoRA as stage 1 made it, `stage2=null` stops after one stage.
Source: arXiv 2404.00656; presets `faithful` (as published), `best` (ours, each difference with its reason), `tiny`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field

from sonant.errors import ConfigError
from sonant.models.build import add_prompt_lora, build_speech_lm
from sonant.models.checkpoint import copy_speech_lm, load_speech_lm
from sonant.models.lora_rank import widen_lora
from sonant.models.losses import TokenLoss
from sonant.models.prompt_lora import PromptLoraConfig
from sonant.models.speech_lm import SpeechLM
from sonant.recipes.fitting import Fitting, Groups, ModelSettings, fit
from sonant.recipes.staged import Stage, frames_on_disk
from sonant.train.distributed import leads
from sonant.train.trainer import TrainResult


class LMStage(Stage):
    """What a stage trains on; what of the model, at which rates; and what the model gets first."""

    groups: Groups
    kl_weight: float = Field(0.0, ge=0)  # on text rows, to the LLM with LoRA off
    prompt_lora: PromptLoraConfig | None = None
    more_rank: int = Field(0, ge=0)  # LoRA beside the LoRA there is


class WavLLM(ModelSettings):
    """Every choice of a run."""

    root: str = "."  # of all manifests
    loss_over: Literal["answer", "prompt_and_answer"] = "answer"  # whose tokens a step's loss is the mean over
    begin: str | None = None  # a model's folder: stage 1 is not run
    stage1: LMStage
    stage2: LMStage | None


def main(config: WavLLM, run_dir: Path, *, say: Callable[[str], None]) -> TrainResult:
    """Trains the stages in `run_dir`; returns how the last one ended. A finished stage is not run again.

    Raises: SonantError where settings, data or parts do not fit, before anything is trained.
    """
    if config.begin is not None and config.stage2 is None:
        raise ConfigError("begin is what stage 2 starts from, and stage2 is null: nothing would be trained; set one")
    torch.manual_seed(config.train.seed)
    model = build_speech_lm(config.model) if config.begin is None else load_speech_lm(config.begin)
    stages = {"stage1": config.stage1, "stage2": config.stage2}
    for name, stage in list(stages.items())[config.begin is not None :]:
        if stage is None:
            break
        result = learn(config, stage, extended(model, stage), run_dir=run_dir / name, say=say)
        if result.stopped is not None:
            return result
        model = load_speech_lm(run_dir / name / "model")
    if leads():
        copy_speech_lm(run_dir / ("stage2" if config.stage2 else "stage1") / "model", run_dir / "model")
    return result


def extended(model: SpeechLM, stage: LMStage) -> SpeechLM:
    """Returns the model with what the stage adds to it; at first, in the residual form, it says what it said before."""
    if stage.more_rank:
        widen_lora(model, stage.more_rank)
    if stage.prompt_lora is not None:
        add_prompt_lora(model, stage.prompt_lora)
    return model


def learn(config: WavLLM, stage: LMStage, model: SpeechLM, *, run_dir: Path, say: Callable[[str], None]) -> TrainResult:
    """Trains `model` through one stage; returns how it ended. run_dir/model is the best by dev score, or the last."""
    how = Fitting(
        data=stage.data_under(config.root),
        groups=stage.groups,
        loss=TokenLoss(kl_weight=stage.kl_weight, over=config.loss_over),
        train=stage.train_config(config.train),
        cached=frames_on_disk(model, config, stage.groups, root=config.root, say=say),
    )
    return fit(model, config, how, run_dir=run_dir, say=lambda text: say(f"{run_dir.name}: {text}"))

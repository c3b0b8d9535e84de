"""SpeechMapper on the tiny world: wall time, a step's cost at any depth of the LLM, both stages and their baselines."""

import json
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from bench.figure import RUNS, Figure, at_least, at_most, reported
from bench.quickstart import SEEDS, SONANT
from sonant.chat.tokenizer import ChatTokenizer
from sonant.cli.train import preset_path
from sonant.config import load_config
from sonant.data.frame_cache import FrameCache
from sonant.data.training_set import Ears, dev_batches
from sonant.evaluate.run import evaluate
from sonant.generate.assistant import Assistant
from sonant.generate.recognizer import CTCRecognizer
from sonant.models.build import build_speech_lm
from sonant.models.losses import TokenLoss
from sonant.models.mapping_losses import MappingLoss
from sonant.models.parts import resolve_part
from sonant.models.projector import build_projector, load_projector
from sonant.recipes.speechmapper import SpeechMapper
from sonant.train.cost import StepCost, step_cost

WORLD = RUNS / "mapper_world"
TRAIN = "{asr: 6000, translation: 0, spoken_qa: 0, mixed_modal: 0, multi_turn: 0, text_only: 0}"
DEPTHS = (2, 4, 8, 32)  # the tiny LLM has 4
PUBLISHED_SEEDS = (0,)  # it takes as long as three of ours
SCORES = (("translation", "bleu"), ("spoken_qa", "exact_match"), ("spoken_qa_heldout", "exact_match"), ("asr", "wer"))
ASR_ONLY = ("stage2.instructions=null", "stage2.loss={sigma: 0}", "stage2.metric=null")  # the published ASR CE


def measure() -> list[Figure]:
    if not (WORLD / "test/asr.jsonl").exists():
        subprocess.run([SONANT, "world", "make", str(WORLD), "--set", f"train={TRAIN}"], check=True)
    figures = _timed() + _depths()
    ours = {stage: [_scores(_trained("tiny", seed), stage) for seed in SEEDS] for stage in ("stage1", "stage2")}
    figures += _reached(ours)
    last = [_scores(_trained("tiny", seed), "stage2", "last") for seed in SEEDS]
    figures += _beside("ours, stage 2 whether better on dev or not", last)
    arms = {
        "ASR prompts alone in stage 2": (_again("asr", ASR_ONLY), "stage2"),
        "CTC head borrowed from the encoder": (_trained("tiny", 0, name="borrowed", settings=_ALONE), "stage1"),
    }
    for name, (folder, stage) in arms.items():
        figures += _beside(f"{name}, {stage}", [_scores(folder, stage)])
    published = [_trained("tiny_faithful", seed) for seed in PUBLISHED_SEEDS]
    for stage in ("stage1", "stage2"):
        figures += _beside(f"published method, one seed, {stage}", [_scores(folder, stage) for folder in published])
    return figures


_ALONE = ("borrow_ctc_head=true", "stage2=null")


def _trained(preset: str, seed: int, *, name: str = "", settings: Sequence[str] = ()) -> Path:
    """The folder of a finished run, running it if it is not there yet."""
    folder = RUNS / f"mapper_{name or preset}{seed}"
    if not (folder / "model").exists():
        common = [SONANT, "train", "speechmapper", preset, f"root={WORLD}", f"train.seed={seed}"]
        seeds = [f"{stage}.data.plan.seed={seed}" for stage in ("stage1", "stage2") if f"{stage}=null" not in settings]
        subprocess.run([*common, *seeds, *settings, "--out", str(folder), "--resume"], check=True)
    return folder


def _again(name: str, settings: Sequence[str]) -> Path:
    """The folder of seed 0 with another stage 2 on the same stage 1."""
    folder = RUNS / f"mapper_{name}0"
    if not (folder / "model").exists():
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(_trained("tiny", 0) / "stage1", folder / "stage1")
    return _trained("tiny", 0, name=name, settings=settings)


def _timed() -> list[Figure]:
    """Seed 0 from nothing: frames and stage 1, then stage 2 on top."""
    folder, frames = RUNS / "mapper_tiny0", WORLD / "frames"
    command = [SONANT, "train", "speechmapper", "tiny", f"root={WORLD}", "--out", str(folder)]
    if not (folder / "wall.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(frames, ignore_errors=True)
        started = time.perf_counter()
        subprocess.run([*command, "stage2=null"], check=True)
        first = time.perf_counter() - started
        shutil.rmtree(folder / "model")
        subprocess.run([*command, "--resume"], check=True)
        walls = {"stage 1": first, "stage 2": time.perf_counter() - started - first}
        (folder / "wall.json").write_text(json.dumps(walls))
    walls = json.loads((folder / "wall.json").read_text())
    return [
        at_most("frames of 6,000 clips and stage 1, wall", 3, [walls["stage 1"] / 60], "min"),
        reported("distilled rows and stage 2, wall", [walls["stage 2"] / 60], "min"),
    ]


def _depths() -> list[Figure]:
    """A step of stage 1, and the same rows through LLMs of several depths, all as wide as the tiny one."""
    costs = {depth: _costs(depth) for depth in DEPTHS}
    figures = []
    for unit, value in (("flops", lambda c: c.flops / 1e9), ("seconds", lambda c: 1e3 * c.seconds)):
        alone, looped = ([value(costs[depth][kind]) for depth in DEPTHS] for kind in ("alone", "looped"))
        ratios = [one / other for one, other in zip(alone, looped, strict=True)]
        what = "GFLOP" if unit == "flops" else "ms"
        figures.append(reported(f"stage 1, a step at LLM depths {DEPTHS}", alone, what))
        figures.append(reported("the same rows with the LLM in the loop", looped, what))
        figures.append(
            at_most(f"stage 1 / with the LLM in the loop, {what}, at LLM depths {DEPTHS}", 1 / 3, ratios, "")
        )
        if unit == "flops":  # seconds beside other work say less
            figures.append(at_most("stage 1, GFLOP at the deepest - at the shallowest", 0, [alone[-1] - alone[0]], ""))
    for kind in ("alone", "looped"):
        megabytes = [costs[depth][kind].memory_bytes / 1e6 for depth in DEPTHS]
        figures.append(reported(f"memory of a step, {kind}", megabytes, "MB"))
    return figures


def _costs(depth: int) -> dict[str, StepCost]:
    folder = RUNS / f"mapper_llm{depth}"
    if not (folder / "config.json").exists():
        settings = AutoConfig.from_pretrained(resolve_part("tiny/llm"))
        settings.num_hidden_layers = depth
        AutoModelForCausalLM.from_config(settings).save_pretrained(folder)
        ChatTokenizer.from_folder(resolve_part("tiny/llm")).save(folder)
    changes = [f"root={WORLD}", f"model.llm.path={folder}", "stage1.data.dev_rows=32"]
    config = load_config(SpeechMapper, [preset_path("speechmapper", "tiny")], overrides=changes)
    cache, tokenizer = FrameCache(WORLD / config.frames), ChatTokenizer.from_folder(folder)
    ears = Ears([cache.spec], lambda duration_s: 0, cached={cache.spec: cache})
    (batch,) = dev_batches(config.stage1.data_under(config.root), tokenizer, ears, edit=lambda row: row)
    projector, model = build_projector(config.model, spec=cache.spec, others={}), build_speech_lm(config.model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("adapter."))
    trained = _trained("tiny", 0) / "stage1/best"  # an untrained one would make the LLM read every frame
    load_projector(model, trained)
    cast("torch.nn.Module", projector.head("llm").adapter).load_state_dict(model.adapter.state_dict())
    torch.manual_seed(0)
    return {
        "alone": step_cost(projector, MappingLoss(config.stage1.loss), batch, repeats=5),
        "looped": step_cost(model, TokenLoss(), batch, repeats=5),
    }


def _scores(folder: Path, stage: str, model: str = "model") -> dict[str, Any]:
    """Task -> metric -> arm -> value, on the test split, measured once."""
    out = folder / stage / f"test_{model}"
    if not (out / "results.json").exists():
        assistant = Assistant.from_folder(folder / stage / model)
        rows = [WORLD / f"test/{task}.jsonl" for task, _ in SCORES]
        evaluate(assistant, rows, out, recognizer=CTCRecognizer.from_parts())
    results = json.loads((out / "results.json").read_text())
    return {
        task: {name: {arm: score["value"] for arm, score in arms.items()} for name, arms in result["metrics"].items()}
        for task, result in results.items()
    }


def _reached(ours: Mapping[str, Sequence[dict[str, Any]]]) -> list[Figure]:
    def values(stage: str, task: str, metric: str, arm: str = "system") -> list[float]:
        return [run[task][metric][arm] for run in ours[stage]]

    figures = [
        at_least("stage 1 alone, LLM never run: translation BLEU", 90, values("stage1", "translation", "bleu"), ""),
        at_least("stage 1 alone: spoken QA", 90, values("stage1", "spoken_qa", "exact_match"), "%"),
    ]
    for task, metric in (("translation", "bleu"), ("spoken_qa", "exact_match"), ("translation", "right_language")):
        pairs = zip(values("stage2", task, metric), values("stage1", task, metric), strict=True)
        change = [after - before for after, before in pairs]
        figures.append(at_least(f"stage 2, distilled, minus stage 1: {task} {metric}", 0, change, "points"))
    for stage in ours:
        figures += _beside(f"ours, {stage}", ours[stage])
    for arm in ("cascade", "text_oracle"):
        figures += [
            reported(f"{arm}: {task} {metric}", values("stage1", task, metric, arm)[:1], "") for task, metric in SCORES
        ]
    return figures


def _beside(name: str, runs: Sequence[dict[str, Any]]) -> list[Figure]:
    shown = (*SCORES, ("translation", "right_language"))
    return [
        reported(f"{name}: {task} {metric}", [run[task][metric]["system"] for run in runs], "")
        for task, metric in shown
    ]

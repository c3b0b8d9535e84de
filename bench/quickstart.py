"""The quick start: its wall time and memory, its scores over three seeds, and the arm that forgets."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.figure import RUNS, Figure, at_least, at_most, reported

SEEDS = (0, 1, 2)
FAST = ("groups.lora.lr=2e-3", "groups.adapter.lr=1e-3")
SONANT = str(Path(sys.executable).with_name("sonant"))


def measure() -> list[Figure]:
    cost = _timed(RUNS / "timed")
    runs = [_results(trained(RUNS / f"seed{seed}", seed=seed)) for seed in SEEDS]
    return [*cost, *_scores(runs), *_forgetting(runs), *_forgetting_fast()]


def trained(folder: Path, *, seed: int = 0, arm: str = "joint", settings: Sequence[str] = ()) -> Path:
    """Returns the folder of a finished quick start, running it if it is not there yet."""
    if not (folder / "results.json").exists():
        changes = [word for setting in settings for word in ("--set", setting)]
        command = [SONANT, "quickstart", "--out", str(folder), "--seed", str(seed), "--arm", arm, *changes]
        subprocess.run(command, check=True)
    return folder


def _results(folder: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return results


def _timed(folder: Path) -> list[Figure]:
    shutil.rmtree(folder, ignore_errors=True)
    started = time.perf_counter()
    process = subprocess.Popen([SONANT, "quickstart", "--out", str(folder)])
    _, status, usage = os.wait4(process.pid, 0)
    minutes = (time.perf_counter() - started) / 60
    if status:
        return [Figure("make quickstart after set-up", "≤ 10 min", f"failed, status {status}", False)]
    return [
        at_most("make quickstart after set-up, wall", 10, [minutes], "min"),
        at_most("the same, peak memory of its largest process", 4, [usage.ru_maxrss / 2**20], "GB"),
    ]


def _scores(runs: list[dict[str, Any]]) -> list[Figure]:
    def values(task: str, arm: str = "system") -> list[float]:
        return [run[task]["metrics"][run[task]["headline"]][arm]["value"] for run in runs]

    figures = [
        at_most("ASR WER, in-grammar sentences, voices never trained on", 4, values("asr"), "%"),
        at_least("translation exact match", 93, values("translation"), "%"),
        at_least("spoken QA, known entities", 95, values("spoken_qa"), "%"),
        at_least("spoken QA, entities held out of speech training", 81, values("spoken_qa_heldout"), "%"),
        at_least("mixed-modal", 93, values("mixed_modal"), "%"),
        at_least("multi-turn with audio in turns 1 to 3", 93, values("multi_turn"), "%"),
    ]
    for task, run in runs[0].items():
        if run["has_audio"]:
            figures.append(reported(f"{task}: cascade", values(task, "cascade"), "%"))
            figures.append(reported(f"{task}: text oracle", values(task, "text_oracle"), "%"))
    held_out = list(zip(values("spoken_qa_heldout"), values("spoken_qa_heldout", "cascade"), strict=True))
    margin = [ours - cascade for ours, cascade in held_out]
    return [*figures, at_least("held-out spoken QA minus cascade", 0, margin, "points")]


def _forgetting(runs: list[dict[str, Any]]) -> list[Figure]:
    alone = _results(trained(RUNS / "speech_only", arm="speech_only"))
    figures = []
    for task in _text_tasks(runs[0]):
        figures.append(
            at_least(f"{task}: after minus before, joint", -0.5, [_change(run, task) for run in runs], "points")
        )
        figures.append(reported(f"{task}: after minus before, speech_only", [_change(alone, task)], "points"))
    return figures


def _forgetting_fast() -> list[Figure]:
    """The arms at rates as they are common: what joint training is for shows there."""
    arms = ("joint", "speech_only")
    runs = {arm: _results(trained(RUNS / f"{arm}_fast", arm=arm, settings=FAST)) for arm in arms}
    return [
        reported(f"{task}: after minus before, {arm}, at {', '.join(FAST)}", [_change(runs[arm], task)], "points")
        for task in _text_tasks(runs["joint"])
        for arm in arms
    ]


def _text_tasks(run: dict[str, Any]) -> list[str]:
    return [task for task, result in run.items() if not result["has_audio"]]


def _change(run: dict[str, Any], task: str) -> float:
    return float(run[task]["differences"]["after minus before"]["value"])

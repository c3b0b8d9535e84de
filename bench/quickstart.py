"""The quick start: its wall time and memory, its scores over three seeds, and the arm that forgets."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.figure import RUNS, Figure, at_least, at_most, reported

SEEDS = (0, 1, 2)
SONANT = str(Path(sys.executable).with_name("sonant"))


def measure() -> list[Figure]:
    cost = _timed(RUNS / "timed")
    runs = [json.loads((trained(RUNS / f"seed{seed}", seed=seed) / "results.json").read_text()) for seed in SEEDS]
    alone = json.loads((trained(RUNS / "speech_only", arm="speech_only") / "results.json").read_text())
    return [*cost, *_scores(runs), *_forgetting(runs, alone)]


def trained(folder: Path, *, seed: int = 0, arm: str = "joint") -> Path:
    """Returns the folder of a finished quick start, running it if it is not there yet."""
    if not (folder / "results.json").exists():
        subprocess.run([SONANT, "quickstart", "--out", str(folder), "--seed", str(seed), "--arm", arm], check=True)
    return folder


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


def _forgetting(runs: list[dict[str, Any]], alone: dict[str, Any]) -> list[Figure]:
    figures = []
    for task, result in runs[0].items():
        if result["has_audio"]:
            continue
        changes = [run[task]["differences"]["after minus before"]["value"] for run in runs]
        figures.append(at_least(f"{task}: after minus before, joint", -0.5, changes, "points"))
        lost = alone[task]["differences"]["after minus before"]["value"]
        figures.append(reported(f"{task}: after minus before, speech_only", [lost], "points"))
    return figures

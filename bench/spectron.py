"""Spectron on the tiny world: the preset `tiny` beside the published form and ablations, by two listeners.

Runs that are there are measured, and what is missing is said. BENCH_TRAIN=1 makes the worlds (eight voices, and one)
and trains what is missing, one after the other. Test rows; scores are those of `sonant evaluate --suite tiny_spectron`.
`best0` and `one_voice0` are what the figures are asked of. The others stand beside `short0`: a quarter of the steps.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from bench.figure import RUNS, Figure, at_least, at_most, reported
from bench.quickstart import SONANT
from bench.resume import finish, steps_of
from bench.speaking_aloud import speeds
from bench.wrong_transcript import propagation
from sonant.data.manifest import Manifest
from sonant.evaluate.suite import SHIPPED as SUITES
from sonant.generate.assistant import Assistant

FOLDER = RUNS / "spectron"
WORLDS: Mapping[str, Sequence[str]] = {"world": (), "one_voice": ("num_voices=1",)}  # and what makes each differ
# Each run: its world, and what differs from the preset `tiny`.
SHORT = "train.steps=1000"
ARMS: Mapping[str, tuple[str, Sequence[str]]] = {
    "best0": ("world", ()),
    "one_voice0": ("one_voice", ()),
    "short0": ("world", (SHORT,)),
    "faithful0": ("world", ("tiny_faithful", SHORT)),
    "regression0": ("world", (SHORT, "model.speech_head.arm=regression", "model.speech_head.around_mean=false")),
    "no_pointer0": ("world", (SHORT, "model.speech_head.pointer=false", "model.speech_head.stop=true")),
    "no_llm_states0": ("world", (SHORT, "model.speech_head.llm_states=none")),
    "null_text0": ("world", (SHORT, "arm=null_text")),
}
SPOKEN = ("spoken_qa", "continuation_bounded", "read_aloud")
LIMIT = 60  # rows of each set, of runs of which no figure is asked
MOST_POINTS = {"best0": 6.0, "one_voice0": 3.0}  # of WER above real speech, by the same listener
LISTENER = "tiny/encoder"


def measure() -> list[Figure]:
    if os.environ.get("BENCH_TRAIN"):
        train()
    figures = []
    for name, (world, _) in ARMS.items():
        if not (FOLDER / name / "model" / "checksums.json").exists():
            figures.append(Figure(f"{name}: finished run", "yes", "no; BENCH_TRAIN=1 trains it", False))
            continue
        found = _evaluated(name, FOLDER / world)
        figures += _cost(name) + [each for task in SPOKEN for each in _speech(name, task, found[task])]
        figures += _text(name, found)
        if name == "best0":
            rows = [row.prompt() for row in Manifest(FOLDER / world / "test" / "spoken_qa.jsonl")][:41]
            assistant = Assistant.from_folder(FOLDER / name / "model", vocoder="tiny/vocoder")
            figures += speeds(assistant, rows, name=name)
            begun = list(Manifest(FOLDER / world / "test" / "continuation_bounded.jsonl"))
            figures += propagation(assistant, begun, name=name)
    return figures


def train() -> None:
    """Makes the worlds, and every run that is not there."""
    for world, settings in WORLDS.items():
        sets = [part for setting in settings for part in ("--set", setting)]
        finish([SONANT, "world", "make", str(FOLDER / world), "--for", "spectron", *sets])
    for name, (world, settings) in ARMS.items():
        if not (FOLDER / name / "model" / "checksums.json").exists():
            command = [SONANT, "train", "spectron", "tiny", *settings, f"data.root={FOLDER / world}"]
            _finish_measured([*command, "--out", str(FOLDER / name), "--resume"], FOLDER / name)


def _finish_measured(command: Sequence[str], run_dir: Path) -> None:
    """Runs a training from the tiny parts to its end; what it took stands in run_dir/cost.json."""
    began = time.perf_counter()
    _, status, used = os.wait4(subprocess.Popen(command).pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed")
    cost = {"wall_min": (time.perf_counter() - began) / 60, "peak_gb": used.ru_maxrss * 1024 / 1e9}
    (run_dir / "cost.json").write_text(json.dumps(cost))


def _evaluated(name: str, world: Path) -> dict[str, Any]:
    """Set -> its results; asked once."""
    out = FOLDER / name / "results"
    if not (out / "results.json").exists():
        asked = name in MOST_POINTS
        suite = ("tiny_spectron",) if asked else (str(_short_suite()), "--limit", str(LIMIT))
        command = [SONANT, "evaluate", str(FOLDER / name / "model"), "--root", str(world), "--out", str(out)]
        finish([*command, "--suite", *suite])
    results = json.loads((out / "results.json").read_text())
    return {task.partition("/")[2]: result for task, result in results.items()}


def _short_suite() -> Path:
    """What is compared between arms: the sets that are spoken."""
    whole = yaml.safe_load((SUITES / "tiny_spectron.yaml").read_text())
    sets = {task: {**whole["sets"][task], "baselines": False} for task in SPOKEN}
    path = FOLDER / "arms.yaml"
    path.write_text(yaml.safe_dump({**whole, "sets": sets}))
    return path


def _cost(name: str) -> list[Figure]:
    """What training took, with the frames of the encoders if they were not there."""
    steps = steps_of(FOLDER / name)
    minutes = sum(line["seconds"] for line in steps.values()) / 60
    figures = [reported(f"{name}: steps", [max(steps)], ""), reported(f"{name}: wall of all steps", [minutes], "min")]
    if name == "best0" and (file := FOLDER / name / "cost.json").exists():
        cost = json.loads(file.read_text())
        figures.append(at_most(f"{name}: training from the tiny parts, wall", 25, [cost["wall_min"]], "min"))
        figures.append(at_most(f"{name}: peak memory of training", 6, [cost["peak_gb"]], "GB"))
    return figures


def _speech(name: str, task: str, result: Mapping[str, Any]) -> list[Figure]:
    """What is asked is asked of the arms that it was asked of; the others stand beside them."""
    speech, what = result["speech"], f"{name}, {task}"
    asked = name in MOST_POINTS
    figures = []
    # How a sentence goes on is free: what is said is measured against what was written, not against the recording.
    for listener, arms in speech["wer_of_written" if task.startswith("continuation") else "wer"].items():
        minus, spoken = arms.get("spoken minus real"), [arms["spoken"]["value"]]
        if asked and minus and LISTENER in listener:
            limit = MOST_POINTS[name]
            figures.append(at_most(f"{what}: WER minus that of real speech, {listener}", limit, [minus["value"]], ""))
        figures.append(reported(f"{what}: WER, {listener}", spoken, "%"))
        agreed = [speech["agreement"][listener]["spoken"]["value"]]
        if asked and LISTENER in listener:
            figures.append(at_least(f"{what}: agrees with what is written, {listener}", 90, agreed, "%"))
        else:
            figures.append(reported(f"{what}: agrees with what is written, {listener}", agreed, "%"))
    ratio, stop = ([speech[metric][""]["spoken"]["value"]] for metric in ("movement_ratio", "stop"))
    if asked:
        figures.append(Figure(f"{what}: movement ratio", "0.90-1.10", f"{ratio[0]:.3f}", 0.9 <= ratio[0] <= 1.1))
        figures.append(at_least(f"{what}: stops by itself within 0.5 s", 98, stop, "%"))
    else:
        figures += [reported(f"{what}: movement ratio", ratio, ""), reported(f"{what}: stops", stop, "%")]
    for encoder, arms in speech.get("own_voice", {}).items():
        own = [arms["spoken"]["value"]]
        figures.append(
            at_least(f"{what}: own voice, {encoder}", 90, own, "%")
            if asked
            else reported(f"{what}: own voice, {encoder}", own, "%")
        )
    return figures


def _text(name: str, found: Mapping[str, Any]) -> list[Figure]:
    """What is written: known entities, and what training costs the LLM in text."""
    what, right = (
        f"{name}: spoken QA as written, known entities",
        found["spoken_qa"]["metrics"]["exact_match"]["system"],
    )
    if name not in MOST_POINTS:
        return [reported(what, [right["value"]], "%")]
    figures = [at_least(what, 90, [right["value"]], "%")]
    for task, result in found.items():
        change = result.get("differences", {}).get("after minus before")
        if task.startswith("text") and change:
            figures.append(at_least(f"{name}: {task}, text after minus before", -0.5, [change["value"]], "points"))
    return figures

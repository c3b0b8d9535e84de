"""One HTML file that shows one or several runs: scores beside the cascade, forgetting, losses, the realised mix."""

import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from sonant import __version__
from sonant.errors import EvaluationError
from sonant.evaluate.metrics.score import RESAMPLES

Json = dict[str, Any]
NUM_SAMPLES = 8


@dataclass(frozen=True)
class Run:
    """What a run folder holds: any of results.json, items.jsonl, log.jsonl and report_notes.txt."""

    name: str
    results: Json  # task -> see TaskResult.to_json
    items: list[Json]
    log: list[Json]  # one line a step
    notes: list[str]


def read_run(folder: str | os.PathLike[str]) -> Run:
    """Returns the run in `folder`. Raises: EvaluationError if it holds neither results nor a log, or a cut file."""
    path = Path(folder)
    results_path = path / "results.json"
    results = _parse(results_path.read_text(), results_path) if results_path.exists() else {}
    log = [line for line in _read_lines(path / "log.jsonl") if "loss" in line]
    if not results and not log:
        raise EvaluationError(f"{path}: neither results.json nor log.jsonl; give the folder of a run")
    notes = path / "report_notes.txt"
    return Run(
        name=path.resolve().name,
        results=results,
        items=_read_lines(path / "items.jsonl"),
        log=log,
        notes=notes.read_text().splitlines() if notes.exists() else [],
    )


def write_report(folders: Sequence[str | os.PathLike[str]], *, out: str | os.PathLike[str]) -> Path:
    """Returns the path of the report written about the runs in `folders`: self-contained, no script, no network."""
    runs = [read_run(folder) for folder in folders]
    template = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(
        resources.files("sonant.evaluate").joinpath("report.html").read_text()
    )
    html = template.render(
        title="Sonant: " + ", ".join(run.name for run in runs),
        notes=dict.fromkeys(note for run in runs for note in run.notes),
        runs=[_tables(run) for run in runs],
        figures=[(caption, svg) for caption, draw in FIGURES.items() if (svg := _svg(draw, runs))],
        resamples=RESAMPLES,
        version=__version__,
    )
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, encoding="utf-8")
    return path


def _read_lines(path: Path) -> list[Json]:
    return [_parse(line, path) for line in path.read_text().splitlines()] if path.exists() else []


def _parse(text: str, path: Path) -> Json:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise EvaluationError(f"{path}: not JSON ({error}); evaluate or train again") from None
    if not isinstance(values, dict):
        raise EvaluationError(f"{path}: holds a {type(values).__name__} where an object should be; evaluate again")
    return values


def _tables(run: Run) -> Json:
    heard: list[Json] = []
    text: list[Json] = []
    for task, result in run.results.items():
        arms = ("system", "cascade", "text_oracle") if result["has_audio"] else ("before", "after")
        for metric, scores in result["metrics"].items():
            row = {"task": task, "n": result["n"], "metric": metric, "cells": [_shown(scores.get(a)) for a in arms]}
            row |= {"difference": "", "verdict": ""}
            if metric == result["headline"]:
                name = "system minus cascade" if result["has_audio"] else "after minus before"
                row |= _difference(result["differences"].get(name), result["higher_is_better"])
            (heard if result["has_audio"] else text).append(row)
    samples: dict[str, list[Json]] = {}
    for item in run.items:
        samples.setdefault(item["task"], [])
        if len(samples[item["task"]]) < NUM_SAMPLES:
            samples[item["task"]].append({k: v for k, v in item.items() if k != "task"})
    return {"name": run.name, "heard": heard, "text": text, "samples": samples}


def _shown(score: Json | None) -> str:
    return f"{score['value']:.1f} [{score['low']:.1f}, {score['high']:.1f}]" if score else "–"


def _difference(score: Json | None, higher_is_better: bool) -> Json:
    if score is None:
        return {}
    better, worse = (score["low"] > 0, score["high"] < 0) if higher_is_better else (score["high"] < 0, score["low"] > 0)
    shown = f"{score['value']:+.1f} [{score['low']:+.1f}, {score['high']:+.1f}]"
    return {"difference": shown, "verdict": "good" if better else "bad" if worse else ""}


def _svg(draw: Callable[[Any, Sequence[Run]], bool], runs: Sequence[Run]) -> str:
    """The picture as SVG text, or "" where the runs hold nothing to draw."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise EvaluationError("the report draws with matplotlib: pip install 'sonant[eval]'") from None
    buffer = io.StringIO()
    # A dollar sign in a name is no formula; and the same runs make the same bytes.
    with matplotlib.rc_context({"text.parse_math": False, "svg.hashsalt": "sonant"}):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        if not draw(figure, runs):
            return ""
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]


def _draw_losses(figure: Any, runs: Sequence[Run]) -> bool:
    drawn = [run for run in runs if run.log]
    for axes, run in zip(figure.subplots(1, max(1, len(drawn)), squeeze=False)[0], drawn, strict=False):
        tasks = sorted({task for line in run.log for task in line["task_loss"]})
        for task in tasks:
            known = [line for line in run.log if line["task_loss"].get(task) is not None]  # None: it was not finite
            losses = _smoothed([line["task_loss"][task] for line in known])
            axes.plot([line["step"] for line in known], losses, label=task, linewidth=1.2)
        axes.set(title=run.name, xlabel="step", ylabel="nats per target token", yscale="log")
        axes.legend(fontsize=7)
    return bool(drawn)


def _draw_scores(figure: Any, runs: Sequence[Run]) -> bool:
    drawn = [run for run in runs if any(r["has_audio"] for r in run.results.values())]
    for axes, run in zip(figure.subplots(1, max(1, len(drawn)), squeeze=False)[0], drawn, strict=False):
        heard = {task: r for task, r in run.results.items() if r["has_audio"]}
        for offset, arm in enumerate(("system", "cascade", "text_oracle")):
            scores = [r["metrics"][r["headline"]].get(arm) for r in heard.values()]
            places = [i + (offset - 1) * 0.27 for i, s in enumerate(scores) if s]
            present = [s for s in scores if s]
            errors = [[s["value"] - s["low"] for s in present], [s["high"] - s["value"] for s in present]]
            axes.bar(places, [s["value"] for s in present], 0.25, yerr=errors, label=arm.replace("_", " "), capsize=2)
        names = [f"{t}\n{r['headline']}" for t, r in heard.items()]
        axes.set_xticks(range(len(names)), names, fontsize=6, rotation=20)
        axes.set(title=run.name, ylabel="percent")
        axes.legend(fontsize=7)
    return bool(drawn)


def _draw_forgetting(figure: Any, runs: Sequence[Run]) -> bool:
    axes = figure.subplots()
    lost = {
        run.name: {t: r["differences"].get("after minus before") for t, r in run.results.items() if not r["has_audio"]}
        for run in runs
    }
    tasks = sorted({task for changes in lost.values() for task, change in changes.items() if change})
    for offset, (name, changes) in enumerate(lost.items()):
        known = [(i, changes[task]) for i, task in enumerate(tasks) if changes.get(task)]
        places = [i + 0.8 * (offset + 0.5) / len(lost) - 0.4 for i, _ in known]
        values = [c["value"] for _, c in known]
        errors = [[c["value"] - c["low"] for _, c in known], [c["high"] - c["value"] for _, c in known]]
        axes.bar(places, values, 0.7 / len(lost), yerr=errors, label=name, capsize=2)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(tasks)), tasks, fontsize=7)
    axes.set(ylabel="points, after - before")
    axes.legend(fontsize=7)
    return bool(tasks)


def _draw_mix(figure: Any, runs: Sequence[Run]) -> bool:
    axes = figure.subplots()
    drawn = [run for run in runs if run.log and run.log[-1].get("shares")]
    for run in drawn:
        left = 0.0
        for name, share in sorted(run.log[-1]["shares"].items()):
            axes.barh([run.name], [share], left=left, edgecolor="white")
            axes.text(left + share / 2, run.name, f"{name}\n{share:.0%}", ha="center", va="center", fontsize=7)
            left += share
    axes.set(xlim=(0, 1), xlabel="share of target tokens")
    return bool(drawn)


def _smoothed(values: Sequence[float], weight: float = 0.9) -> list[float]:
    """Exponential moving average, so that noisy steps can be read."""
    smooth, current = [], values[0] if values else 0.0
    for value in values:
        current = weight * current + (1 - weight) * value
        smooth.append(current)
    return smooth


FIGURES: dict[str, Callable[[Any, Sequence[Run]], bool]] = {
    "Headline score of each task: the model that hears, the cascade, the same LLM reading the true text.": _draw_scores,
    "Text skill after training minus before: zero means nothing was forgotten.": _draw_forgetting,
    "Loss per task (smoothed).": _draw_losses,
    "Realised mix of the training data.": _draw_mix,
}

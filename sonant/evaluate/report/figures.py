"""The pictures of a report: scores beside the cascade, forgetting, wordings, re-voicing, losses, the realised mix."""

import io
import math
from collections.abc import Callable, Sequence
from typing import Any

from sonant.errors import EvaluationError
from sonant.evaluate.run_folder import Run

ARMS = {"system": "-", "cascade": "--", "text_oracle": ":"}  # and how their lines are drawn


def figures(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Returns (caption, SVG) of every picture that the runs hold something for. Raises: EvaluationError."""
    return [(caption, svg) for caption, draw in FIGURES.items() if (svg := _svg(draw, runs))]


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


def _panels(figure: Any, num: int) -> list[Any]:
    """One place to draw for each run, three in a line."""
    lines = max(1, math.ceil(num / 3))
    figure.set_size_inches(9, 3.6 * lines)
    places = list(figure.subplots(lines, max(1, min(3, num)), squeeze=False).flat)
    for empty in places[num:]:
        empty.remove()
    return places[:num]


def _draw_losses(figure: Any, runs: Sequence[Run]) -> bool:
    drawn = [run for run in runs if run.log]
    for axes, run in zip(_panels(figure, len(drawn)), drawn, strict=True):
        tasks = sorted({task for line in run.log for task in line["task_loss"]})
        for task in tasks:
            known = [line for line in run.log if line["task_loss"].get(task) is not None]  # None: it was not finite
            losses = _smoothed([line["task_loss"][task] for line in known])
            axes.plot([line["step"] for line in known], losses, label=task, linewidth=1.2)
        axes.set(title=run.name, xlabel="step", ylabel="nats per target token", yscale="log")
        axes.yaxis.set_major_formatter("{x:g}")  # its own one would write formulas
        axes.legend(fontsize=7)
    return bool(drawn)


def _draw_scores(figure: Any, runs: Sequence[Run]) -> bool:
    drawn = [run for run in runs if any(r["has_audio"] for r in run.results.values())]
    for axes, run in zip(_panels(figure, len(drawn)), drawn, strict=True):
        heard = {task: r for task, r in run.results.items() if r["has_audio"]}
        for offset, arm in enumerate(ARMS):
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
            label = f"{name} {share:.0%}" if share > 0.02 else ""
            axes.text(left + share / 2, run.name, label, ha="center", va="center", fontsize=7, rotation=90)
            left += share
    axes.set(xlim=(0, 1), xlabel="share of target tokens")
    return bool(drawn)


SILENT = {"system": "after", "cascade": "before", "text_oracle": "before"}  # what an arm is where nothing is spoken


def _draw_revoicing(figure: Any, runs: Sequence[Run]) -> bool:
    benchmarks = sorted({r["series"]["of"] for run in runs for r in run.results.values() if r.get("series")})
    if not benchmarks:
        return False
    for axes, benchmark in zip(figure.subplots(1, len(benchmarks), squeeze=False)[0], benchmarks, strict=True):
        for number, run in enumerate(runs):
            voiced = [r for r in run.results.values() if (r.get("series") or {}).get("of") == benchmark]
            for arm, line in ARMS.items():
                points = sorted(point for result in voiced if (point := _at_share(result, arm)))
                if points:
                    shares, values, down, up = zip(*points, strict=True)
                    style = {"color": f"C{number}", "linestyle": line, "marker": ".", "capsize": 2}
                    axes.errorbar(shares, values, (down, up), label=f"{run.name}: {arm.replace('_', ' ')}", **style)
                    axes.set(ylabel=voiced[0]["headline"])
        axes.set(title=benchmark, xlabel="percent of sentences spoken", xticks=(0, 25, 50, 75, 100))
        axes.legend(fontsize=7)
    return True


def _at_share(result: Any, arm: str) -> tuple[float, float, float, float] | None:
    """(percent spoken, score, how far down and up the interval reaches)."""
    score = result["metrics"][result["headline"]].get(arm if result["has_audio"] else SILENT[arm])
    if score is None:
        return None
    value = score["value"]
    return result["series"]["share"], value, value - score["low"], score["high"] - value


def _draw_wordings(figure: Any, runs: Sequence[Run]) -> bool:
    tasks = sorted({task for run in runs for task, result in run.results.items() if result.get("paraphrases")})
    if not tasks:
        return False
    axes = figure.subplots()
    for number, run in enumerate(runs):
        for split, marker, label in (("test", "o", "held out"), ("train", "x", "seen")):
            points = [(i, score["value"]) for i, task in enumerate(tasks) for score in _by_wording(run, task, split)]
            shift = 0.6 * (number + 0.5) / len(runs) - 0.3 + (0.08 if split == "train" else 0.0)
            places, values = [i + shift for i, _ in points], [value for _, value in points]
            axes.plot(places, values, marker, color=f"C{number}", alpha=0.7, label=f"{run.name}: {label}")
    axes.set_xticks(range(len(tasks)), tasks, fontsize=7)
    axes.set(ylabel="headline score", xlim=(-0.5, len(tasks) - 0.5))
    axes.legend(fontsize=7)
    return True


def _by_wording(run: Run, task: str, split: str) -> Sequence[Any]:
    """The headline score of the model in each wording of a split."""
    result = run.results.get(task, {})
    found = (result.get("paraphrases") or {}).get(split)
    arm = "system" if result.get("has_audio") else "after"
    return found["scores"][result["headline"]].get(arm, ()) if found else ()


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
    "A text benchmark, read aloud in part: the fall from left to right is what hearing costs.": _draw_revoicing,
    "Each dot is one wording of the instruction; held-out ones were never trained on.": _draw_wordings,
    "Loss per task (smoothed).": _draw_losses,
    "Realised mix of the training data.": _draw_mix,
}

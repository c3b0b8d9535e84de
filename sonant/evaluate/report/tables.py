"""The tables of a report: what results.json holds, as text for cells."""

from sonant.evaluate.metrics.degeneration import Degeneration
from sonant.evaluate.run_folder import Json, Run

NUM_SAMPLES = 8
HEARD, TEXT = ("system", "cascade", "text_oracle"), ("before", "after")
BASELINES = ("system", "no_audio", "transcript", "cascade", "text_oracle")


def tables(run: Run) -> Json:
    """Returns the tables of a run by name, ready for the page: cells are text."""
    heard: list[Json] = []
    text: list[Json] = []
    for task, result in run.results.items():
        arms = HEARD if result["has_audio"] else TEXT
        for metric, scores in result["metrics"].items():
            row = {"task": task, "n": result["n"], "metric": metric, "cells": [_shown(scores.get(a)) for a in arms]}
            row |= {"difference": "", "verdict": ""}
            if metric == result["headline"]:
                name = "system minus cascade" if result["has_audio"] else "after minus before"
                row |= _difference(result["differences"].get(name), result["higher_is_better"])
            (heard if result["has_audio"] else text).append(row)
    samples = {
        task: [{key: item[key] for key in ("id", "reference", *HEARD, *TEXT) if key in item} for item in items]
        for task in run.results
        if (items := run.items_of(task)[:NUM_SAMPLES])
    }
    scores = {"heard": heard, "text": text, "wordings": _wordings(run), "judged": _judged(run)}
    details = {"baselines": _baselines(run), "parts": _parts(run), "forms": _forms(run)}
    details |= {"confusions": _confusions(run), "degeneration": _degeneration(run)}
    return {"name": run.name, **scores, **details, "samples": samples}


def _judged(run: Run) -> list[str]:
    """How many verdicts stand behind each judged score, one line each; failures are never hidden in it."""
    return [
        f"{' · '.join(filter(None, (task, wording, arm)))}: {found['num_judged']} judged, {found['num_failed']} failed"
        + "".join(f"; {count} x {reason}" for reason, count in found["failures"].items())
        + ("" if found["score"] else f"; no score, as more than {found['max_failed_share']:.0%} failed")
        for task, result in run.results.items()
        for wording, arms in result.get("judged", {}).items()
        for arm, found in arms.items()
    ]


def _wordings(run: Run) -> list[Json]:
    """Rows of the table on prompt banks: what the model loses when it is asked in other words."""
    rows = []
    for task, result in run.results.items():
        if found := result.get("paraphrases"):
            arm, metric = "system" if result["has_audio"] else "after", result["headline"]
            test, train = found["test"], found.get("train")
            down = test.get("worst_minus_mean")  # runs of an older Sonant have none
            cells = [test["mean"], test["worst"], down, train and train["mean"], found["seen_minus_unseen"]]
            shown = [_shown((cell or {}).get(metric, {}).get(arm)) for cell in cells]
            rows.append({"task": task, "metric": metric, "num": len(test["wordings"]), "cells": shown})
    return rows


def _shown(score: Json | None) -> str:
    return f"{score['value']:.1f} [{score['low']:.1f}, {score['high']:.1f}]" if score else "–"


def _difference(score: Json | None, higher_is_better: bool) -> Json:
    if score is None:
        return {}
    better, worse = (score["low"] > 0, score["high"] < 0) if higher_is_better else (score["high"] < 0, score["low"] > 0)
    shown = f"{score['value']:+.1f} [{score['low']:+.1f}, {score['high']:+.1f}]"
    return {"difference": shown, "verdict": "good" if better else "bad" if worse else ""}


def _baselines(run: Run) -> list[Json]:
    """What the model makes of the question alone, and of the transcript alone, beside what it hears."""
    return [
        {"task": task, "metric": metric, "cells": [_shown(scores.get(arm)) for arm in BASELINES]}
        for task, result in run.results.items()
        for metric, scores in result["metrics"].items()
        if "no_audio" in scores
    ]


def _parts(run: Run) -> list[Json]:
    """Followed and right by kind of instruction, every arm."""
    return [
        {
            "task": task,
            "kind": kind,
            "arm": arm,
            "n": share["n"],
            "cells": [_percent(share[k]) for k in ("followed", "right")],
        }
        for task, result in run.results.items()
        for kind, arms in result.get("parts", {}).items()
        for arm, share in arms.items()
    ]


def _forms(run: Run) -> list[Json]:
    return [
        {"task": task, "metric": metric, "arm": arm, "n": found["num_pairs"]}
        | {"cells": [_shown(found[name]) for name in ("chain_of_thought", "direct", "change")]}
        for task, result in run.results.items()
        for metric, arms in result.get("forms", {}).items()
        for arm, found in arms.items()
    ]


def _confusions(run: Run) -> list[Json]:
    """One table a set: a line for each right label, a column for each that the model named."""
    return [
        {"task": task, "arm": arm, "labels": list(next(iter(lines.values()))), "lines": lines}
        for task, result in run.results.items()
        for arm, lines in result.get("confusion", {}).items()
        if arm in ("system", "after")
    ]


def _degeneration(run: Run) -> list[Json]:
    """Signs of running away, where there are any; results.json has them for every set and arm."""
    names = ("repetition", "empty", "over_one", "length_ratio")
    return [
        {"task": task, "arm": arm, "cells": [_percent(found[name]) for name in names]}
        for task, result in run.results.items()
        for arm, found in result.get("degeneration", {}).items()
        if Degeneration(**found).is_striking
    ]


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"

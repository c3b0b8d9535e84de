"""Many arms side by side, each in one run or several seeds: their scores, and what differs from the first arm.

Intervals are a bootstrap over items, the mean over seeds inside each draw; differences are paired, item by item.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sonant.evaluate.metrics.score import Estimate, Score, mean, ratio
from sonant.evaluate.run_folder import Run

TEXT = "text, after - before"  # all text-only rows together, in points of exact match


@dataclass(frozen=True)
class Finding:
    """One number of an arm: the mean over seeds with its interval, every seed, and the difference to the base."""

    mean: Score
    by_seed: tuple[float, ...]
    change: Score | None  # None for the base itself


Findings = dict[str, dict[str, Finding]]  # arm -> column -> finding


def compare_arms(runs: Mapping[str, Sequence[Run]]) -> Findings:
    """Returns the findings of every arm, given a run for each of its seeds; the first arm is the base."""
    estimates = {arm: [columns(run) for run in seeds] for arm, seeds in runs.items()}
    base = next(iter(estimates))
    return {
        arm: {
            column: _finding([seed[column] for seed in found], [seed[column] for seed in estimates[base]], arm == base)
            for column in found[0]
        }
        for arm, found in estimates.items()
    }


def columns(run: Run) -> dict[str, Estimate]:
    """Returns the headline of every task with audio, and what became of text-only rows scored by exact match together.

    Other text tasks, such as combined instructions, are new to the LLM: what it learns there would hide what it forgot.
    """
    found = {}
    text: list[Mapping[str, Sequence[float]]] = []
    for task, result in run.results.items():
        items = [item["scores"] for item in run.items_of(task)]
        if result["has_audio"]:
            found[f"{task} {result['headline']}"] = ratio(_counts(items, result["headline"], "system"))
        elif "exact_match" in result["metrics"]:
            text += [scores["exact_match"] for scores in items]
    if text:
        after, before = (ratio(np.array([scores[arm] for scores in text])) for arm in ("after", "before"))
        found[TEXT] = after - before
    return found


def markdown(findings: Findings) -> str:
    """Returns two tables: the scores (with the range over seeds), and the differences to the first arm."""
    base, line = next(iter(findings.items()))
    names = list(line)
    head = f"| arm | {' | '.join(names)} |\n|{'---|' * (len(names) + 1)}\n"
    scores = (f"| {arm} | {' | '.join(_shown(found[n]) for n in names)} |\n" for arm, found in findings.items())
    rows = [(arm, found) for arm, found in findings.items() if arm != base]
    changes = (f"| {arm} | {' | '.join(_changed(found[n].change) for n in names)} |\n" for arm, found in rows)
    title = f"\nDifferences to {base}, paired, with 95 % intervals; bold: zero lies outside.\n\n"
    return head + "".join(scores) + (title + head + "".join(changes) if rows else "")


def _finding(ours: Sequence[Estimate], base: Sequence[Estimate], is_base: bool) -> Finding:
    change = None if is_base else (mean(ours) - mean(base)).score
    return Finding(mean(ours).score, tuple(each.value for each in ours), change)


def _counts(items: Sequence[Mapping[str, Mapping[str, Sequence[float]]]], metric: str, arm: str) -> NDArray[np.float64]:
    return np.array([scores[metric][arm] for scores in items])


def _shown(finding: Finding) -> str:
    spread = f" ({min(finding.by_seed):.1f}–{max(finding.by_seed):.1f})" if len(finding.by_seed) > 1 else ""
    return f"{finding.mean.value:.1f}{spread}"


def _changed(change: Score | None) -> str:
    if change is None:
        return ""
    shown = f"{change.value:+.1f} [{change.low:+.1f}, {change.high:+.1f}]"
    return shown if change.low <= 0 <= change.high else f"**{shown}**"

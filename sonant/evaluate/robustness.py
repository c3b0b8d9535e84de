"""What changes with the wording of an instruction: scores by wording, their mean, the worst, and the way between."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from sonant.chat.messages import Conversation
from sonant.data.prompts import Split
from sonant.evaluate.marks import Estimates, Marks, Scores
from sonant.evaluate.metrics.score import Estimate, Score, mean, ratios_by_group
from sonant.evaluate.tasks import Task
from sonant.evaluate.wordings import Wording

ByWording: TypeAlias = dict[str, dict[str, list[Estimate]]]  # metric -> arm -> one a wording


@dataclass(frozen=True)
class SplitScores:
    """Scores under the wordings of one split of a prompt bank."""

    wordings: tuple[str, ...]
    scores: dict[str, dict[str, list[Score]]]  # metric -> arm -> one a wording
    mean: Scores
    worst: Scores
    worst_minus_mean: Scores  # in points; the worst is chosen after the fact, so its interval reaches too low


@dataclass(frozen=True)
class Paraphrases:
    """What changes with the wording of the instruction; "test" wordings are held out of training."""

    test: SplitScores
    train: SplitScores | None
    seen_minus_unseen: Scores


def paraphrases(marks: Mapping[Wording, Marks], how: Task) -> Paraphrases:
    """Returns scores by wording, their mean and worst, and what an unseen wording costs (paired over rows)."""
    test, train = (_in_split(marks, split) for split in ("test", "train"))
    means = {split: _means(found) for split, found in (("test", test), ("train", train))}
    gap = {
        metric: {arm: (seen - means["test"][metric][arm]).score for arm, seen in arms.items()}
        for metric, arms in means["train"].items()
    }
    return Paraphrases(
        test=_split_scores(_by_wording(test), [wording.text for wording in test], how),
        train=_split_scores(_by_wording(train), [wording.text for wording in train], how) if train else None,
        seen_minus_unseen=gap,
    )


def own_wordings(rows: Sequence[Conversation], marks: Marks, how: Task) -> Paraphrases | None:
    """Returns scores by the wording that each row says it was asked in (its key `wording`); None if some do not say.

    Where an instruction is part of the row, as in combined ones, wordings share no row: each is scored on its own. All
    are drawn from one draw of the rows. Metrics without counts of single rows (BLEU) are left out.
    """
    names = [row.extra.get("wording") for row in rows]
    wordings = sorted({name for name in names if name is not None})
    if None in names or len(wordings) < 2:
        return None
    groups = np.array([wordings.index(name) for name in names])
    by_wording = {
        metric: {arm: ratios_by_group(counts, groups) for arm, counts in arms.items()}
        for metric, arms in marks.counts.items()
        if metric in how.higher_is_better
    }
    return Paraphrases(_split_scores(by_wording, wordings, how), None, {})


def unseen(marks: Mapping[Wording, Marks]) -> Estimates:
    """Returns the mean estimates over held-out wordings."""
    return _means(_in_split(marks, "test"))


def _in_split(marks: Mapping[Wording, Marks], split: Split) -> dict[Wording, Marks]:
    return {wording: each for wording, each in marks.items() if wording.split == split}


def _means(marks: Mapping[Wording, Marks]) -> Estimates:
    return {metric: {arm: mean(e) for arm, e in arms.items()} for metric, arms in _by_wording(marks).items()}


def _by_wording(marks: Mapping[Wording, Marks]) -> ByWording:
    """Metric -> arm -> one estimate a wording; an arm that a judge failed under one wording is left out."""
    every = [each.estimates for each in marks.values()]
    return {
        metric: {arm: [e[metric][arm] for e in every] for arm in arms if all(arm in e[metric] for e in every)}
        for metric, arms in (every[0] if every else {}).items()
    }


def _split_scores(by_wording: ByWording, wordings: Sequence[str], how: Task) -> SplitScores:
    found = SplitScores(tuple(wordings), {}, {}, {}, {})
    for metric, arms in by_wording.items():
        choose = min if how.higher_is_better[metric] else max
        worst = {arm: choose(several, key=lambda estimate: estimate.value) for arm, several in arms.items()}
        found.scores[metric] = {arm: [each.score for each in several] for arm, several in arms.items()}
        found.mean[metric] = {arm: mean(several).score for arm, several in arms.items()}
        found.worst[metric] = {arm: each.score for arm, each in worst.items()}
        found.worst_minus_mean[metric] = {arm: (worst[arm] - mean(several)).score for arm, several in arms.items()}
    return found

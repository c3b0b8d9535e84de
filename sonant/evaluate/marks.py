"""What answers are worth: item by item, over a set, and over the wordings in which it was asked."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sonant.chat.messages import Conversation
from sonant.data.prompts import Split
from sonant.evaluate.judge import Judge, Verdict, summarize
from sonant.evaluate.metrics.named import in_language
from sonant.evaluate.metrics.score import Counts, Estimate, RatioMetric, RowMetric, Score, mean, ratio
from sonant.evaluate.normalize import normalizer
from sonant.evaluate.tasks import JUDGE, JUDGE_FAILED, Task
from sonant.evaluate.wordings import Wording

Scores = dict[str, dict[str, Score]]  # metric -> arm -> score
Estimates = dict[str, dict[str, Estimate]]


@dataclass(frozen=True)
class Marks:
    """The marks for all arms' answers to one wording."""

    counts: Mapping[str, Mapping[str, Counts]]  # metric -> arm -> (N, 2); ratio metrics only
    estimates: Estimates
    verdicts: Mapping[str, Sequence[Verdict]]  # arm -> one a row
    judged: Mapping[str, Any]  # arm -> how many verdicts there are, and why others are missing

    def item(self, index: int) -> dict[str, Any]:
        """Returns the marks of one row, as items.jsonl holds them."""
        scores = {
            metric: {arm: [float(value) for value in counts[index]] for arm, counts in arms.items()}
            for metric, arms in self.counts.items()
        }
        said = {arm: asdict(verdicts[index]) for arm, verdicts in self.verdicts.items()}
        return {"scores": scores} | ({"judge": said} if said else {})


def mark(
    rows: Sequence[Conversation],
    arms: Mapping[str, Sequence[str]],
    how: Task,
    *,
    verdicts: Mapping[str, Sequence[Verdict]] | None = None,
    judge: Judge | None = None,
) -> Marks:
    """Returns every metric for every arm, normalised on both sides; `verdicts` are what `judge` said of each arm."""
    clean = normalizer(how.normalizer)
    references = [[clean(reference) for reference in references_of(row)] for row in rows]
    answers = {arm: [clean(text) for text in texts] for arm, texts in arms.items()}
    counts: dict[str, dict[str, Counts]] = {}
    estimates: Estimates = {}
    for metric in how.metrics:
        if isinstance(metric, RowMetric):
            counts[metric.name] = {arm: metric.counts(texts, rows) for arm, texts in arms.items()}
        elif isinstance(metric, RatioMetric):
            counts[metric.name] = {arm: metric.counts(texts, references) for arm, texts in answers.items()}
        else:
            there = in_language(metric, target_language(rows))
            estimates[metric.name] = {arm: there.estimate(texts, references) for arm, texts in answers.items()}
            continue
        estimates[metric.name] = {arm: ratio(each) for arm, each in counts[metric.name].items()}
    judged: dict[str, Any] = {}
    if judge is not None:
        for arm, said in (verdicts or {}).items():
            points = [(v.score, judge.max_score) if v.score is not None else (0, 0) for v in said]
            counts.setdefault(JUDGE, {})[arm] = np.array(points, dtype=np.float64)
            counts.setdefault(JUDGE_FAILED, {})[arm] = np.array([(v.score is None, 1) for v in said], dtype=np.float64)
            judged[arm] = summarize(said, rubric=judge.rubric).to_json()
        for name in (JUDGE, JUDGE_FAILED):  # there is no score where too many verdicts failed
            known = {arm: each for arm, each in counts[name].items() if name != JUDGE or judged[arm]["score"]}
            estimates[name] = {arm: ratio(each) for arm, each in known.items()}
    return Marks(counts, estimates, verdicts or {}, judged)


def references_of(row: Conversation) -> tuple[str, ...]:
    """Returns the right answers of a row: its reference, and the aliases that it lists."""
    return tuple(dict.fromkeys((row.reference, *row.extra.get("aliases", ()))))


def target_language(rows: Sequence[Conversation]) -> str | None:
    """Returns the code of the language that all rows are to be answered in, if they say so."""
    languages = {row.extra.get("target_language") for row in rows}
    return languages.pop() if len(languages) == 1 else None


@dataclass(frozen=True)
class SplitScores:
    """Scores under the wordings of one split of a prompt bank."""

    wordings: tuple[str, ...]
    scores: dict[str, dict[str, list[Score]]]  # metric -> arm -> one a wording
    mean: Scores
    worst: Scores


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
        test=_split_scores(test, how, means["test"]),
        train=_split_scores(train, how, means["train"]) if train else None,
        seen_minus_unseen=gap,
    )


def unseen(marks: Mapping[Wording, Marks]) -> Estimates:
    """Returns the mean estimates over held-out wordings."""
    return _means(_in_split(marks, "test"))


def _in_split(marks: Mapping[Wording, Marks], split: Split) -> dict[Wording, Marks]:
    return {wording: each for wording, each in marks.items() if wording.split == split}


def _means(marks: Mapping[Wording, Marks]) -> Estimates:
    return {metric: {arm: mean(e) for arm, e in arms.items()} for metric, arms in _by_wording(marks).items()}


def _by_wording(marks: Mapping[Wording, Marks]) -> dict[str, dict[str, list[Estimate]]]:
    """Metric -> arm -> one estimate a wording; an arm that a judge failed under one wording is left out."""
    every = [each.estimates for each in marks.values()]
    return {
        metric: {arm: [e[metric][arm] for e in every] for arm in arms if all(arm in e[metric] for e in every)}
        for metric, arms in (every[0] if every else {}).items()
    }


def _split_scores(marks: Mapping[Wording, Marks], how: Task, means: Estimates) -> SplitScores:
    scores = {
        metric: {arm: [each.score for each in estimates] for arm, estimates in arms.items()}
        for metric, arms in _by_wording(marks).items()
    }

    def worst(metric: str, several: Sequence[Score]) -> Score:
        choose = min if how.higher_is_better[metric] else max
        return choose(several, key=lambda score: score.value)

    return SplitScores(
        wordings=tuple(wording.text for wording in marks),
        scores=scores,
        mean=scored(means),
        worst={metric: {arm: worst(metric, each) for arm, each in arms.items()} for metric, arms in scores.items()},
    )


def scored(estimates: Estimates) -> Scores:
    """Returns the estimates with their intervals."""
    return {metric: {arm: each.score for arm, each in arms.items()} for metric, arms in estimates.items()}

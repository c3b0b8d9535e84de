"""What answers are worth: item by item, and over a set."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sonant.chat.messages import Conversation
from sonant.evaluate.arms import ArmScores
from sonant.evaluate.judge import Judge, Verdict, summarize
from sonant.evaluate.metrics.named import in_language
from sonant.evaluate.metrics.score import Counts, Estimate, RatioMetric, RowMetric, Score, ratio
from sonant.evaluate.metrics.verification import equal_error_rate, right_choices
from sonant.evaluate.normalize import normalizer
from sonant.evaluate.tasks import CHOICE_ACCURACY, EER, JUDGE, JUDGE_FAILED, Task, references_of

Scores = dict[str, dict[str, Score]]  # metric -> arm -> score
Estimates = dict[str, dict[str, Estimate]]


@dataclass(frozen=True)
class Marks:
    """The marks for all arms' answers to one wording."""

    counts: Mapping[str, Mapping[str, Counts]]  # metric -> arm -> (N, 2); ratio metrics only
    estimates: Estimates
    choices: ArmScores  # arm -> (N, C) log-likelihood of each choice; empty where none are asked about
    verdicts: Mapping[str, Sequence[Verdict]]  # arm -> one a row
    judged: Mapping[str, Any]  # arm -> how many verdicts there are, and why others are missing

    def item(self, index: int) -> dict[str, Any]:
        """Returns the marks of one row, as items.jsonl holds them."""
        scores = {
            metric: {arm: [float(value) for value in counts[index]] for arm, counts in arms.items()}
            for metric, arms in self.counts.items()
        }
        said = {arm: asdict(verdicts[index]) for arm, verdicts in self.verdicts.items()}
        likely = {arm: [round(float(score), 4) for score in each[index]] for arm, each in self.choices.items()}
        return {"scores": scores} | ({"choices": likely} if likely else {}) | ({"judge": said} if said else {})


def mark(
    rows: Sequence[Conversation],
    arms: Mapping[str, Sequence[str]],
    how: Task,
    *,
    choices: ArmScores | None = None,
    verdicts: Mapping[str, Sequence[Verdict]] | None = None,
    judge: Judge | None = None,
) -> Marks:
    """Returns every metric for every arm, normalised on both sides.

    choices: arm -> (N, C) log-likelihoods of `how.choices`.   verdicts: what `judge` said of each arm.
    A metric of whole rows that finds nothing to count in any of them has no estimate.
    """
    clean = normalizer(how.normalizer)
    references = [[clean(reference) for reference in references_of(row)] for row in rows]
    answers = {arm: [clean(text) for text in texts] for arm, texts in arms.items()}
    counts: dict[str, dict[str, Counts]] = {}
    estimates: Estimates = {}
    for metric in how.metrics:
        if isinstance(metric, RowMetric):
            every = {arm: metric.counts(texts, rows) for arm, texts in arms.items()}
            counts[metric.name] = {arm: each for arm, each in every.items() if each[:, 1].any()}
        elif isinstance(metric, RatioMetric):
            counts[metric.name] = {arm: metric.counts(texts, references) for arm, texts in answers.items()}
        else:
            there = in_language(metric, target_language(rows))
            estimates[metric.name] = {arm: there.estimate(texts, references) for arm, texts in answers.items()}
            continue
        estimates[metric.name] = {arm: ratio(each) for arm, each in counts[metric.name].items()}
    if choices:
        right = right_choices([row.reference for row in rows], how.choices)
        found = {arm: np.stack([each.argmax(1) == right, right >= 0], axis=1) for arm, each in choices.items()}
        counts[CHOICE_ACCURACY] = {arm: each.astype(np.float64) for arm, each in found.items()}
        estimates[CHOICE_ACCURACY] = {arm: ratio(each) for arm, each in counts[CHOICE_ACCURACY].items()}
        if set(right) == {0, 1} and len(how.choices) == 2:
            estimates[EER] = {arm: equal_error_rate(s[:, 0] - s[:, 1], right == 0) for arm, s in choices.items()}
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
    return Marks(counts, estimates, choices or {}, verdicts or {}, judged)


def target_language(rows: Sequence[Conversation]) -> str | None:
    """Returns the code of the language that all rows are to be answered in, if they say so."""
    languages = {row.extra.get("target_language") for row in rows}
    return languages.pop() if len(languages) == 1 else None


def scored(estimates: Estimates) -> Scores:
    """Returns the estimates with their intervals."""
    return {metric: {arm: each.score for arm, each in arms.items()} for metric, arms in estimates.items()}

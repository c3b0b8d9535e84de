"""Two runs on the same items: how far apart they are, and whether luck would do as much (paired bootstrap).

Rows are drawn with replacement, both runs on the same draw and all wordings of a row together; where rows share what
makes them right or wrong, a speaker or an order of instructions, all of one are drawn `together`. p is the share of
draws that see no difference or one to the other side, doubled (two-sided), and never below what 1000 draws can tell.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from sonant.errors import EvaluationError
from sonant.evaluate.judge import Case, Judge, Judged, Verdict, summarize
from sonant.evaluate.metrics.named import in_language, metric_named
from sonant.evaluate.metrics.score import Estimate, Groups, RowMetric, Score, mean, ratio
from sonant.evaluate.metrics.verification import equal_error_rate, right_choices
from sonant.evaluate.normalize import normalizer
from sonant.evaluate.run_folder import Json, Run, read_run, references_of
from sonant.evaluate.tasks import EER

Standing: TypeAlias = Literal["better", "worse", "not told apart"]
Rows: TypeAlias = dict[str, dict[str, Json]]  # id -> wording ("" without a prompt bank) -> item
SAME_ANSWER = Verdict(0.5, reason="the same answer")
ERRORS = ("wer", "cer")  # where a run of an older Sonant does not say which way is better


@dataclass(frozen=True)
class Difference:
    """One metric of one task in both runs; `change` is B minus A."""

    a: Score
    b: Score
    change: Score
    p: float
    higher_is_better: bool
    num_unjudged: int = 0  # rows left out here because a judge failed on them in either run

    @property
    def verdict(self) -> Standing:
        """Whether B is better or worse than A; only said where the 95 % interval of the change leaves zero out."""
        if self.change.low <= 0 <= self.change.high:
            return "not told apart"
        return "better" if (self.change.value > 0) == self.higher_is_better else "worse"


@dataclass(frozen=True)
class TaskComparison:
    """One task in both runs: the rows they share, those only one has, and the differences by metric."""

    arm: str  # "system" for rows with audio, "after" for text
    num_rows: int
    only_a: tuple[str, ...]  # ids
    only_b: tuple[str, ...]
    unscored: tuple[str, ...]  # metrics that one run has no score of, because too many verdicts failed
    is_grouped: bool  # rows were drawn `together`
    differences: Mapping[str, Difference]


@dataclass(frozen=True)
class Comparison:
    """Two runs side by side."""

    a: Run
    b: Run
    together: str  # what rows share that are drawn together; "": they are drawn one by one
    tasks: Mapping[str, TaskComparison]
    tasks_only_a: tuple[str, ...]
    tasks_only_b: tuple[str, ...]

    def pairs(self, task: str) -> list[tuple[Json, Json]]:
        """Returns the items of a task that both runs have, in the order of A."""
        others = {(item["id"], item.get("wording")): item for item in self.b.items_of(task)}
        keyed = [(item, others.get((item["id"], item.get("wording")))) for item in self.a.items_of(task)]
        return [(item, other) for item, other in keyed if other is not None]

    def left_out(self) -> list[str]:
        """Returns what is not compared, and why; one line each."""
        lines = [
            f"{task}: only in {name}"
            for name, alone in (("A", self.tasks_only_a), ("B", self.tasks_only_b))
            for task in alone
        ]
        for task, found in self.tasks.items():
            for name, ids in (("A", found.only_a), ("B", found.only_b)):
                if ids:
                    shown = ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")
                    lines.append(f"{task}: {len(ids)} rows only in {name} ({shown})")
            lines += [f"{task}: {metric} has no score in one run" for metric in found.unscored]
            if self.together and not found.is_grouped:
                lines.append(f"{task}: by {self.together}: no row has one, or all the same; rows are drawn one by one")
            lines += [
                f"{task}: {d.num_unjudged} rows without a verdict of the judge in either run are left out of {metric}"
                for metric, d in found.differences.items()
                if d.num_unjudged
            ]
        return lines

    def to_json(self) -> Json:
        """Returns plain values: what compare.json holds."""
        tasks = {
            task: {
                **asdict(found),
                "differences": {m: {**asdict(d), "verdict": d.verdict} for m, d in found.differences.items()},
            }
            for task, found in self.tasks.items()
        }
        missing = {"tasks_only_a": self.tasks_only_a, "tasks_only_b": self.tasks_only_b}
        folders = {"a": str(self.a.folder), "b": str(self.b.folder)}
        return {**folders, "together": self.together, "tasks": tasks, **missing}


def compare(run_a: str | os.PathLike[str], run_b: str | os.PathLike[str], *, together: str = "") -> Comparison:
    """Returns the differences between two run folders, task by task, over the items both have.

    together: a key of the items ("speaker", "combination"); rows with one value are drawn together.
    Raises: EvaluationError if they share no item, share one that was not scored in the same way, or if no task, or some
    rows of a task only, have what is to be drawn together.
    """
    a, b = read_run(run_a), read_run(run_b)
    shared = [task for task in a.results if task in b.results]
    tasks = {task: found for task in shared if (found := _compare_task(task, a, b, together)) is not None}
    if not tasks:
        raise EvaluationError(f"{a.folder} and {b.folder} share no item; compare runs on the same manifests")
    if together and not any(found.is_grouped for found in tasks.values()):
        raise EvaluationError(f"no task of {a.folder} has rows of two {together!r}; items.jsonl names what rows have")
    return Comparison(
        a=a,
        b=b,
        together=together,
        tasks=tasks,
        tasks_only_a=tuple(task for task in a.results if task not in tasks),
        tasks_only_b=tuple(task for task in b.results if task not in tasks),
    )


def preferences(
    comparison: Comparison, judge: Judge, *, progress: Callable[[int], None] = lambda done: None
) -> dict[str, Judged]:
    """Returns task -> how often a judge prefers B's answer, in percent; 50 is no preference.

    Every pair is asked in both orders. Equal answers are ties without being asked.
    """
    found = {}
    for task, compared in comparison.tasks.items():
        pairs = [(item, item[compared.arm], other[compared.arm]) for item, other in comparison.pairs(task)]
        cases = [
            Case(_with_transcripts(item), b, tuple(filter(None, references_of(item))), other=a)
            for item, a, b in pairs
            if a != b
        ]
        verdicts = judge.verdicts(cases, progress=progress) if cases else []
        ties = [SAME_ANSWER] * (len(pairs) - len(cases))
        judged = summarize([*verdicts, *ties], rubric=judge.rubric)
        # Ties that nobody was asked about must not hide how many of the asked failed.
        refused = bool(verdicts) and summarize(verdicts, rubric=judge.rubric).score is None
        found[task] = replace(judged, score=None) if refused else judged
    return found


def _with_transcripts(item: Json) -> str:
    """The prompt as a judge reads it: with what was said in place of [clip 1], [clip 2]."""
    prompt = str(item.get("prompt", ""))
    for number, clip in enumerate(item.get("clips", ()), start=1):
        prompt = prompt.replace(f"[clip {number}]", clip.get("transcript") or f"[clip {number}]", 1)
    return prompt


def p_value(change: Estimate) -> float:
    """Returns the two-sided p of "there is no difference", from the draws of a paired difference."""
    draws = change.resampled
    rarer = min(np.count_nonzero(draws <= 0), np.count_nonzero(draws >= 0))
    return float(min(1.0, 2 * (rarer + 1) / (len(draws) + 1)))


def _compare_task(task: str, a: Run, b: Run, together: str) -> TaskComparison | None:
    rows_a, rows_b = _rows(a, task), _rows(b, task)
    wordings_b = {wording for row in rows_b.values() for wording in row}
    wordings = [w for w in dict.fromkeys(w for row in rows_a.values() for w in row) if w in wordings_b]
    ids = [i for i in rows_a if all(w in rows_a[i] and w in rows_b.get(i, {}) for w in wordings)]
    if not wordings or not ids:
        return None

    def grouped(ids: Sequence[str]) -> Groups | None:  # both runs have the same draws, whichever says what rows share
        return _groups([rows_b[i][wordings[0]] | rows_a[i][wordings[0]] for i in ids], together)

    _check_same(task, a, b, pairs=[(rows_a[i][w], rows_b[i][w]) for i in ids for w in wordings])
    result = b.results[task]
    arm = "system" if result["has_audio"] else "after"
    differences = {}
    every = dict.fromkeys((*a.results[task]["metrics"], *result["metrics"]))
    metrics = [metric for metric in every if not metric.endswith("_failed")]
    scored = [m for m in metrics if all(arm in run.results[task]["metrics"].get(m, {}) for run in (a, b))]
    for metric in scored:
        judged = [i for i in ids if not any(_failed(rows[i], metric, arm) for rows in (rows_a, rows_b))]
        if judged:
            groups = grouped(judged)
            one, two = (
                mean([_estimate([rows[i][w] for i in judged], metric, arm, result, groups) for w in wordings])
                for rows in (rows_a, rows_b)
            )
            differences[metric] = Difference(
                a=one.score,
                b=two.score,
                change=(two - one).score,
                p=p_value(two - one),
                higher_is_better=result.get("higher", {}).get(metric, metric not in ERRORS),
                num_unjudged=len(ids) - len(judged),
            )
    shared = set(ids)
    only_a, only_b = (tuple(i for i in rows if i not in shared) for rows in (rows_a, rows_b))
    unscored = tuple(m for m in metrics if m not in differences)
    return TaskComparison(arm, len(ids), only_a, only_b, unscored, grouped(ids) is not None, differences)


def _rows(run: Run, task: str) -> Rows:
    rows: Rows = {}
    for item in run.items_of(task):
        wordings = rows.setdefault(item["id"], {})
        wording = item.get("wording", "")
        if wording in wordings:
            raise EvaluationError(f"{run.folder}: {task} has two items {item['id']!r}; ids must differ to be paired")
        wordings[wording] = item
    return rows


def _check_same(task: str, a: Run, b: Run, *, pairs: Sequence[tuple[Json, Json]]) -> None:
    one, two = a.results[task], b.results[task]
    if one["has_audio"] != two["has_audio"]:
        raise EvaluationError(f"{task}: is heard in one run and read in the other; compare runs on the same manifests")
    if "pins" in one and "pins" in two:  # runs of an older Sonant only have the name of the normaliser
        one, two = one["pins"], two["pins"]
    for name in ("normalizer", "metric_normalizers", "judge"):
        if one.get(name) != two.get(name):
            raise EvaluationError(
                f"{task}: the {name} of A is {one.get(name)}, that of B {two.get(name)}; evaluate both in the same way"
            )
    for item, other in pairs:
        if item["reference"] != other["reference"]:
            wanted = f"{item['reference']!r} in A, {other['reference']!r} in B"
            raise EvaluationError(
                f"{task}: item {item['id']!r} has the reference {wanted}; compare runs on the same manifests"
            )
        if "wording" in item and item.get("prompt") != other.get("prompt"):
            asked = f"{item.get('prompt')!r} in A, {other.get('prompt')!r} in B"
            raise EvaluationError(
                f"{task}: item {item['id']!r} is asked {asked} as {item['wording']!r}; compare runs on one prompt bank"
            )


def _failed(row: Mapping[str, Json], metric: str, arm: str) -> bool:
    failures = (item.get("scores", {}).get(f"{metric}_failed", {}).get(arm, (0, 1)) for item in row.values())
    return any(count for count, _ in failures)


def _groups(items: Sequence[Json], together: str) -> Groups | None:
    """The number of each item's group; None if there are not two. Raises: EvaluationError if some items have none."""
    without = [item["id"] for item in items if together not in item]
    if len(without) == len(items):
        return None
    if without:
        raise EvaluationError(
            f"{items[0]['task']}: {len(without)} of {len(items)} rows have no {together!r} (such as {without[0]!r}); "
            "give it to all rows of a task, or draw rows one by one"
        )
    numbers: dict[str, int] = {}
    groups = np.array([numbers.setdefault(json.dumps(item[together]), len(numbers)) for item in items])
    return groups if len(numbers) > 1 else None


def _estimate(items: Sequence[Json], metric: str, arm: str, how: Json, groups: Groups | None) -> Estimate:
    """The value over the items, from their counts; of those without, EER from likelihoods, others from the answers."""
    if all(metric in item.get("scores", {}) for item in items):
        return ratio(np.array([item["scores"][metric][arm] for item in items], dtype=np.float64), groups)
    if metric == EER:
        scores = np.array([item["choices"][arm] for item in items])
        right = right_choices([item["reference"] for item in items], how["pins"]["choices"])
        return equal_error_rate(scores[:, 0] - scores[:, 1], right == 0, groups)
    clean = normalizer(how["normalizer"])
    references = [[clean(text) for text in references_of(item)] for item in items]
    pinned = how.get("pins", {}).get("metrics", [])  # "bleu:char" where the score is called "bleu"
    exact = next((name for name in pinned if name.partition(":")[0] == metric), metric)
    chosen = metric_named(exact)
    if isinstance(chosen, RowMetric):
        raise EvaluationError(f"{metric}: the items hold no marks by it; evaluate both runs again")
    answers = [clean(item[arm]) for item in items]
    languages = {item.get("target_language") for item in items}  # one for all, or none, as in `sonant.evaluate.marks`
    return in_language(chosen, languages.pop() if len(languages) == 1 else None).estimate(answers, references, groups)

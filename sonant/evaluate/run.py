"""Measures a model on sets of rows, and writes down what it takes to believe the scores.

OUT/results.json   scores of every set, metric and arm (see arms.py), with what they depend on (pins)
OUT/items.jsonl    every question with the answers of all arms and their marks
OUT/pins.json      hashes of model, manifests and prompt banks; versions of normalisers, metrics and judge
OUT/answers/       answers by what was asked of whom: a run that is started again asks only what is missing
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sonant.chat.messages import AudioPart, Conversation
from sonant.data.manifest import Manifest, relative_path, write_lines
from sonant.data.shards import file_sha256
from sonant.errors import EvaluationError
from sonant.evaluate.arms import Arms, Examinee, Progress, shown, with_text
from sonant.evaluate.details import Details, details
from sonant.evaluate.judge import Case, Judge, Verdict
from sonant.evaluate.marks import Marks, mark, scored
from sonant.evaluate.metrics.instructions import INSTRUCTION_FOLLOWING, part_marks
from sonant.evaluate.metrics.score import Estimate, RowMetric, Score
from sonant.evaluate.metrics.verification import right_choices
from sonant.evaluate.normalize import normalizer
from sonant.evaluate.pins import recordings_sha256, rows_sha256
from sonant.evaluate.robustness import Paraphrases, own_wordings, paraphrases, unseen
from sonant.evaluate.speech.measure import BySpeech, SpeechMarks, SpeechTest, Truth, measure
from sonant.evaluate.speech.spoken import said_aloud
from sonant.evaluate.tasks import Task, references_of, task_named
from sonant.evaluate.wordings import Wording, reworded
from sonant.generate.assistant import Assistant
from sonant.generate.chat_model import ChatModel
from sonant.generate.recognizer import Recognizer
from sonant.generate.sampling import GenerationConfig

DIFFERENCES = (("system", "cascade"), ("system", "no_audio"), ("system", "transcript"), ("after", "before"))
Answered = Mapping[Wording | None, tuple[Arms, Marks]]  # None: rows as they stand


@dataclass(frozen=True)
class EvalSet:
    """Rows that are scored together, how, and the wordings they are asked in (none: as they stand)."""

    name: str
    rows: tuple[Conversation, ...]
    how: Task
    wordings: tuple[Wording, ...] = ()
    pins: Mapping[str, Any] = field(default_factory=dict)
    baselines: bool = False  # whether the model is also asked without the audio, and with the transcript instead
    speak: bool = False  # whether a model that has a voice answers aloud as well
    truths: tuple[Truth, ...] = ()  # how real voices answer, where the rows do not say it

    def prompts(self, wording: Wording | None) -> list[Conversation]:
        """Returns the questions."""
        return [reworded(row, wording) if wording else row.prompt() for row in self.rows]

    @property
    def said_in(self) -> Wording | None:
        """The one wording in which answers are spoken: the first, which is held out."""
        return self.wordings[0] if self.wordings else None

    @property
    def series(self) -> dict[str, Any] | None:
        """Of a re-voiced set: the set it was made from, and the percentage of its sentences that are spoken."""
        revoiced = self.rows[0].extra.get("revoiced")
        return {"of": revoiced["task"], "share": revoiced["share"]} if revoiced else None


@dataclass(frozen=True)
class TaskResult:
    """The scores of one set: metric -> arm -> score; and differences of the headline metric."""

    task: str
    num_rows: int
    has_audio: bool
    headline: str
    higher: dict[str, bool]  # metric -> whether more is better
    normalizer: str
    scores: dict[str, dict[str, Score]]  # over unseen wordings, where there are several
    differences: dict[str, Score] = field(default_factory=dict)  # e.g. "after minus before", "system minus cascade"
    paraphrases: Paraphrases | None = None
    judged: Mapping[str, Any] = field(default_factory=dict)
    series: Mapping[str, Any] | None = None
    details: Details = field(default_factory=Details)
    speech: BySpeech = field(default_factory=dict)
    pins: Mapping[str, Any] = field(default_factory=dict)

    @property
    def higher_is_better(self) -> bool:
        """Whether more of the headline metric is better."""
        return self.higher[self.headline]

    def to_json(self) -> dict[str, Any]:
        """Returns plain values: what results.json holds."""
        found = {
            "n": self.num_rows,
            "has_audio": self.has_audio,
            "headline": self.headline,
            "higher_is_better": self.higher_is_better,
            "higher": self.higher,
            "normalizer": self.normalizer,
            "metrics": {m: {arm: s.to_json() for arm, s in arms.items()} for m, arms in self.scores.items()},
            "differences": {name: s.to_json() for name, s in self.differences.items()},
        }
        known: dict[str, Any] = {"judged": self.judged, "series": self.series, "pins": self.pins}
        known["speech"] = {
            metric: {who: {arm: s.to_json() for arm, s in arms.items()} for who, arms in by.items()}
            for metric, by in self.speech.items()
        }
        known["paraphrases"] = asdict(self.paraphrases) if self.paraphrases else None
        return found | self.details.to_json() | {name: value for name, value in known.items() if value}


def evaluate(
    assistant: Assistant,
    manifests: Sequence[str | os.PathLike[str]],
    out_folder: str | os.PathLike[str],
    *,
    recognizer: Recognizer | None = None,
    config: GenerationConfig | None = None,
    limit: int | None = None,
    batch_size: int = 32,
    progress: Progress = lambda arm, done, total: None,
) -> dict[str, TaskResult]:
    """Returns task -> result, and writes the files above to `out_folder`.

    Rows are grouped by their `task`; `limit` takes the first rows of each. Without a recogniser there is no cascade.
    Raises: EvaluationError if there is nothing to score or a row has no reference.
    """
    examinee = Examinee(assistant, recognizer, config or GenerationConfig(), batch_size)
    return run_sets(sets_of(manifests, limit=limit), examinee, out_folder, progress=progress)


def sets_of(manifests: Sequence[str | os.PathLike[str]], *, limit: int | None = None) -> list[EvalSet]:
    """Returns one set for each task in the manifests, in their order."""
    files = [path for path in map(Path, manifests) if path.is_file()]
    root = os.path.commonpath([path.absolute().parent for path in files]) if files else ""
    hashes = {Path(os.path.relpath(path, root)).as_posix(): file_sha256(path) for path in files}
    return [
        EvalSet(
            task,
            tuple(rows),
            how_of(task, rows),
            pins={"manifests": hashes, "limit": limit},
            speak=any(row.spoken for row in rows),
        )
        for task, rows in group_by_task(manifests, limit=limit).items()
    ]


def group_by_task(
    manifests: Sequence[str | os.PathLike[str]], *, limit: int | None = None
) -> dict[str, list[Conversation]]:
    """Returns task -> rows, in the order of the manifests; the task of a row without one is its manifest's name.

    Raises: EvaluationError if there are no rows, or one has no reference and is not for a judge alone.
    """
    groups: dict[str, list[Conversation]] = {}
    for path in manifests:
        for row in Manifest(path):
            task = row.task or Path(path).stem
            if not row.reference and how_of(task, [row]).metrics:
                raise EvaluationError(f"{path}: row {row.id!r} has no reference; it must end with an assistant's text")
            groups.setdefault(task, []).append(row)
    if not groups:
        raise EvaluationError(f"nothing to evaluate in {', '.join(map(str, manifests)) or 'no manifests'}")
    return {task: rows[:limit] for task, rows in groups.items()}


def how_of(task: str, rows: Sequence[Conversation]) -> Task:
    """Returns how rows of a task are scored: re-voiced ones as those they were made from."""
    revoiced = rows[0].extra.get("revoiced")
    return task_named(revoiced["task"] if revoiced else task)


def run_sets(
    sets: Sequence[EvalSet],
    examinee: Examinee,
    out_folder: str | os.PathLike[str],
    *,
    judge_model: ChatModel | None = None,
    speech: SpeechTest | None = None,
    pins: Mapping[str, Any] | None = None,
    progress: Progress = lambda arm, done, total: None,
) -> dict[str, TaskResult]:
    """Returns set -> result, after writing results, items and pins. `pins` are those that all sets share.

    speech: by whom spoken answers are measured; None: the model is not asked to speak.

    Raises: EvaluationError, before anything is asked, for a set that cannot be scored.
    """
    judges = {each.name: _judge(each, judge_model) for each in sets}
    for each in sets:
        _check(each)
    folder = Path(out_folder)
    folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, TaskResult] = {}
    items: list[str] = []
    for each in sets:
        answered = {
            wording: _ask(
                each, wording, examinee, folder=folder / "answers", judge=judges[each.name], progress=progress
            )
            for wording in each.wordings or (None,)
        }
        spoken = _aloud(each, speech, examinee, folder, progress) if speech and each.speak else None
        for wording, (arms, marks) in answered.items():
            items += _items(each, wording, arms, marks, folder, spoken if wording == each.said_in else None)
        results[each.name] = _result(each, answered, judges[each.name], spoken)
    write_lines(folder / "items.jsonl", items)
    shared = {"run": dict(pins or examinee.pins), "sets": {name: result.pins for name, result in results.items()}}
    write_lines(folder / "pins.json", [json.dumps(shared, indent=2, ensure_ascii=False)])
    write_results(results, folder / "results.json")
    return results


def score_task(task: str, rows: Sequence[Conversation], arms: Arms, *, how: Task | None = None) -> TaskResult:
    """Returns every metric of the task for every arm, normalised on both sides, with paired differences."""
    each = EvalSet(task, tuple(rows), how or how_of(task, rows))
    return _result(each, {None: (arms, mark(rows, arms, each.how))}, None)


def forgetting(results: dict[str, TaskResult]) -> dict[str, Score]:
    """Returns text task -> points lost by training (before minus after; for error rates the rise), with interval."""
    lost = {}
    for task, result in results.items():
        change = result.differences.get("after minus before")
        if change is not None:
            worse = (0 - change.value, 0 - change.high, 0 - change.low)  # never -0.0
            lost[task] = Score(
                *(worse if result.higher_is_better else (change.value, change.low, change.high)), change.n
            )
    return lost


def write_results(results: dict[str, TaskResult], path: Path) -> None:
    """Writes task -> metric -> arm -> value, interval, n as JSON, atomically."""
    plain = {task: result.to_json() for task, result in results.items()}
    write_lines(path, [json.dumps(plain, indent=2, ensure_ascii=False)])


def _judge(each: EvalSet, model: ChatModel | None) -> Judge | None:
    if each.how.judge is None:
        return None
    if model is None:
        raise EvaluationError(
            f"{each.name} is judged by the rubric {each.how.judge!r}; name a judge with --judge URL#MODEL, or leave it "
            "out (in a suite, --judge none leaves judged metrics out)"
        )
    return Judge(model, rubric=each.how.judge)


def _check(each: EvalSet) -> None:
    if not each.how.metrics and each.how.judge is None:
        raise EvaluationError(f"{each.name}: nothing scores it; give it metrics (such as exact_match) or a judge")
    normalizer(each.how.normalizer)
    for metric in each.how.metrics:
        if isinstance(metric, RowMetric):
            metric.counts([""] * len(each.rows), each.rows)  # told here if a row lacks what it takes
    if each.how.choices:
        right_choices([row.reference for row in each.rows], each.how.choices)
    for wording in each.wordings:
        each.prompts(wording)


def _ask(
    each: EvalSet, wording: Wording | None, examinee: Examinee, *, folder: Path, judge: Judge | None, progress: Progress
) -> tuple[Arms, Marks]:
    """The answers of every arm to a set in one wording, and their marks; only the model is asked in seen wordings."""
    name = f"{each.name} {wording.name}" if wording else each.name
    prompts, seen = each.prompts(wording), wording is not None and wording.split == "train"
    where: Any = {"folder": folder, "progress": progress}
    questions = examinee.questions(name, prompts, trained_only=seen, baselines=each.baselines, **where)
    arms = examinee.arms(name, questions, **where)
    choices = examinee.choices(name, questions, each.how.choices, **where) if each.how.choices else None
    verdicts = {
        arm: _verdicts(judge, _cases(each.rows, prompts, texts), f"{name}: judge, {arm}", progress)
        for arm, texts in arms.items()
        if judge
    }
    return arms, mark(each.rows, arms, each.how, choices=choices, verdicts=verdicts, judge=judge)


def _aloud(each: EvalSet, test: SpeechTest, examinee: Examinee, folder: Path, progress: Progress) -> SpeechMarks:
    prompts = each.prompts(each.said_in)
    said = said_aloud(each.name, prompts, examinee, folder=folder / "speech", progress=progress)
    return measure(each.rows, said, each.how, test, truths=each.truths, progress=progress)


def _verdicts(judge: Judge, cases: Sequence[Case], what: str, progress: Progress) -> list[Verdict]:
    return judge.verdicts(cases, progress=lambda done: progress(what, done, len(cases)))


def _cases(rows: Sequence[Conversation], prompts: Sequence[Conversation], answers: Sequence[str]) -> list[Case]:
    cases = []
    for row, prompt, answer in zip(rows, prompts, answers, strict=True):
        said = [part.transcript or "[a recording]" for part in prompt.heard_parts]
        references = tuple(reference for reference in references_of(row) if reference)
        cases.append(Case(prompt=shown(with_text([prompt], said)[0]), answer=answer, references=references))
    return cases


def _items(
    each: EvalSet, wording: Wording | None, arms: Arms, marks: Marks, folder: Path, spoken: SpeechMarks | None
) -> Iterator[str]:
    for index, (row, prompt) in enumerate(zip(each.rows, each.prompts(wording), strict=True)):
        references = references_of(row)
        known = {
            "wording": wording and wording.name,
            "language": row.language,
            "speaker": row.speaker or None,
            "combination": row.extra.get("combination"),
            "target_language": row.extra.get("target_language"),
            "share": each.series and each.series["share"],
            "references": references if len(references) > 1 else None,
        }
        item = {
            "id": row.id,
            "task": each.name,
            "prompt": shown(prompt),
            "clips": [_clip(part, folder) for part in prompt.heard_parts],
            "reference": row.reference,
            **{name: value for name, value in known.items() if value is not None},
            **{arm: answers[index] for arm, answers in arms.items()},
            **marks.item(index),
        }
        if INSTRUCTION_FOLLOWING in each.how.metrics:
            item["parts"] = {arm: [asdict(p) for p in part_marks(answers[index], row)] for arm, answers in arms.items()}
        if spoken:
            item["speech"] = spoken.item(index, folder)
        yield json.dumps(item, ensure_ascii=False)


def _clip(part: AudioPart, folder: Path) -> dict[str, Any]:
    path = None if part.path is None else relative_path(part.path, folder)
    place = {"offset_s": part.offset_s, "duration_s": part.duration_s}
    return {"path": path, **place, "transcript": part.transcript}


def _result(each: EvalSet, answered: Answered, judge: Judge | None, spoken: SpeechMarks | None = None) -> TaskResult:
    marks = {wording: found for wording, (_, found) in answered.items()}
    by_wording = {wording: found for wording, found in marks.items() if wording is not None}
    estimates = unseen(by_wording) if by_wording else marks[None].estimates
    asked = paraphrases(by_wording, each.how) if by_wording else own_wordings(each.rows, marks[None], each.how)
    scores = scored(estimates)
    pins = {
        **each.pins,
        "rows": len(each.rows),
        "rows_sha256": rows_sha256(each.rows),
        "recordings_sha256": recordings_sha256(each.rows),
        **each.how.pins,
        "judge": judge and judge.pins,
        "speech": spoken and dict(spoken.pins),
    }
    signatures = {metric: next((s.signature for s in arms.values()), "") for metric, arms in scores.items()}
    return TaskResult(
        task=each.name,
        num_rows=len(each.rows),
        has_audio=any(row.prompt().heard_parts for row in each.rows),
        headline=each.how.headline,
        higher=each.how.higher_is_better,
        normalizer=each.how.normalizer,
        scores=scores,
        differences=_differences(estimates.get(each.how.headline, {})),
        paraphrases=asked,
        judged={wording.name if wording else "": found.judged for wording, found in marks.items() if found.judged},
        series=each.series,
        details=_details(each, answered),
        speech=spoken.scores if spoken else {},
        pins={
            **{name: value for name, value in pins.items() if value is not None},
            "signatures": {metric: signature for metric, signature in signatures.items() if signature},
        },
    )


def _details(each: EvalSet, answered: Answered) -> Details:
    """The details of all held-out wordings together."""
    found = [each for wording, each in answered.items() if wording is None or wording.split == "test"]
    arms = {arm: [text for said, _ in found for text in said[arm]] for arm in found[0][0]}
    counts = {
        metric: {arm: np.concatenate([marks.counts[metric][arm] for _, marks in found]) for arm in by_arm}
        for metric, by_arm in found[0][1].counts.items()
    }
    return details(each.rows * len(found), arms, each.how, counts=counts)


def _differences(headline: Mapping[str, Estimate]) -> dict[str, Score]:
    return {
        f"{one} minus {other}": (headline[one] - headline[other]).score
        for one, other in DIFFERENCES
        if one in headline and other in headline
    }

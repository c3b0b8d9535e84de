"""Measures a model on manifests: its answers beside a cascade, a text oracle and the LLM it grew from.

rows with audio     system        the speech LM hears the audio
                    cascade       a recogniser writes it down, the base LLM (LoRA off) reads
                    text_oracle   the true transcript, read by the base LLM
rows without        after         the speech LM, LoRA on
                    before        the base LLM, LoRA off
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sonant.chat.messages import AudioPart, Conversation, Message, Part, TextPart
from sonant.data.manifest import Manifest
from sonant.errors import EvaluationError
from sonant.evaluate.metrics.score import RatioMetric, Score
from sonant.evaluate.normalize import normalizer
from sonant.evaluate.tasks import task_named
from sonant.generate.assistant import Assistant
from sonant.generate.recognizer import Recognizer
from sonant.generate.sampling import GenerationConfig

Arms = dict[str, list[str]]  # arm -> one answer a row


@dataclass(frozen=True)
class TaskResult:
    """The scores of one task: metric -> arm -> score; and differences of the headline metric."""

    task: str
    num_rows: int
    has_audio: bool
    headline: str
    higher_is_better: bool
    normalizer: str
    scores: dict[str, dict[str, Score]]
    differences: dict[str, Score] = field(default_factory=dict)  # e.g. "after minus before", "system minus cascade"

    def to_json(self) -> dict[str, Any]:
        """Returns plain values: what results.json holds."""
        return {
            "n": self.num_rows,
            "has_audio": self.has_audio,
            "headline": self.headline,
            "higher_is_better": self.higher_is_better,
            "normalizer": self.normalizer,
            "metrics": {m: {arm: s.to_json() for arm, s in arms.items()} for m, arms in self.scores.items()},
            "differences": {name: s.to_json() for name, s in self.differences.items()},
        }


def evaluate(
    assistant: Assistant,
    manifests: Sequence[str | os.PathLike[str]],
    out_folder: str | os.PathLike[str],
    *,
    recognizer: Recognizer | None = None,
    config: GenerationConfig | None = None,
    limit: int | None = None,
    batch_size: int = 32,
    progress: Callable[[str, int, int], None] = lambda arm, done, total: None,
) -> dict[str, TaskResult]:
    """Returns task -> result, and writes results.json and items.jsonl (every answer of every arm) to `out_folder`.

    Rows are grouped by their `task`; `limit` takes the first rows of each. Without a recogniser there is no cascade.
    Raises: EvaluationError if there is nothing to score or a row has no reference.
    """
    groups = group_by_task(manifests, limit=limit)
    folder = Path(out_folder)
    folder.mkdir(parents=True, exist_ok=True)
    results = {}
    with open(folder / "items.jsonl", "w", encoding="utf-8") as items:
        for task, rows in groups.items():

            def answer(arm: str, prompts: list[Conversation], *, lora: bool, name: str = task) -> list[str]:
                done = [0]

                def tell(new: int) -> None:
                    done[0] += new
                    progress(f"{name}: {arm}", done[0], len(prompts))

                replies = assistant.replies(prompts, config=config, lora=lora, batch_size=batch_size, progress=tell)
                return [reply.text for reply in replies]

            arms = _answers(rows, answer, recognizer)
            results[task] = score_task(task, rows, arms)
            for index, row in enumerate(rows):
                item = {"id": row.id, "task": task, "reference": row.reference}
                items.write(json.dumps(item | {arm: a[index] for arm, a in arms.items()}, ensure_ascii=False) + "\n")
    write_results(results, folder / "results.json")
    return results


def group_by_task(
    manifests: Sequence[str | os.PathLike[str]], *, limit: int | None = None
) -> dict[str, list[Conversation]]:
    """Returns task -> rows, in the order of the manifests; the task of a row without one is its manifest's name."""
    groups: dict[str, list[Conversation]] = {}
    for path in manifests:
        manifest = Manifest(path)
        for index in range(len(manifest)):
            row = manifest[index]
            if not row.reference:
                raise EvaluationError(f"{path}: row {row.id!r} has no reference; it must end with an assistant's text")
            groups.setdefault(row.task or Path(path).stem, []).append(row)
    if not groups:
        raise EvaluationError(f"nothing to evaluate in {', '.join(map(str, manifests)) or 'no manifests'}")
    return {task: rows[:limit] for task, rows in groups.items()}


def score_task(task: str, rows: Sequence[Conversation], arms: Arms) -> TaskResult:
    """Returns every metric of the task for every arm, normalised on both sides, with paired differences."""
    how = task_named(task)
    clean = normalizer(how.normalizer)
    references = [clean(row.reference) for row in rows]
    answers = {arm: [clean(text) for text in texts] for arm, texts in arms.items()}
    scores = {m.name: {arm: m.score(texts, references) for arm, texts in answers.items()} for m in how.metrics}
    differences = {}
    if isinstance(how.headline, RatioMetric):
        for one, other in (("system", "cascade"), ("after", "before")):
            if one in answers and other in answers:
                name = f"{one} minus {other}"
                differences[name] = how.headline.difference(answers[one], answers[other], references)
    return TaskResult(
        task=task,
        num_rows=len(rows),
        has_audio="system" in arms,
        headline=how.headline.name,
        higher_is_better=how.headline.higher_is_better,
        normalizer=how.normalizer,
        scores=scores,
        differences=differences,
    )


def forgetting(results: dict[str, TaskResult]) -> dict[str, Score]:
    """Returns text task -> points lost by training (before minus after; for error rates the rise), with interval."""
    lost = {}
    for task, result in results.items():
        change = result.differences.get("after minus before")
        if change is not None:
            worse = (-change.value, -change.high, -change.low)
            lost[task] = Score(
                *(worse if result.higher_is_better else (change.value, change.low, change.high)), change.n
            )
    return lost


def write_results(results: dict[str, TaskResult], path: Path) -> None:
    """Writes task -> metric -> arm -> value, interval, n as JSON, atomically."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({t: r.to_json() for t, r in results.items()}, indent=2, ensure_ascii=False) + "\n")
    os.replace(temporary, path)


def _answers(rows: Sequence[Conversation], answer: Callable[..., list[str]], recognizer: Recognizer | None) -> Arms:
    prompts = [row.prompt() for row in rows]
    clips = [part for prompt in prompts for part in prompt.audio_parts]
    if not clips:
        return {"after": answer("after", prompts, lora=True), "before": answer("before", prompts, lora=False)}
    arms = {"system": answer("system", prompts, lora=True)}
    if recognizer is not None:
        written = with_text(prompts, recognizer.transcribe(clips))
        arms["cascade"] = answer("cascade", written, lora=False)
    transcripts = [part.transcript for part in clips]
    if all(t is not None for t in transcripts):
        arms["text_oracle"] = answer("text oracle", with_text(prompts, [t or "" for t in transcripts]), lora=False)
    return arms


def with_text(prompts: Sequence[Conversation], texts: Sequence[str]) -> list[Conversation]:
    """Returns the prompts with their audio parts, in order, replaced by these texts, as one would have written them."""
    remaining = iter(texts)

    def written(part: Part) -> str:
        return next(remaining) if isinstance(part, AudioPart) else part.text

    def message(old: Message) -> Message:
        if not any(isinstance(part, AudioPart) for part in old.parts):
            return old
        return replace(old, parts=(TextPart(" ".join(t for part in old.parts if (t := written(part).strip()))),))

    return [replace(prompt, messages=tuple(message(m) for m in prompt.messages)) for prompt in prompts]

"""Items on which two answers differ: the part of a page one reads and listens to.

Two arms of one run (system and cascade), or one arm of two runs. Everything here is plain text: the page escapes it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from sonant.evaluate.metrics.named import METRICS
from sonant.evaluate.metrics.score import RatioMetric
from sonant.evaluate.metrics.text import EXACT, distances
from sonant.evaluate.normalize import Normalizer, normalizer
from sonant.evaluate.report.audio import Clip, Clips
from sonant.evaluate.run_folder import Json, references_of

MAX_ITEMS = 200  # of one task on a page, those with the largest difference

Better: TypeAlias = Literal["first", "second", "neither"]


@dataclass(frozen=True)
class Stretch:
    """A part of an answer: "same" as the reference, "wrong" (not in it) or "missing" (only in it)."""

    kind: Literal["same", "wrong", "missing"]
    text: str


@dataclass(frozen=True)
class Answer:
    """What one side said; points: 100 is fully right, None is not known."""

    stretches: tuple[Stretch, ...]
    points: float | None
    joint: str = " "  # what stands between stretches


@dataclass(frozen=True)
class ItemDifference:
    """One item with two different answers."""

    first: Answer
    second: Answer
    id: str = ""
    prompt: str = ""
    reference: str = ""
    clips: tuple[Clip, ...] = ()

    @property
    def gap(self) -> float:
        """Points of the second over the first."""
        return (self.second.points or 0.0) - (self.first.points or 0.0)

    @property
    def better(self) -> Better:
        """Which answer has more points."""
        if self.first.points is None or self.second.points is None or self.gap == 0:
            return "neither"
        return "second" if self.gap > 0 else "first"


@dataclass(frozen=True)
class TaskDifferences:
    """How many items of a task differ, who is better on how many of them, and those that are shown."""

    task: str
    num_items: int
    num_better: Mapping[Better, int]
    shown: tuple[ItemDifference, ...]

    @property
    def num_differing(self) -> int:
        """Items whose answers differ after normalisation."""
        return sum(self.num_better.values())


def task_differences(
    task: str, pairs: Sequence[tuple[Json, Json]], arms: tuple[str, str], *, how: Json, clips: Clips, folder: Path
) -> TaskDifferences:
    """Returns where the answers of `arms[0]` in the first and `arms[1]` in the second item of each pair differ.

    how: the task's entry of results.json.   folder: the run that the first items come from; its recordings are played.
    """
    marker = _Marker(how)
    differing = [
        (item, ItemDifference(first=marker.answer(item, arms[0]), second=marker.answer(other, arms[1])))
        for item, other in pairs
        if marker.clean(item[arms[0]]) != marker.clean(other[arms[1]])
    ]
    differing.sort(key=lambda found: -abs(found[1].gap))  # stable: inside, the order of the run
    better = [difference.better for _, difference in differing]
    return TaskDifferences(
        task=task,
        num_items=len(pairs),
        num_better={who: better.count(who) for who in ("first", "second", "neither")},
        shown=tuple(
            replace(
                difference,
                id=" · ".join(filter(None, (item["id"], item.get("wording")))),
                prompt=item.get("prompt", ""),
                reference=" | ".join(references_of(item)),
                clips=tuple(clips.clip(values, folder) for values in item.get("clips", ())),
            )
            for item, difference in differing[:MAX_ITEMS]
        ),
    )


def stretches(hypothesis: Sequence[str], reference: Sequence[str], *, joint: str = " ") -> tuple[Stretch, ...]:
    """Returns the hypothesis, unit by unit, as parts that are in the reference or not, and what is missing of it."""
    parts: list[Stretch] = []
    for step in distances().Levenshtein.opcodes(reference, hypothesis):
        said = joint.join(hypothesis[step.dest_start : step.dest_end])
        wanted = joint.join(reference[step.src_start : step.src_end])
        if step.tag == "equal":
            parts.append(Stretch("same", said))
        else:
            parts += [Stretch("wrong", said)] * bool(said) + [Stretch("missing", wanted)] * bool(wanted)
    return tuple(parts)


class _Marker:
    """Marks the answers to one task: points by its headline metric, and word by word where that counts errors."""

    def __init__(self, how: Json) -> None:
        self.headline: str = how["headline"]
        self.higher_is_better: bool = how["higher_is_better"]
        self.clean: Normalizer = normalizer(how["normalizer"])

    def answer(self, item: Json, arm: str) -> Answer:
        said, reference = self.clean(item[arm]), self.clean(item["reference"])
        errors = self.headline.partition("@")[0]  # "wer@none" is wer too
        if errors == "wer":
            parts = stretches(said.split(), reference.split())
        elif errors == "cer":
            return Answer(stretches(said, reference, joint=""), self._points(item, arm), joint="")
        else:
            parts = (Stretch("same", item[arm]),)
        return Answer(parts, self._points(item, arm))

    def _points(self, item: Json, arm: str) -> float | None:
        scores = item.get("scores", {})
        if self.headline in scores:
            count, size = scores[self.headline][arm]
        else:  # BLEU and chrF have no counts of an item: there, equal is right
            known = METRICS.get(self.headline)
            metric = known if isinstance(known, RatioMetric) else EXACT
            references = [self.clean(text) for text in references_of(item)]
            count, size = metric.counts([self.clean(item[arm])], [references])[0]
        if size == 0 and self.higher_is_better:
            return None  # the judge failed
        percent = 100 * count / max(size, 1)
        return float(percent if self.higher_is_better else 100 - percent)

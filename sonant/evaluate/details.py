"""What stands beside the scores of a set: kinds of instruction, confusions, chains of thought, run-away replies."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from sonant.chat.messages import Conversation
from sonant.evaluate.metrics.degeneration import Degeneration, degeneration
from sonant.evaluate.metrics.instructions import INSTRUCTION_FOLLOWING, part_marks
from sonant.evaluate.metrics.labels import UNWEIGHTED, confusion
from sonant.evaluate.metrics.rows import FINAL_EXACT, FINAL_F1
from sonant.evaluate.metrics.score import Counts, Score, ratio
from sonant.evaluate.tasks import Task, references_of

CHAIN, DIRECT = "chain_of_thought", "direct"  # what a row's key `form` may say
FINAL = (FINAL_EXACT.name, FINAL_F1.name)  # what both can be compared by: a chain says more, but comes to the same


@dataclass(frozen=True)
class PartShare:
    """How many instructions of one kind there were, and the percentages of them that were followed and right."""

    n: int
    followed: float
    right: float


@dataclass(frozen=True)
class FormDifference:
    """Pairs of one recording asked for a chain of thought and directly, in points of what the replies come to."""

    num_pairs: int
    chain_of_thought: Score
    direct: Score
    change: Score  # chain of thought minus direct, paired by recording


@dataclass(frozen=True)
class Details:
    """By arm; what does not apply to a set is empty."""

    parts: Mapping[str, Mapping[str, PartShare]] = field(default_factory=dict)  # kind of instruction -> arm -> share
    confusion: Mapping[str, Mapping[str, Mapping[str, int]]] = field(default_factory=dict)  # arm -> right -> said -> n
    forms: Mapping[str, Mapping[str, FormDifference]] = field(default_factory=dict)  # metric -> arm -> difference
    degeneration: Mapping[str, Degeneration] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns plain values, without what does not apply."""
        return {name: value for name, value in asdict(self).items() if value}


def details(
    rows: Sequence[Conversation],
    arms: Mapping[str, Sequence[str]],
    how: Task,
    *,
    counts: Mapping[str, Mapping[str, Counts]],
) -> Details:
    """Returns the details of a set; rows asked in several wordings stand there once a wording, with all their replies.

    counts: metric -> arm -> (N, 2), as `marks.mark` has them.
    """
    references = [references_of(row) for row in rows]
    errors = any(metric.name.partition("@")[0] == "wer" for metric in how.metrics)
    return Details(
        parts=_parts(rows, arms) if INSTRUCTION_FOLLOWING in how.metrics else {},
        confusion={arm: confusion(said, rows) for arm, said in arms.items()} if UNWEIGHTED in how.metrics else {},
        forms={name: _forms(pairs, counts[name]) for name in FINAL if name in counts}
        if (pairs := _pairs(rows))
        else {},
        degeneration={arm: degeneration(said, references, errors=errors) for arm, said in arms.items()},
    )


def _parts(rows: Sequence[Conversation], arms: Mapping[str, Sequence[str]]) -> Mapping[str, Mapping[str, PartShare]]:
    shares: dict[str, dict[str, PartShare]] = {}
    for arm, answers in arms.items():
        marks = [mark for answer, row in zip(answers, rows, strict=True) for mark in part_marks(answer, row)]
        for kind in dict.fromkeys(mark.kind for mark in marks):
            several = [mark for mark in marks if mark.kind == kind]
            followed, right = (
                100 * sum(held) / len(several) for held in ([m.followed for m in several], [m.right for m in several])
            )
            shares.setdefault(kind, {})[arm] = PartShare(len(several), followed, right)
    return shares


def _forms(pairs: Sequence[tuple[int, int]], by_arm: Mapping[str, Counts]) -> Mapping[str, FormDifference]:
    found = {}
    for arm, counts in by_arm.items():
        chain, direct = (ratio(np.array([counts[place] for place in places])) for places in zip(*pairs, strict=True))
        found[arm] = FormDifference(len(pairs), chain.score, direct.score, (chain - direct).score)
    return found


def _pairs(rows: Sequence[Conversation]) -> list[tuple[int, int]]:
    """The places of every chain of thought and of the direct question on the same recording (rows of one `pair`)."""
    places: dict[tuple[str, int], dict[str, int]] = {}
    seen: dict[tuple[str, str], int] = {}
    for place, row in enumerate(rows):
        pair, form = str(row.extra.get("pair", "")), str(row.extra.get("form", ""))
        if not pair or not form:
            continue
        number = seen[pair, form] = seen.get((pair, form), -1) + 1  # the same row in another wording
        places.setdefault((pair, number), {})[form] = place
    return [(found[CHAIN], found[DIRECT]) for found in places.values() if {CHAIN, DIRECT} <= found.keys()]

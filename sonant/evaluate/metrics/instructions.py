"""Whether a reply does what it was told, checked without a judge: every part of a combined instruction by its own rule.

    told     write the words; then say it in german; then how does the speaker sound; then, without listening, ...
    reply    the words: the cat sleeps / in german: die katze schläft / it sounds: sad / the answer is: ...
             └──intro──┘└────body────┘

Following and being right are two numbers. All texts are compared after the normaliser "basic" (case, punctuation,
spaces). A reply is cut wherever one of the row's intros stands in it, so line breaks and bullets do not matter; what
stands before the first intro is not looked at. A part is **followed** if

    in place        its intro stands in the reply exactly once, behind the intros of the parts before it that are there
    its body is     of the right kind:
      transcription   at most MAX_WER word errors a reference word
      translation     chrF of MIN_CHRF or more against the reference, and more than against the transcript: an echo in
                      the language of the recording is no translation
      label           exactly one of `labels` stands in it (as whole words), with at most MAX_LABEL_WORDS words in all
      question, continuation, summary
                      not empty; not nearer (in word edits, over the longer of both) to the transcript or to the
                      reference of another part than to its own: transcribing is no answering; and at most
                      MAX_LENGTH times the words of its reference, or MAX_MORE_WORDS more than those

and **right** if it is followed and its body equals the reference or one of `aliases`; of a label, if it is that label.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sonant.chat.messages import Conversation
from sonant.data.instructions import Instruction, Kind, listed_instructions
from sonant.errors import ConfigError, EvaluationError
from sonant.evaluate.metrics.score import RowMetric
from sonant.evaluate.metrics.text import chrf_of, distances, word_errors
from sonant.evaluate.normalize import basic

MAX_WER = 0.5
MIN_CHRF = 40.0
MAX_LABEL_WORDS = 8
MAX_LENGTH, MAX_MORE_WORDS = 2.0, 5


@dataclass(frozen=True)
class PartMark:
    """What a reply made of one instruction."""

    kind: Kind
    followed: bool
    right: bool


def instructions_of(row: Conversation) -> tuple[Instruction, ...]:
    """Returns what a row asks for. Raises: EvaluationError if it does not say so, or says it in another form."""
    try:
        asked = listed_instructions(row)
    except ConfigError as error:
        raise EvaluationError(str(error)) from None
    intros = [basic(each.intro) for each in asked]
    if not intros or len(set(intros)) < len(intros) or ("" in intros and len(intros) > 1):
        raise EvaluationError(
            f"row {row.id!r}: 'instructions' lists {len(intros)} with the intros {intros}; instruction following takes "
            "one or more, and where there are several, each with an intro of its own"
        )
    for each in asked:
        if each.labels and basic(each.reference) not in map(basic, each.labels):
            raise EvaluationError(
                f"row {row.id!r}: the reference {each.reference!r} is none of its labels {', '.join(each.labels)}"
            )
    return asked


def part_marks(answer: str, row: Conversation) -> tuple[PartMark, ...]:
    """Returns the mark of every instruction of a row, in their order."""
    asked = instructions_of(row)
    bodies = _bodies(answer, asked)
    transcript = transcript_of(row)
    others = [transcript] * (transcript is not None) + [each.reference for each in asked if each.kind != "label"]
    marks = []
    for each, body in zip(asked, bodies, strict=True):
        rivals = [basic(text) for text in others if text is not None and basic(text) != basic(each.reference)]
        followed = body is not None and _CHECKS[each.kind](body, each, rivals, basic(transcript or ""))
        marks.append(PartMark(each.kind, followed, followed and body is not None and _is_right(body, each)))
    return tuple(marks)


def transcript_of(row: Conversation) -> str | None:
    """Returns what the recordings of a row's last turn say; None if it has none, or one is not written down."""
    texts = [part.transcript for part in row.prompt().messages[-1].heard]
    return " ".join(map(str, texts)) if texts and None not in texts else None


def last_body(answer: str, row: Conversation) -> str:
    """Returns what a reply comes to: the body of the row's last instruction if its intro is there, else the last line.

    How a reply is laid out is a matter for `instruction_following`; here only its result counts.
    """
    last = _bodies(answer, instructions_of(row))[-1] if row.extra.get("instructions") else None
    lines = [line for line in answer.splitlines() if line.strip()]
    return last if last is not None else basic(lines[-1]) if lines else ""


def named_labels(text: str, labels: Sequence[str]) -> set[str]:
    """Returns the labels that stand in a text as whole words, both normalised; "not sad" names "sad"."""
    words = f" {basic(text)} "
    return {label for label in map(basic, labels) if f" {label} " in words}


def _bodies(answer: str, asked: Sequence[Instruction]) -> list[str | None]:
    """The normalised body of every part; None where its intro is missing, comes twice, or before that of another."""
    words, intros = basic(answer).split(), [basic(each.intro).split() for each in asked]
    if intros == [[]]:
        return [" ".join(words)]
    found: list[tuple[int, int]] = []  # (place of its first word, part)
    place = 0
    while place < len(words):
        fits = [part for part, intro in enumerate(intros) if words[place : place + len(intro)] == intro]
        part = max(fits, key=lambda part: len(intros[part]), default=None)  # "in german words" before "in german"
        if part is not None:
            found.append((place, part))
        place += 1 if part is None else len(intros[part])
    bodies: list[str | None] = [None] * len(asked)
    order = [part for _, part in found]
    for (start, part), (end, _) in pairwise([*found, (len(words), -1)]):
        before = order[: order.index(part)]
        if order.count(part) == 1 and all(other < part for other in before):
            bodies[part] = " ".join(words[start + len(intros[part]) : end])
    return bodies


def _is_right(body: str, asked: Instruction) -> bool:
    if asked.kind == "label":
        return named_labels(body, asked.labels) == {basic(asked.reference)}
    return body in {basic(text) for text in (asked.reference, *asked.aliases)}


def _transcribed(body: str, asked: Instruction, rivals: Sequence[str], transcript: str) -> bool:
    errors, num_words = word_errors(body, basic(asked.reference))
    return bool(body) and errors <= MAX_WER * num_words


def _translated(body: str, asked: Instruction, rivals: Sequence[str], transcript: str) -> bool:
    near = max(chrf_of(body, basic(text)) for text in (asked.reference, *asked.aliases))
    return near >= MIN_CHRF and near > chrf_of(body, transcript)


def _labelled(body: str, asked: Instruction, rivals: Sequence[str], transcript: str) -> bool:
    return len(named_labels(body, asked.labels)) == 1 and len(body.split()) <= MAX_LABEL_WORDS


def _answered(body: str, asked: Instruction, rivals: Sequence[str], transcript: str) -> bool:
    right = [basic(text).split() for text in (asked.reference, *asked.aliases)]
    words, longest = body.split(), max(map(len, right))
    if not words or len(words) > max(MAX_LENGTH * longest, longest + MAX_MORE_WORDS):
        return False
    own = min(_distance(words, text) for text in right)
    return all(own <= _distance(words, rival.split()) for rival in rivals)


def _distance(words: Sequence[str], others: Sequence[str]) -> float:
    found: float = distances().Levenshtein.normalized_distance(words, others)
    return found


_CHECKS: dict[Kind, Callable[[str, Instruction, Sequence[str], str], bool]] = {
    "transcription": _transcribed,
    "translation": _translated,
    "label": _labelled,
    "question": _answered,
    "continuation": _answered,
    "summary": _answered,
}


def _count_rows(held: Callable[[PartMark], bool]) -> Any:
    def count(answers: Sequence[str], rows: Sequence[Conversation]) -> list[tuple[float, float]]:
        pairs = zip(answers, rows, strict=True)
        return [(float(all(map(held, part_marks(answer, row)))), 1.0) for answer, row in pairs]

    return count


INSTRUCTION_FOLLOWING = RowMetric("instruction_following", True, _count_rows(lambda mark: mark.followed))
ALL_CORRECT = RowMetric("all_correct", True, _count_rows(lambda mark: mark.right))

"""Short answers to spoken questions, matched strictly and leniently.

strict    the reply is the key: case, punctuation and articles are forgiven, aliases are not asked
lenient   the key stands in the reply as whole words, or an alias of it does; numbers may be digits or words; where the
          question asks who, the last name will do; and what the key is known to get wrong is right as well

The known faults of a key are data (sonant/evaluate/answer_keys); misspelt keys match nothing better than themselves, so
a word may differ from the key's by one letter if it has six or more.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

from sonant.chat.messages import Conversation
from sonant.evaluate.metrics.score import RowMetric
from sonant.evaluate.metrics.text import distances
from sonant.evaluate.normalize import basic, squad

ARTICLES = {"a", "an", "the"}
LONG_WORD = 6  # letters from which on a word may be misspelt by one
WHO = re.compile(r"\b(who|whose|whom|which (person|president|author|king|queen|singer|actor|actress))\b")
DIGITS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


@dataclass(frozen=True)
class Fault:
    """A key that is wrong or not the only right one."""

    key: str
    question: tuple[str, ...]  # words of it
    also: tuple[str, ...]
    fault: str


def strict_match(answers: Sequence[str], rows: Sequence[Conversation]) -> list[tuple[float, float]]:
    """Returns (1 if the answer is the key and nothing else, but articles, case and punctuation; 1) of each row."""
    return [(float(squad(answer) == squad(row.reference)), 1.0) for answer, row in zip(answers, rows, strict=True)]


def lenient_match(answers: Sequence[str], rows: Sequence[Conversation]) -> list[tuple[float, float]]:
    """Returns (1 if the answer holds the key or what else is right, see above; 1) of each row."""
    return [
        (float(any(_holds(_words(answer), _words(key)) for key in right_answers(row))), 1.0)
        for answer, row in zip(answers, rows, strict=True)
    ]


def right_answers(row: Conversation) -> tuple[str, ...]:
    """Returns what the lenient match takes: the key, its aliases, last names, and what the key's faults allow."""
    question = basic(" ".join(part.transcript or "" for part in row.prompt().heard_parts))
    question = f"{question} {basic(row.messages[0].text)}".strip()
    right = [row.reference, *row.extra.get("aliases", ())]
    for fault in faults():
        if basic(fault.key) == basic(row.reference) and (not question or {*fault.question} <= {*question.split()}):
            right += fault.also
    if WHO.search(question):
        right += [words[-1] for answer in right if len(words := answer.split()) > 1]
    return tuple(dict.fromkeys(right))


@cache
def faults() -> tuple[Fault, ...]:
    """Returns the known faults of all keys."""
    folder = resources.files("sonant.evaluate").joinpath("answer_keys")
    found = []
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        for row in yaml.safe_load(file.read_text(encoding="utf-8")):
            found.append(Fault(row["key"], tuple(row["question"]), tuple(row["also"]), row["fault"]))
    return tuple(found)


def _words(text: str) -> list[str]:
    """Words without articles, numbers below a hundred in digits."""
    words = [word for word in basic(text).split() if word not in ARTICLES]
    found: list[str] = []
    for word in words:
        if word in DIGITS:
            number = DIGITS.index(word)
            if 0 < number < 10 and found and found[-1].endswith("0") and _is_tens(found[-1]):
                found[-1] = str(int(found[-1]) + number)
            else:
                found.append(str(number))
        elif word in TENS:
            found.append(str(10 * (2 + TENS.index(word))))
        else:
            found.append(word)
    return found


def _is_tens(number: str) -> bool:
    return number.isdigit() and len(number) == 2 and number >= "20"


def _holds(words: Sequence[str], wanted: Sequence[str]) -> bool:
    starts = range(len(words) - len(wanted) + 1)
    return bool(wanted) and any(
        all(_alike(word, key) for word, key in zip(words[start:], wanted, strict=False)) for start in starts
    )


def _alike(word: str, key: str) -> bool:
    if word == key:
        return True
    return min(len(word), len(key)) >= LONG_WORD and bool(distances().Levenshtein.distance(word, key) <= 1)


STRICT = RowMetric("qa_strict", True, strict_match)
LENIENT = RowMetric("qa_lenient", True, lenient_match)

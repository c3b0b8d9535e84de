"""Word marks: when each word of a clip begins, in seconds from its start, as the engine that speaks it tells.

in the barn                       text: words are what stands between spaces
|      |                          espeak's events: it says "in the" as one word
I n D @2 b A@ n                   and the phonemes it says
|   |    |                        marks: a word without an event begins at a phoneme, by its share of the letters
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

Marks = tuple[tuple[str, float], ...]  # (word, start in seconds) of every word of the text, in order
MOST_TOGETHER = 3  # words that espeak says as one ("has not been")


@dataclass(frozen=True)
class WordEvent:
    """One word as an engine hears it: `place` of its first letter in the text, its start, and those of its phonemes."""

    place: int
    start_s: float
    phonemes_s: tuple[float, ...] = ()


@dataclass
class _Word:
    text: str
    end: int
    events: list[WordEvent] = field(default_factory=list)


def word_marks(text: str, events: Sequence[WordEvent]) -> Marks | None:
    """Returns when each word of `text` begins; None where what is said is not what is written.

    That is so of numbers and abbreviations (several events in one word), of signs without a letter, and where words
    have no event and cannot have been said together with the one before.
    """
    words = [_Word(match.group(), match.end()) for match in re.finditer(r"\S+", text)]
    for event in events:
        # An event may point at the space before its word.
        if (owner := next((word for word in words if event.place < word.end), None)) is not None:
            owner.events.append(event)
    if not words or not words[0].events or any(not _is_said_as_written(word) for word in words):
        return None
    firsts = [index for index, word in enumerate(words) if word.events]
    marks: list[tuple[str, float]] = []
    for first, following in zip(firsts, [*firsts[1:], len(words)], strict=True):
        starts = _starts(words[first].events[0], [word.text for word in words[first:following]])
        if starts is None:
            return None
        marks += [(word.text, start) for word, start in zip(words[first:following], starts, strict=True)]
    ordered = all(one <= other for (_, one), (_, other) in pairwise(marks))
    return tuple(marks) if ordered else None


def _is_said_as_written(word: _Word) -> bool:
    return len(word.events) <= 1 and any(letter.isalpha() for letter in word.text)


def _starts(event: WordEvent, together: Sequence[str]) -> list[float] | None:
    """When each of the words begins that one event stands for; each but the first at a phoneme of its own."""
    num_letters, num_phonemes = sum(map(len, together)), len(event.phonemes_s)
    if not 1 <= len(together) <= min(MOST_TOGETHER, max(1, num_phonemes)):
        return None
    starts, letters, phoneme = [event.start_s], 0, 0
    for index, word in enumerate(together[:-1], start=1):
        letters += len(word)
        left = num_phonemes - (len(together) - index)  # each word after this one has a phoneme too
        phoneme = min(max(phoneme + 1, round(num_phonemes * letters / num_letters)), left)
        starts.append(event.phonemes_s[phoneme])
    return starts

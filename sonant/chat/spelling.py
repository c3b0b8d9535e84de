"""From the tokens of an answer to the letters and words that are said: one road for training and for what is written.

    tokens      "It" "'s" ":" " the" " c" "at" <|im_end|>       spoken: "the cat"
    token_word   -1   -1  -1     0     1    1      -1           -1: not spoken
    letters       t h e _ c a t                                 words joined by one space, as UTF-8 bytes
    letter_word   0 0 0 0 1 1 1                                 the space belongs to the word before it

Words are what white space parts. A token that holds letters of two words belongs to the first; one of white space
alone to the word before it, and at the start to the first.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sonant.chat.messages import AudioPart
from sonant.errors import ChatError

if TYPE_CHECKING:
    from sonant.chat.tokenizer import ChatTokenizer

MARKS = "words"  # the key of an audio part's `extra` that holds [[word, start in seconds], ...]


@dataclass(frozen=True, eq=False)
class Spelling:
    """What is said, letter by letter, and which word each letter and each token belongs to."""

    letters: NDArray[np.int64]  # (C,) UTF-8 bytes, 0..255
    letter_word: NDArray[np.int64]  # (C,)
    token_word: NDArray[np.int64]  # (N,) -1: the token is not spoken
    words: list[str]


def spell(tokenizer: "ChatTokenizer", token_ids: Sequence[int], *, spoken: str | None = None) -> Spelling:
    """Returns the spelling of an answer's tokens (N,), of a reference or as they were generated.

    What a token writes is told by what the tokens up to it say together, so every kind of tokenizer will do; a token
    that is a part of a letter belongs to that letter. Special tokens write nothing and are not spoken.

    spoken: the end of the text that is said; None: all of it. A token that straddles its start is spoken.

    Raises: ChatError if the tokens do not end in `spoken`.
    """
    text = tokenizer.decode(token_ids)
    start = 0 if spoken is None else len(text.rstrip()) - len(spoken.strip())
    if spoken is not None and text[max(0, start) :].strip() != spoken.strip():
        raise ChatError(
            f"the tokens of the answer say {text[-60:]!r}, which does not end in the spoken text {spoken[-60:]!r}; "
            "write that text as the tokenizer gives it back, or let all of the answer be spoken"
        )
    words = text[start:].split()
    word_of = _words_of(text, start)
    ends = _ends(tokenizer, token_ids, text)
    token_word = np.full(len(token_ids), -1, np.int64)
    for place, (token, first, end) in enumerate(zip(token_ids, [0, *ends], ends, strict=False)):
        if token not in tokenizer.special_ids and max(end, first + 1) > start and words:
            held = word_of[max(first, start) : max(end, first + 1)]
            token_word[place] = max(0, next((word for word in held if word >= 0), _before(word_of, first)))
    letters = " ".join(words).encode()
    lengths = [len(word.encode()) + 1 for word in words]
    letter_word = np.repeat(np.arange(len(words)), lengths)[: len(letters)]
    return Spelling(np.frombuffer(letters, np.uint8).astype(np.int64), letter_word.astype(np.int64), token_word, words)


def word_starts(part: AudioPart, words: Sequence[str], *, duration_s: float | None = None) -> list[float] | None:
    """Returns when each word begins, in seconds from the start of the part; NaN where one is unknown, None if all are.

    duration_s: how long the clip is, if that is known.

    Raises: ChatError if the part's list of words does not fit the spoken words, goes back or leaves the clip.
    """
    marks: Any = part.extra.get(MARKS)
    if marks is None:
        return None
    if not isinstance(marks, list | tuple) or not all(map(_is_mark, marks)):
        raise ChatError(
            f"spoken audio {part.name}: 'words' is {repr(marks)[:60]}; allowed is a list of [word, start in seconds], "
            "null where a start is unknown"
        )
    if len(marks) != len(words):
        pairs = zip(marks, words, strict=False)
        differing = next((f"{mark[0]!r} against {word!r}" for mark, word in pairs if mark[0] != word), "the last")
        raise ChatError(
            f"spoken audio {part.name}: 'words' lists {len(marks)} words, the spoken text has {len(words)}, the first "
            f"difference is {differing}; list each word between white space once, or leave 'words' out"
        )
    starts = [float("nan") if start is None else float(start) for _, start in marks]
    known = [start for start in starts if start == start]
    end = float("inf") if duration_s is None else duration_s
    for before, start in zip([0.0, *known], known, strict=False):
        if not (before <= start <= end and math.isfinite(start)):
            raise ChatError(
                f"spoken audio {part.name}: a word starts at {start:g} s, the one before it at {before:g} s, and the "
                f"clip has {end:g} s; starts never decrease and lie within the clip, counted from its offset_s"
            )
    return starts


def _is_mark(mark: Any) -> bool:
    if not isinstance(mark, list | tuple) or len(mark) != 2 or not isinstance(mark[0], str):
        return False
    start = mark[1]
    if isinstance(start, int) and abs(start) >= 1 << 53:  # no float
        return False
    return start is None or (isinstance(start, int | float) and not isinstance(start, bool))


def _words_of(text: str, start: int) -> list[int]:
    """The word of each character from `start` on; -1 for white space and for what stands before."""
    word_of, word, was_space = [-1] * len(text), -1, True
    for place in range(start, len(text)):
        is_space = text[place].isspace()
        word += was_space and not is_space
        word_of[place] = -1 if is_space else word
        was_space = is_space
    return word_of


def _before(word_of: Sequence[int], place: int) -> int:
    return max(word_of[:place], default=-1)


def _ends(tokenizer: "ChatTokenizer", token_ids: Sequence[int], text: str) -> list[int]:
    """How many characters of the text are there after each token; a letter of several tokens comes with its last."""
    ends = [0]
    for stop in range(1, len(token_ids) + 1):
        said = tokenizer.decode(token_ids[:stop])
        shared = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(said, text, strict=False))
        ends.append(max(ends[-1], len(said) if text.startswith(said) else sum(1 for _ in shared)))
    return ends[1:]

"""Spans drawn anew: which sentences of a row are heard, and which are read, changes every time the row comes up.

    stored   "- " ♪Buy milk.♪ " " ♪Two bottles.♪ "⏎" ♪Thanks!♪     ♪ an optional clip
    drawn    "- Buy milk. " ♪Two bottles.♪ "⏎Thanks!"

A user's clip is optional if it carries `"optional": true`; its transcript is the written sentence. Texts and
transcripts, joined in order, are the user's text byte for byte, whatever is drawn.
Source: VoiceTextBlender voices one run of sentences and freezes it; here there are several, and they never freeze.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeGuard

import numpy as np

from sonant.chat.messages import AudioPart, Conversation, Part, TextPart

MAX_CUTS = 3  # of a turn, so that it has at most two spoken runs


def is_optional(part: Part) -> TypeGuard[AudioPart]:
    """Whether a part of a user's message may be heard or read."""
    return isinstance(part, AudioPart) and part.extra.get("optional") is True and part.transcript is not None


def respan(row: Conversation, rng: np.random.Generator) -> Conversation:
    """Returns the row with some of its optional clips spoken, at least one, and the others written.

    Each turn is cut at up to three places, and its pieces are spoken and written in turn: a sentence is as likely to be
    spoken wherever it stands. A row without optional clips is returned as it is, and draws nothing.
    """
    counts = [sum(map(is_optional, message.heard)) for message in row.messages]
    if not any(counts):
        return row
    spoken = [flag for count in counts if count for flag in _draw(count, rng)]
    return spoken_where(row, spoken if any(spoken) else [True] * len(spoken))


def spoken_where(row: Conversation, is_spoken: Sequence[bool]) -> Conversation:
    """Returns the row with those of its optional clips spoken for which the list says so, the others written.

    No clip is optional any more.
    """
    flags = iter(is_spoken)

    def settled(part: Part) -> Part:
        if not is_optional(part):
            return part
        if not next(flags):
            return TextPart(part.transcript or "")
        return replace(part, extra={key: value for key, value in part.extra.items() if key != "optional"})

    messages = tuple(
        replace(m, parts=_joined(map(settled, m.parts))) if any(map(is_optional, m.heard)) else m for m in row.messages
    )
    return replace(row, messages=messages)


def as_written(row: Conversation) -> Conversation:
    """Returns the row with every optional clip written: no drawn row has more text."""
    return spoken_where(row, [False] * sum(map(is_optional, row.heard_parts)))


def _draw(num: int, rng: np.random.Generator) -> list[bool]:
    cuts = rng.choice(num - 1, size=rng.integers(min(MAX_CUTS, num - 1) + 1), replace=False)
    first = rng.integers(2)
    return [bool((np.count_nonzero(cuts < place) + first) % 2) for place in range(num)]


def _joined(parts: Iterable[Part]) -> tuple[Part, ...]:
    """Texts side by side become one, because tokenizers read across their border."""
    joined: list[Part] = []
    for part in parts:
        last = joined[-1] if joined else None
        if isinstance(part, TextPart) and isinstance(last, TextPart):
            joined[-1] = replace(last, text=last.text + part.text)
        else:
            joined.append(part)
    return tuple(joined)

"""Long recordings in pieces: cut at silences, asked about a few at a time, answered in order."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sonant.audio.segment import Window
from sonant.audio.voice_activity import segments
from sonant.chat.messages import AudioPart
from sonant.errors import BusyError
from sonant.serve.answering.questions import Event, Question
from sonant.serve.asking import Asked
from sonant.serve.decode_worker import RATE_HZ
from sonant.serve.service import Service
from sonant.serve.untrusted_audio import as_part

AHEAD = 4  # pieces of one recording that are answered at a time: others want their turn, too


@dataclass(frozen=True)
class Piece:
    """A stretch of a recording."""

    start_s: float
    end_s: float
    part: AudioPart


def pieces_of(samples: NDArray[np.float32], *, most_s: float, cut: bool) -> list[Piece]:
    """Returns the stretches of samples (S,) at 16 kHz in which somebody speaks, none longer than `most_s`.

    What is no longer than that is one piece, silence and all, unless `cut`. What is longer and holds no speech has no
    piece.
    """
    whole = [Window(0, len(samples))]
    fits = len(samples) <= most_s * RATE_HZ
    found = whole if fits and not cut else segments(samples, sample_rate_hz=RATE_HZ, max_s=most_s)
    return [
        Piece(window.start / RATE_HZ, window.stop / RATE_HZ, as_part(samples[window.start : window.stop]))
        for window in (found or (whole if fits else []))  # what is short is heard, whatever it sounds like
    ]


async def in_order(service: Service, questions: Sequence[Question]) -> AsyncGenerator[tuple[int, Event]]:
    """Yields (which question, event), all of a question before the next one's; some are answered ahead.

    Raises: BusyError if not even the first is taken; later ones wait for room. What an answer raises.
    """
    waiting, ahead = deque(questions), deque[Asked]()
    number = 0
    try:
        while waiting or ahead:
            while waiting and len(ahead) < AHEAD:
                try:
                    ahead.append(Asked(service, [waiting[0]]))
                except BusyError as busy:
                    if number == 0 and not ahead:
                        raise
                    if ahead:
                        break
                    await asyncio.sleep(busy.retry_after_s)
                else:
                    waiting.popleft()
            async with contextlib.aclosing(ahead[0].events()) as events:
                async for _, event in events:
                    yield number, event
            ahead.popleft()
            number += 1
    finally:
        for asked in ahead:
            asked.cancel()

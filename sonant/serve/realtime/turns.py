"""The sound that comes in and is not yet part of the conversation, and the turns that the server finds in it.

written     |..........................|#############|.........|####        # speech, as VoiceActivity hears it
turn              prefix_padding |-----|#############|-----| silence_duration
kept             |--------------------- from here on, while nobody speaks: enough for a beginning known late
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from sonant.audio.voice_activity import FLOOR_FRAMES, FRAME_S, Started, Stopped, VoiceActivity, VoiceActivityConfig
from sonant.serve.failures import RefusedError
from sonant.serve.realtime.coding import Coding, Pcm, as_float
from sonant.serve.realtime.shapes import ServerVad

LEAST_S = 0.1  # that may be committed


@dataclass(frozen=True)
class TurnStarted:
    """A turn began, its padding included, so many milliseconds into all that was written in the session."""

    at_ms: int


@dataclass(frozen=True, eq=False)
class TurnEnded:
    """A turn ended; `samples` (S,) are all of it."""

    at_ms: int
    samples: Pcm


TurnEvent: TypeAlias = TurnStarted | TurnEnded


class InputBuffer:
    """What was written and not committed. With `vad`, turns are cut out of it as they end."""

    def __init__(self, coding: Coding, *, vad: ServerVad | None, max_s: float) -> None:
        self.coding, self.vad, self.max_s = coding, vad, max_s
        self.written = 0  # samples in the whole session
        self._kept = bytearray()  # int16; grows and is forgotten from the front without being copied
        self.listen(vad)

    @property
    def duration_s(self) -> float:
        """Returns how much is kept."""
        return self._num_kept / self.coding.sample_rate_hz

    def listen(self, vad: ServerVad | None) -> None:
        """From here on, finds turns so (None: not at all); a turn that had begun is the client's to commit."""
        self.vad, self._ear, self._heard_from = vad, None, self.written
        if vad is not None:
            config = VoiceActivityConfig(margin_db=vad.margin_db, stop_s=vad.silence_duration_ms / 1000)
            self._ear = VoiceActivity(self.coding.sample_rate_hz, config=config)

    def append(self, samples: Pcm) -> list[TurnEvent]:
        """Takes more samples (S,) and returns which turns began and ended with them.

        A turn that fills the buffer ends there: nothing is lost, and what follows is another one.

        Raises: RefusedError, and takes nothing, if they do not fit.
        """
        room = round(self.max_s * self.coding.sample_rate_hz)
        if len(samples) > room - (0 if self._ear else self._num_kept):
            raise RefusedError(
                f"the buffer holds {self.duration_s:.1f} s and would hold more than {self.max_s:g} s with this; commit "
                "or clear it, or send less at a time",
                code="input_audio_buffer_full",
            )
        second = self._samples(1.0)  # at a time: a turn in the middle of much that comes at once ends before it is full
        return [
            event
            for start in range(0, len(samples), second)
            for event in self._append(samples[start : start + second], room)
        ]

    def _append(self, samples: Pcm, room: int) -> list[TurnEvent]:
        self._kept += samples.tobytes()
        self.written += len(samples)
        if self._ear is None or self.vad is None:
            return []
        events = [self._turn(event) for event in self._ear.push(as_float(samples))]
        if not self._ear.speaking:
            self._forget_before(
                self.written - self._samples(self.vad.prefix_padding_ms / 1000 + FLOOR_FRAMES * FRAME_S)
            )
        elif self._num_kept > room - self._samples(1.0):
            self._ear.finish()
            events.append(TurnEnded(self._ms(self.written), self._take(self.written)))
        return events

    def kept(self) -> Pcm:
        """Returns all that is kept, (S,). Raises: RefusedError if it is less than a tenth of a second."""
        if self.duration_s < LEAST_S:
            raise RefusedError(
                f"the buffer holds {self.duration_s * 1000:.0f} ms; {LEAST_S * 1000:.0f} ms are the least that can be "
                "committed; append audio first",
                code="input_audio_buffer_commit_empty",
            )
        return np.frombuffer(bytes(self._kept), np.int16)

    def clear(self) -> None:
        """Forgets all that is kept; a turn that had begun is over."""
        if self._ear is not None:
            self._ear.finish()
        self._kept.clear()

    def _turn(self, event: Started | Stopped) -> TurnEvent:
        assert self.vad is not None
        if isinstance(event, Started):
            self._forget_before(self._heard_from + self._samples(event.at_s - self.vad.prefix_padding_ms / 1000))
            return TurnStarted(self._ms(self.written - self._num_kept))
        stop = self._heard_from + self._samples(event.at_s + self.vad.silence_duration_ms / 1000)
        return TurnEnded(self._ms(stop), self._take(stop))

    def _take(self, stop: int) -> Pcm:
        """What is kept up to sample `stop` of the session; the rest stays."""
        count = max(0, self._num_kept - (self.written - stop))
        taken = np.frombuffer(bytes(self._kept[: 2 * count]), np.int16)
        del self._kept[: 2 * count]
        return taken

    def _forget_before(self, start: int) -> None:
        self._take(min(start, self.written))

    @property
    def _num_kept(self) -> int:
        return len(self._kept) // 2

    def _samples(self, seconds: float) -> int:
        return round(seconds * self.coding.sample_rate_hz)

    def _ms(self, sample: int) -> int:
        return round(sample * 1000 / self.coding.sample_rate_hz)

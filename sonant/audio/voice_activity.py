"""When somebody speaks: in a stream, as it comes in, or in a whole recording.

    samples ─ 20 ms frames ─ loudness ─────────┬─ above the floor by `margin_db`? ─ for `start_s` ─> Started
                                 └─ floor: the least of the last 2 s ─┘     not for `stop_s` ─> Stopped

Speech has gaps between its sounds, steady noise has none: the least of two seconds is the loudness of the room, and a
fan that is switched on is speech for two seconds at most (minimum statistics, Martin 2001). There is nothing to train
and nothing to load; who sings one note for two seconds is taken for a fan.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sonant.audio.segment import Window
from sonant.config import Config

Samples: TypeAlias = NDArray[np.float32]

FRAME_S = 0.02
LOWEST_HZ, HIGHEST_HZ = 200.0, 4000.0
FLOOR_FRAMES = 100  # 2 s
QUIETEST_DB = -60.0  # no room is quieter: rounding noise must not become speech
NOTHING_DB = -90.0  # digital silence: a microphone that is not open yet, or a gate; no room sounds like it
HYSTERESIS_DB = 2.0  # who is speaking may be so much less loud


class VoiceActivityConfig(Config):
    """What counts as speech."""

    margin_db: Annotated[float, Field(gt=0)] = 8.0  # above the floor
    start_s: Annotated[float, Field(gt=0)] = 0.08  # shorter sounds are clicks
    stop_s: Annotated[float, Field(gt=0)] = 0.5  # shorter pauses belong to the speech


@dataclass(frozen=True)
class Started:
    """Somebody began to speak `at_s` seconds from the first sample pushed; known `start_s` later."""

    at_s: float


@dataclass(frozen=True)
class Stopped:
    """Nobody has spoken since `at_s` seconds from the first sample pushed; known `stop_s` later."""

    at_s: float


class VoiceActivity:
    """Listens to a stream. What it says does not depend on how the stream is cut into pushes.

    A stream that begins with speech has no room to compare it with: it is known at the first pause between two sounds.
    """

    def __init__(self, sample_rate_hz: int, *, config: VoiceActivityConfig | None = None) -> None:
        self.config = config or VoiceActivityConfig()
        self.sample_rate_hz = sample_rate_hz
        self.speaking = False
        self._recent: deque[float] = deque(maxlen=FLOOR_FRAMES)  # loudness of the last frames
        self._room: deque[float] = deque(maxlen=FLOOR_FRAMES)  # of those in which there was any sound throughout
        self._waiting = np.zeros(0, np.float32)  # less than a frame
        self._frame = 0  # how many were heard
        self._settled = 0  # behind the last that was speech and is said to have stopped
        self._voiced_until = 0  # behind the last that is speech

    def push(self, samples: Samples) -> list[Started | Stopped]:
        """Returns what is known after the next samples (S,), in [-1, 1], that was not known before."""
        samples = np.concatenate([self._waiting, samples])
        whole = len(samples) - len(samples) % _frame_length(self.sample_rate_hz)
        self._waiting = samples[whole:]
        found = (self._hear(level) for level in loudness_db(samples[:whole], sample_rate_hz=self.sample_rate_hz))
        return [event for event in found if event is not None]

    def finish(self) -> list[Started | Stopped]:
        """Returns that speech stopped with the stream, if somebody was still speaking; then a stream may begin."""
        if not self.speaking:
            return []
        return [self._stop()]

    def _hear(self, level_db: float) -> Started | Stopped | None:
        if self._recent and min(level_db, self._recent[-1]) > NOTHING_DB:
            self._room.append(level_db)
        self._frame += 1
        self._recent.append(level_db)
        threshold_db = max(min(self._room, default=QUIETEST_DB), QUIETEST_DB) + self.config.margin_db
        if not self.speaking:
            return self._start(threshold_db)
        if level_db >= threshold_db - HYSTERESIS_DB:
            self._voiced_until = self._frame
        elif self._frame - self._voiced_until >= self.config.stop_s / FRAME_S:
            return self._stop()
        return None

    def _start(self, threshold_db: float) -> Started | None:
        """Whether the latest frames are speech; while the floor is new, whether any in two seconds were."""
        needed = max(1, round(self.config.start_s / FRAME_S))
        is_new = len(self._room) < FLOOR_FRAMES
        if self._recent[-1] < threshold_db and not is_new:
            return None
        first = max(self._settled, self._frame - (len(self._recent) if is_new else needed))
        voiced = [level >= threshold_db for level in self._recent][first - self._frame :]
        for start in range(len(voiced) - needed + 1):
            if all(voiced[start : start + needed]):
                self.speaking = True
                self._voiced_until = first + max(index for index, is_voiced in enumerate(voiced) if is_voiced) + 1
                return Started((first + start) * FRAME_S)
        return None

    def _stop(self) -> Stopped:
        self.speaking, self._settled = False, self._frame
        return Stopped(self._voiced_until * FRAME_S)


def segments(
    samples: Samples,
    *,
    sample_rate_hz: int,
    config: VoiceActivityConfig | None = None,
    pad_s: float = 0.2,
    max_s: float | None = None,
) -> list[Window]:
    """Returns where in a recording (S,) somebody speaks, in order; they do not overlap. Empty for silence and noise.

    pad_s: what is kept before and after speech, where there is room: half of the pause between two.
    max_s: longer ones are cut, where it is quietest, into pieces of at least a third of that.
    """
    levels = loudness_db(samples, sample_rate_hz=sample_rate_hz)
    ear = VoiceActivity(sample_rate_hz, config=config)
    events = [*ear.push(samples), *ear.finish()]
    spoken = [
        (round(started.at_s * sample_rate_hz), round(stopped.at_s * sample_rate_hz))
        for started, stopped in zip(events[::2], events[1::2], strict=True)
    ]
    padded = _padded(spoken, pad=round(pad_s * sample_rate_hz), num_samples=len(samples))
    if max_s is None:
        return padded
    frame = _frame_length(sample_rate_hz)
    most = max(3, int(max_s * sample_rate_hz) // frame)
    return [piece for window in padded for piece in _cut(window, levels, most=most, frame=frame)]


def loudness_db(samples: Samples, *, sample_rate_hz: int) -> NDArray[np.float64]:
    """Returns the loudness of each whole frame of 20 ms of samples (S,): (S // frame,) float64.

    0 dB is a sine of 1 kHz at full scale. Power is summed from 200 Hz to 4 kHz and weighted by frequency:
    hum, rumble and DC do not count, and noise of any colour from white to brown varies little from frame to frame.
    """
    length = _frame_length(sample_rate_hz)
    frames = samples[: len(samples) - len(samples) % length].reshape(-1, length)
    window = np.hanning(length + 1)[:-1].astype(np.float32)
    frequencies = np.fft.rfftfreq(length, 1.0 / sample_rate_hz)
    weights = frequencies / 1000.0 * ((frequencies >= LOWEST_HZ) & (frequencies <= HIGHEST_HZ))
    # A sine of amplitude 1 has |X|^2 of (window sum / 2)^2 in its bin and a quarter of it in each beside.
    full_scale = 1.5 * (float(window.sum()) / 2.0) ** 2
    power = np.square(np.abs(np.fft.rfft(frames * window, axis=1))) @ weights / full_scale
    return 10.0 * np.log10(np.maximum(power, 1e-12))


def _frame_length(sample_rate_hz: int) -> int:
    return round(FRAME_S * sample_rate_hz)


def _padded(spoken: list[tuple[int, int]], *, pad: int, num_samples: int) -> list[Window]:
    """The stretches with `pad` samples on both sides, or half of the pause between two where that is less."""
    windows = []
    for index, (start, stop) in enumerate(spoken):
        before = spoken[index - 1][1] if index else None
        after = spoken[index + 1][0] if index + 1 < len(spoken) else None
        first = 0 if before is None else (before + start) // 2
        last = num_samples if after is None else (stop + after) // 2
        windows.append(Window(max(start - pad, first), min(stop + pad, last)))
    return windows


def _cut(window: Window, levels: NDArray[np.float64], *, most: int, frame: int) -> Iterator[Window]:
    """The window in pieces of a third of `most` to `most` frames, each cut at the quietest frame that allows it."""
    start = window.start
    while window.stop - start > most * frame:
        first, last = start // frame, window.stop // frame
        reach = levels[first + most // 3 : min(first + most, last - most // 3)]  # of the rest there is a third, too
        quietest = first + most // 3 + int(reach.argmin())
        cut = quietest * frame + frame // 2
        yield Window(start, cut)
        start = cut
    yield Window(start, window.stop)

"""Where an utterance may be cut in two, without forced alignment: in a pause, at a word, or anywhere.

the red cat sleeps. |  anna has the ball        silence: the middle of a pause of 0.15 s or more
the red cat |sleeps.   anna has the ball        marks: where a word begins
the red c|at sleeps.   anna has the ball        anywhere
|------------------|                            the prompt, 1 to 8 s
                    |---------------------|     what is left to be said, 0.5 s or more
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import floor
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sonant.errors import ConfigError

CutBy = Literal["silence", "marks", "anywhere"]
FRAME_S = 0.01
PAUSE_S = 0.15  # shorter silences are inside words: p, t, k
QUIET_DB = 30.0  # below the clip's loud frames (their 95th percentile)
NEAR_S = 0.08  # how far a word that follows a pause may be marked from it


@dataclass(frozen=True)
class CutRule:
    """By what an utterance is cut, and how long its two parts are at least, the first also at most.

    Raises: ConfigError if no cut could keep to it.
    """

    by: CutBy = "silence"
    min_prompt_s: float = 1.0
    max_prompt_s: float = 8.0
    min_target_s: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.min_prompt_s <= self.max_prompt_s or self.min_target_s <= 0:
            raise ConfigError(
                f"prompts of {self.min_prompt_s} to {self.max_prompt_s} s before {self.min_target_s} s or more: give "
                "seconds above 0, the shortest prompt first"
            )

    @property
    def min_utterance_s(self) -> float:
        """The shortest utterance that has a cut."""
        return self.min_prompt_s + self.min_target_s

    def cut(
        self,
        samples: NDArray[np.float32],
        *,
        sample_rate_hz: int,
        rng: np.random.Generator,
        starts_s: Sequence[float] | None = None,
    ) -> float | None:
        """Returns where to cut an utterance (S,), in seconds from its start; None if there is no place.

        starts_s: when its words begin, if that is known; a pause then counts only where a word follows it.
        """
        duration_s = len(samples) / sample_rate_hz
        first, last = self.min_prompt_s, min(self.max_prompt_s, duration_s - self.min_target_s)
        if self.by == "anywhere":
            return round(float(rng.uniform(first, last)), 3) if first <= last else None
        places = list(starts_s or ())[1:]
        if self.by == "silence":
            found = pauses(samples, sample_rate_hz=sample_rate_hz)
            if starts_s is not None:
                found = [pause for pause in found if any(_follows(start, pause) for start in places)]
            places = [sum(pause) / 2 for pause in found]
        # Down to the millisecond, so that a word that begins at a cut is behind it.
        places = [place for place in (floor(place * 1000) / 1000 for place in places) if first <= place <= last]
        return places[int(rng.integers(len(places)))] if places else None


def pauses(samples: NDArray[np.float32], *, sample_rate_hz: int) -> list[tuple[float, float]]:
    """Returns the silences between sounds, (start, end) in seconds; what is before and after all sound is none."""
    size = max(1, round(FRAME_S * sample_rate_hz))
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    if not len(frames):
        return []
    level_db = 10 * np.log10(np.mean(np.square(frames, dtype=np.float64), axis=1) + 1e-10)
    loud = np.flatnonzero(level_db > np.percentile(level_db, 95) - QUIET_DB)
    gaps = ((before + 1, after) for before, after in pairwise(loud.tolist()))
    return [(start * FRAME_S, end * FRAME_S) for start, end in gaps if (end - start) * FRAME_S >= PAUSE_S]


def _follows(start_s: float, pause: tuple[float, float]) -> bool:
    return pause[0] + PAUSE_S / 2 <= start_s <= pause[1] + NEAR_S

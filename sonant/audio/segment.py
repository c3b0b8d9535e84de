"""Windows of audio too long for a model."""

import itertools
from dataclasses import dataclass

from sonant.errors import AudioError


@dataclass(frozen=True)
class Window:
    """The samples [start, stop) of a recording."""

    start: int
    stop: int

    @property
    def num_samples(self) -> int:
        """Returns the length in samples."""
        return self.stop - self.start


def windows(num_samples: int, *, max_samples: int, overlap: int = 0) -> list[Window]:
    """Returns the fewest equal windows (within one sample) that cover a recording exactly.

        |---------------------------|      num_samples
        |-----------|                      each at most max_samples long,
                |-----------|              each sharing exactly `overlap` samples with the next,
                        |-----------|      so no window is a short remainder

    Raises: AudioError if there are no samples or the overlap does not leave room to move on.
    """
    if num_samples < 1:
        raise AudioError(f"cannot cut {num_samples} samples into windows; give 1 or more")
    if not 0 <= overlap < max_samples:
        raise AudioError(f"the overlap of windows is {overlap} samples; 0 to {max_samples - 1} are allowed")
    if num_samples <= max_samples:
        return [Window(0, num_samples)]
    advance = num_samples - overlap
    count = -(-advance // (max_samples - overlap))
    starts = [i * advance // count for i in range(count + 1)]
    return [Window(start, following + overlap) for start, following in itertools.pairwise(starts)]

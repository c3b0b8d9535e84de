import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sonant.audio.segment import Window, windows
from sonant.errors import AudioError


@given(st.integers(1, 100_000), st.integers(1, 5_000), st.data())
def test_windows_cover_everything_and_share_exactly_the_overlap(num: int, most: int, data: st.DataObject) -> None:
    # Long recordings in tiny windows would only be slow.
    most = max(most, num // 100 + 1)
    overlap = data.draw(st.integers(0, most // 2))
    cut = windows(num, max_samples=most, overlap=overlap)
    assert cut[0].start == 0
    assert cut[-1].stop == num
    assert all(a.stop - b.start == overlap for a, b in itertools.pairwise(cut))
    lengths = [window.num_samples for window in cut]
    assert max(lengths) <= most
    assert max(lengths) - min(lengths) <= 1
    # No fewer windows would do.
    assert len(cut) == 1 or (len(cut) - 1) * (most - overlap) + overlap < num


def test_windows_without_overlap_partition_the_recording() -> None:
    assert windows(10, max_samples=4) == [Window(0, 3), Window(3, 6), Window(6, 10)]
    assert windows(4, max_samples=4) == [Window(0, 4)]


def test_impossible_windows_are_refused() -> None:
    with pytest.raises(AudioError, match="cannot cut 0 samples"):
        windows(0, max_samples=4)
    with pytest.raises(AudioError, match="overlap of windows is 4 samples; 0 to 3 are allowed"):
        windows(9, max_samples=4, overlap=4)

"""Movement and its kin, against loops and hand calculations."""

import numpy as np
import pytest
from numpy.typing import NDArray

from sonant.evaluate.metrics.speech import (
    dtw_distance,
    level_log_mels,
    movement,
    movement_ratio,
    speech_frames,
    variance_ratio,
)

Frames = NDArray[np.float64]


def babble(seconds: float = 1.0, seed: int = 0) -> NDArray[np.float32]:
    """Noise whose loudness and colour change every 50 ms."""
    rng = np.random.default_rng(seed)
    steps = [rng.normal(0, 1, 800) * rng.uniform(0.2, 1) for _ in range(round(seconds * 20))]
    return np.convolve(np.concatenate(steps), rng.normal(0, 1, 9), "same").astype(np.float32)


def smoothed(frames: Frames) -> Frames:
    padded = np.pad(frames, ((1, 1), (0, 0)), mode="edge")
    return 0.25 * padded[:-2] + 0.5 * padded[1:-1] + 0.25 * padded[2:]


def test_movement_ratio_is_1_with_itself() -> None:
    frames = level_log_mels(babble())
    assert movement_ratio(frames, frames) == 1.0


def test_smoothing_over_time_takes_movement_and_variance_away() -> None:
    frames = level_log_mels(babble())
    assert movement_ratio(smoothed(frames), frames) < 0.8
    assert variance_ratio(smoothed(frames), frames) < 1.0


@pytest.mark.parametrize("gain", [0.01, 3.0])
def test_gain_does_not_change_movement(gain: float) -> None:
    clip = babble()
    assert movement(level_log_mels(clip * gain)) == pytest.approx(movement(level_log_mels(clip)), rel=1e-5)


def test_movement_by_hand() -> None:
    """Bins move by 1 and 3 between the two frames of speech; the third frame, 10 nats lower, is silence."""
    frames = np.array([[0.0, 0.0], [1.0, 3.0], [-10.0, -10.0]])
    assert speech_frames(frames).tolist() == [True, True, False]
    assert movement(frames) == 2.0
    assert np.isnan(movement(frames[:1]))
    assert np.isnan(movement(frames[:0]))


def test_the_picture_is_what_the_spec_says() -> None:
    """Written out once more: level 0.05, Hann 800, hop 200, FFT 1024, not centred, HTK triangles 20 to 7600 Hz."""
    clip = babble(0.1)
    level = clip.astype(np.float64) / np.sqrt(np.mean(clip.astype(np.float64) ** 2)) * 0.05
    mels = np.linspace(2595 * np.log10(1 + 20 / 700), 2595 * np.log10(1 + 7600 / 700), 82)
    corners = 700 * (10 ** (mels / 2595) - 1)
    hz = np.arange(513) * 16000 / 1024
    frames = []
    for start in range(0, len(clip) - 799, 200):
        magnitude = np.abs(np.fft.rfft(level[start : start + 800] * np.hanning(801)[:-1], 1024))
        rows = []
        for low, top, high in zip(corners, corners[1:], corners[2:], strict=False):
            triangle = np.clip(np.minimum((hz - low) / (top - low), (high - hz) / (high - top)), 0, None)
            rows.append(np.log(magnitude @ triangle + 1e-4))
        frames.append(rows)
    np.testing.assert_allclose(level_log_mels(clip), frames, atol=1e-4)


def test_another_rate_is_resampled() -> None:
    import soxr

    clip = babble()
    up = soxr.resample(clip, 16_000, 32_000)
    assert movement(level_log_mels(up, sample_rate_hz=32_000)) == pytest.approx(movement(level_log_mels(clip)), rel=0.1)


def test_a_clip_said_twice_as_slowly_lies_at_no_distance() -> None:
    frames = level_log_mels(babble(0.3))
    assert dtw_distance(np.repeat(frames, 2, axis=0), frames) == pytest.approx(0, abs=1e-6)
    assert np.isnan(dtw_distance(frames[:0], frames))


def test_dtw_distance_equals_a_search_of_all_paths() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(4, 3)), rng.normal(size=(3, 3))
    costs = np.sqrt(np.mean((one[:, None] - other[None]) ** 2, axis=-1))

    def paths(i: int, j: int) -> list[list[float]]:
        if (i, j) == (0, 0):
            return [[costs[0, 0]]]
        before = [(i - 1, j - 1), (i - 1, j), (i, j - 1)]
        return [[*path, costs[i, j]] for a, b in before if a >= 0 and b >= 0 for path in paths(a, b)]

    best = min(paths(3, 2), key=sum)
    assert dtw_distance(one, other) == pytest.approx(np.mean(best))

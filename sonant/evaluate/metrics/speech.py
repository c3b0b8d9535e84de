"""What sound alone tells of speech: how much it moves, how long it is, how far it lies from a recording of its words.

    movement        how much log mels change from frame to frame: over-smoothed speech moves too little
    variance        how far they spread around their mean over time
    DTW distance    how far two sayings of the same words lie apart, once one is bent to the time of the other

All look at one picture, in which gain does not show: 80 log mels of clips brought to one level.
Source: specs/spectron.md, section 6, for the picture and for movement.
"""

from functools import cache

import numpy as np
import soxr
from numpy.typing import NDArray

from sonant.audio.mel import MelSpec, filters_of

SAMPLE_RATE_HZ = 16_000
LEVEL = 0.05  # root mean square of a clip
WINDOW, HOP, FFT = 800, 200, 1024  # samples
FLOOR = 1e-4  # is added to magnitudes
SPEECH_RANGE = 3.0  # nats below the loud frames of a clip in which there still is speech
LOUD = 95  # percentile of the means of frames

Samples = NDArray[np.float32]
Frames = NDArray[np.float64]


def level_log_mels(samples: Samples, *, sample_rate_hz: int = SAMPLE_RATE_HZ) -> Frames:
    """Returns (F, 80) log mels of samples (S,), F = 1 + (S - 800) // 200 at 16 kHz; a shorter clip has none."""
    if sample_rate_hz != SAMPLE_RATE_HZ:
        samples = soxr.resample(samples, sample_rate_hz, SAMPLE_RATE_HZ)
    clip = np.asarray(samples, dtype=np.float64)
    if len(clip) < WINDOW:
        return np.zeros((0, _filters().shape[1]))
    level = np.sqrt(np.square(clip).mean())
    clip = clip * (LEVEL / level) if level > 0 else clip
    windows = np.lib.stride_tricks.sliding_window_view(clip, WINDOW)[::HOP]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    frames: Frames = np.log(np.abs(np.fft.rfft(windows * hann, n=FFT)) @ _filters() + FLOOR)
    return frames


def speech_frames(log_mels: Frames) -> NDArray[np.bool_]:
    """Returns (F,): whether a frame is speech, by its mean: less than 3 nats below the clip's 95th percentile."""
    means = log_mels.mean(1)
    speech: NDArray[np.bool_] = means > np.percentile(means, LOUD) - SPEECH_RANGE
    return speech


def movement(log_mels: Frames) -> float:
    """Returns the mean of |L_t - L_t-1| over bins and over adjacent frames of speech, in nats; NaN where none are."""
    if not len(log_mels):
        return float("nan")
    speech = speech_frames(log_mels)
    pairs = speech[1:] & speech[:-1]
    return float(np.abs(np.diff(log_mels, axis=0))[pairs].mean()) if pairs.any() else float("nan")


def movement_ratio(spoken: Frames, real: Frames) -> float:
    """Returns the movement of one clip over that of another: below 1, the first is smoother."""
    return movement(spoken) / movement(real)


def variance_ratio(spoken: Frames, real: Frames) -> float:
    """Returns the variance over frames of speech, mean over bins, of one clip over that of another; NaN for none."""
    variances = [
        float(frames[speech_frames(frames)].var(axis=0).mean()) if len(frames) else np.nan for frames in (spoken, real)
    ]
    return variances[0] / variances[1] if variances[1] else float("nan")


def dtw_distance(spoken: Frames, real: Frames) -> float:
    """Returns the distance of two clips of the same words, in nats, once time is warped; NaN if one has no frame.

    A pair of frames lies apart by the root mean square over bins. Pairs follow one another by a step in one clip, in
    the other or in both; of all such paths from first to last, the cheapest counts, by the mean over its pairs.
    Source: the dynamic time warping of mel-cepstral distortion (Kubichek 1993), on log mels instead of cepstra.
    """
    if not len(spoken) or not len(real):
        return float("nan")
    squares = np.square(spoken).sum(1)[:, None] + np.square(real).sum(1) - 2 * spoken @ real.T
    costs = np.sqrt(np.maximum(squares, 0) / spoken.shape[1])
    rows, columns = costs.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    length = np.zeros((rows + 1, columns + 1))
    total[0, 0] = 0.0
    for diagonal in range(2, rows + columns + 1):  # all cells of one diagonal rest on the two before it
        i = np.arange(max(1, diagonal - columns), min(rows, diagonal - 1) + 1)
        j = diagonal - i
        before = ((i - 1, j - 1), (i - 1, j), (i, j - 1))
        reached = np.stack([total[place] for place in before])
        best = reached.argmin(0)
        total[i, j] = costs[i - 1, j - 1] + reached.min(0)
        length[i, j] = 1 + np.choose(best, [length[place] for place in before])
    return float(total[rows, columns] / length[rows, columns])


@cache
def _filters() -> Frames:
    """(513, 80) HTK triangles of height 1."""
    spec = MelSpec(num_mels=80, window_length=WINDOW, hop_length=HOP, fft_size=FFT, min_hz=20.0, max_hz=7600.0)
    filters: Frames = filters_of(spec).double().numpy()
    return filters

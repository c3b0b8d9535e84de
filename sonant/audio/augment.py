"""Recordings made harder, so that a model that learnt from few or synthetic voices understands real ones.

    samples ─ speed ─ room ─ tilt ─ noise ─ gain ─> samples        features ─ warp ─ masks ─> features

Every function is pure; all chance comes from the caller's `numpy.random.Generator`, so a row's augmentation depends
only on the row's generator.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import pydantic
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor

from sonant.config import Config
from sonant.errors import AudioError

Samples = NDArray[np.float32]
Color = Literal["white", "pink", "brown", "babble"]
Probability = Annotated[float, pydantic.Field(ge=0.0, le=1.0)]
COLOR_EXPONENTS = {"white": 0.0, "pink": 1.0, "brown": 2.0}


def _ordered(values: tuple[float, float]) -> tuple[float, float]:
    if not values[0] <= values[1]:
        raise ValueError("the range must be [lowest, highest]")
    return values


def _positive(values: tuple[float, float]) -> tuple[float, float]:
    if values[0] <= 0:
        raise ValueError("the range must lie above 0")
    return values


Range = Annotated[tuple[float, float], pydantic.AfterValidator(_ordered)]
PositiveRange = Annotated[Range, pydantic.AfterValidator(_positive)]


class AugmentConfig(Config):
    """How often and how much; each value is drawn evenly from its range."""

    noise_probability: Probability = 0.5
    noise_snr_db: Range = (0.0, 30.0)
    noise_colors: tuple[Color, ...] = pydantic.Field(("white", "pink", "brown"), min_length=1)
    speed_probability: Probability = 0.5
    speed: PositiveRange = (0.9, 1.1)
    gain_probability: Probability = 0.5
    gain_db: Range = (-12.0, 6.0)
    room_probability: Probability = 0.3
    rt60_s: PositiveRange = (0.1, 0.6)
    direct_to_reverb_db: Range = (0.0, 12.0)
    tilt_probability: Probability = 0.3
    tilt_db_per_octave: Range = (-4.0, 4.0)
    vtlp_probability: Probability = 0.3
    vtlp_factor: PositiveRange = (0.85, 1.15)
    spec_probability: Probability = 0.5
    num_time_masks: int = pydantic.Field(2, ge=0)
    max_time_mask_share: float = pydantic.Field(0.05, ge=0.0, le=1.0)  # of the recording's frames, each
    num_mel_masks: int = pydantic.Field(2, ge=0)
    max_mel_mask: int = pydantic.Field(15, ge=0)


class Augmenter:
    """Applies an AugmentConfig. `babble`: recordings (S,) at the rate of what will be augmented, for color "babble"."""

    def __init__(self, config: AugmentConfig, *, babble: Sequence[Samples] = ()) -> None:
        if "babble" in config.noise_colors and not babble:
            raise AudioError('noise_colors has "babble" but there are no recordings for it; give some or drop it')
        self.config = config
        self.babble = tuple(babble)

    @property
    def longest(self) -> float:
        """How many times as long a recording may become: 1 or more."""
        return max(1.0, 1 / self.config.speed[0]) if self.config.speed_probability > 0 else 1.0

    def samples(self, samples: Samples, *, sample_rate_hz: int, rng: np.random.Generator) -> Samples:
        """Returns the recording changed by chance: (S',) float32, S' = S unless its speed changes.

        Scaled down to a peak of 1 if it would be louder, which keeps every ratio.
        """
        config = self.config
        if rng.random() < config.speed_probability:
            samples = change_speed(samples, rng.uniform(*config.speed))
        if rng.random() < config.room_probability:
            rt60_s, direct_db = rng.uniform(*config.rt60_s), rng.uniform(*config.direct_to_reverb_db)
            samples = simulate_room(
                samples, sample_rate_hz=sample_rate_hz, rt60_s=rt60_s, direct_to_reverb_db=direct_db, rng=rng
            )
        if rng.random() < config.tilt_probability:
            db_per_octave = rng.uniform(*config.tilt_db_per_octave)
            samples = tilt_spectrum(samples, sample_rate_hz=sample_rate_hz, db_per_octave=db_per_octave)
        if rng.random() < config.noise_probability:
            color = config.noise_colors[rng.integers(len(config.noise_colors))]
            snr_db = rng.uniform(*config.noise_snr_db)
            samples = add_noise(samples, self._noise(color, len(samples), rng=rng), snr_db=snr_db)
        if rng.random() < config.gain_probability:
            samples = apply_gain(samples, rng.uniform(*config.gain_db))
        peak = np.abs(samples).max(initial=0.0)
        return samples / peak if peak > 1.0 else samples

    def features(self, features: Tensor, *, rng: np.random.Generator, stack: int = 1) -> Tensor:
        """Returns log-mel features (F, M) with another vocal tract length and SpecAugment masks, by chance: (F, M).

        stack: successive frames side by side in each, as in `FeatureSpec.stack`.
        """
        config = self.config
        mels = features.reshape(len(features) * stack, -1)
        if rng.random() < config.vtlp_probability:
            mels = warp_frequencies(mels, rng.uniform(*config.vtlp_factor))
        if rng.random() < config.spec_probability:
            max_frames = int(len(mels) * config.max_time_mask_share)
            mels = mask_bands(mels, dim=0, num_masks=config.num_time_masks, max_width=max_frames, rng=rng)
            mels = mask_bands(mels, dim=1, num_masks=config.num_mel_masks, max_width=config.max_mel_mask, rng=rng)
        return mels.reshape(features.shape)

    def _noise(self, color: Color, num_samples: int, *, rng: np.random.Generator) -> Samples:
        if color == "babble":
            return babble_noise(self.babble, num_samples, rng=rng)
        return colored_noise(num_samples, COLOR_EXPONENTS[color], rng=rng)


def add_noise(samples: Samples, noise: Samples, *, snr_db: float) -> Samples:
    """Returns samples + noise (S,), the noise scaled to `snr_db` below the samples' mean power.

    Noise of another length is repeated or cut. Digital silence stays silent: there is no level to stay below.

    Raises: AudioError if the noise is silent.
    """
    noise = np.resize(noise, len(samples)).astype(np.float32)
    level = _rms(noise)
    if level == 0.0:
        raise AudioError(f"the noise is silent over {len(samples)} samples and cannot be scaled to {snr_db:g} dB")
    return samples + noise * np.float32(_rms(samples) / level * 10.0 ** (-snr_db / 20.0))


def colored_noise(num_samples: int, exponent: float, *, rng: np.random.Generator) -> Samples:
    """Returns noise of unit power (num_samples,) whose power falls as 1 / f**exponent: 0 white, 1 pink, 2 brown.

    Below 1/320 of the sample rate (50 Hz at 16 kHz) it is flat: the power of brown noise would else lie where no one
    hears it, and an SNR would say nothing.
    """
    size = _fast_length(num_samples)
    bins = np.maximum(np.arange(size // 2 + 1), size / 320)
    noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(size)) * bins ** (-exponent / 2.0))[:num_samples]
    return (noise / _rms(noise)).astype(np.float32)


def babble_noise(
    recordings: Sequence[Samples], num_samples: int, *, rng: np.random.Generator, num_voices: int = 5
) -> Samples:
    """Returns several recordings speaking at once, each at unit power from a random point: (num_samples,)."""
    total = np.zeros(num_samples, np.float32)
    for index in rng.integers(len(recordings), size=num_voices):
        voice = recordings[index]
        voice = np.resize(np.roll(voice, -rng.integers(len(voice))), num_samples)
        total += voice / max(_rms(voice), 1e-6)
    return total


def change_speed(samples: Samples, factor: float) -> Samples:
    """Returns the samples played `factor` times as fast, pitch included: (about S / factor,) float32."""
    faster: Samples = soxr.resample(np.asarray(samples, np.float32), factor, 1.0)
    return faster


def apply_gain(samples: Samples, gain_db: float) -> Samples:
    """Returns the samples `gain_db` louder: (S,) float32."""
    return samples * np.float32(10.0 ** (gain_db / 20.0))


def simulate_room(
    samples: Samples,
    *,
    sample_rate_hz: int,
    rng: np.random.Generator,
    rt60_s: float = 0.3,
    direct_to_reverb_db: float = 6.0,
) -> Samples:
    """Returns the samples as heard in a simple room, at the same power: (S,) float32, what rings after the end is cut.

        impulse response:  |            the direct sound, at once
                           |.,:.. .     then noise that falls by 60 dB in `rt60_s`, `direct_to_reverb_db` below it

    Source: the statistical model of late reverberation (Polack 1988); single early reflections are not drawn.
    """
    num_tail = max(1, round(rt60_s * sample_rate_hz))
    decay = 10.0 ** (-3.0 * np.arange(1, num_tail + 1) / num_tail)
    tail = rng.standard_normal(num_tail) * decay
    tail *= 10.0 ** (-direct_to_reverb_db / 20.0) / np.sqrt(np.square(tail).sum())
    size = _fast_length(len(samples) + num_tail)
    response = np.fft.rfft(np.concatenate([[1.0], tail]), size)
    wet = np.fft.irfft(np.fft.rfft(samples, size) * response)[: len(samples)]
    return (wet * (_rms(samples) / max(_rms(wet), 1e-12))).astype(np.float32)


def tilt_spectrum(samples: Samples, *, sample_rate_hz: int, db_per_octave: float) -> Samples:
    """Returns the samples through another microphone: a slope around 1 kHz, at the same power: (S,) float32.

    The slope ends three octaves away from 1 kHz.
    """
    size = _fast_length(len(samples))
    octaves = np.log2(np.maximum(np.fft.rfftfreq(size, 1.0 / sample_rate_hz), 1.0) / 1000.0).clip(-3.0, 3.0)
    tilted = np.fft.irfft(np.fft.rfft(samples, size) * 10.0 ** (db_per_octave * octaves / 20.0))[: len(samples)]
    return (tilted * (_rms(samples) / max(_rms(tilted), 1e-12))).astype(np.float32)


def warp_frequencies(mels: Tensor, factor: float) -> Tensor:
    """Returns log-mel frames (F, M) of a vocal tract `factor` times as short: what was at f is at f * factor.

    Linear up to 4.8 kHz / max(factor, 1), then straight to the upper edge, which stays. Assumes mels up to 8 kHz.

    Source: Jaitly and Hinton 2013 (VTLP), applied to the finished mels instead of the filters.
    """
    num_mels = mels.shape[1]
    top_hz, knee_hz = 8000.0, 4800.0 * min(factor, 1.0)
    centres_hz = _mel_to_hz(np.linspace(0.0, _hz_to_mel(top_hz), num_mels + 2))[1:-1]
    source_hz = np.interp(centres_hz, [0.0, knee_hz, top_hz], [0.0, knee_hz / factor, top_hz])
    position = _hz_to_mel(source_hz) / _hz_to_mel(top_hz) * (num_mels + 1) - 1.0
    position = position.clip(0.0, num_mels - 1.0)
    low = position.astype(np.int64)
    below, above = (torch.from_numpy(index) for index in (low, np.minimum(low + 1, num_mels - 1)))
    share = torch.from_numpy(position - low).to(mels.dtype)
    return torch.lerp(mels.index_select(1, below), mels.index_select(1, above), share)


def mask_bands(features: Tensor, *, dim: int, num_masks: int, max_width: int, rng: np.random.Generator) -> Tensor:
    """Returns features (F, M) with up to `num_masks` bands of frames (dim 0) or mels (dim 1) set to their mean.

        dim 0: ..██....█....     each 0 to `max_width` wide, anywhere, may overlap
               ..██....█....

    Source: Park et al. 2019 (SpecAugment), section 2, without time warping.
    """
    masked = features.clone()
    size = features.shape[dim]
    for _ in range(num_masks):
        width = int(rng.integers(min(max_width, size) + 1))
        start = int(rng.integers(size - width + 1))
        masked.narrow(dim, start, width).fill_(features.mean())
    return masked


def _rms(samples: NDArray[np.floating]) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if len(samples) else 0.0


def _fast_length(num_samples: int) -> int:
    return 1 << max(1, (num_samples - 1).bit_length())


def _hz_to_mel(hz: NDArray[np.float64] | float) -> NDArray[np.float64]:
    return np.asarray(np.log1p(np.asarray(hz) / 700.0))


def _mel_to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(700.0 * np.expm1(mel))

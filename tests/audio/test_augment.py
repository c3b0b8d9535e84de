import numpy as np
import pydantic
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sonant.audio.augment import (
    AugmentConfig,
    Augmenter,
    add_noise,
    apply_gain,
    babble_noise,
    change_speed,
    colored_noise,
    mask_bands,
    simulate_room,
    tilt_spectrum,
    warp_frequencies,
)
from sonant.config import validate
from sonant.errors import AudioError, ConfigError

RATE_HZ = 16_000
ALWAYS = AugmentConfig(
    noise_probability=1,
    speed_probability=1,
    gain_probability=1,
    room_probability=1,
    tilt_probability=1,
    vtlp_probability=1,
    spec_probability=1,
)
NEVER = AugmentConfig(
    noise_probability=0,
    speed_probability=0,
    gain_probability=0,
    room_probability=0,
    tilt_probability=0,
    vtlp_probability=0,
    spec_probability=0,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def tone(num_samples: int = RATE_HZ, frequency_hz: float = 1000.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(num_samples) / RATE_HZ)).astype(np.float32)


def power_db(samples: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(samples.astype(np.float64) ** 2)))


def loudest_hz(samples: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(samples)).argmax() * RATE_HZ / len(samples))


@settings(max_examples=30, deadline=None)
@given(st.floats(-10, 40), st.integers(100, 20_000), st.integers(1, 30_000))
def test_the_measured_snr_is_the_one_asked_for(snr_db: float, num_samples: int, num_noise: int) -> None:
    samples = tone(num_samples).astype(np.float64)
    noisy = add_noise(samples, rng().standard_normal(num_noise), snr_db=snr_db)
    assert noisy.shape == samples.shape
    assert power_db(samples) - power_db(noisy - samples) == pytest.approx(snr_db, abs=0.01)


def test_silence_stays_silent_and_silent_noise_is_refused() -> None:
    np.testing.assert_array_equal(add_noise(np.zeros(9, np.float32), tone(9), snr_db=3), np.zeros(9))
    with pytest.raises(AudioError, match="the noise is silent over 9 samples"):
        add_noise(tone(9), np.zeros(9, np.float32), snr_db=3)


@pytest.mark.parametrize(("exponent", "expected_db"), [(0.0, 0.0), (1.0, -3.01), (2.0, -6.02)])
def test_colored_noise_falls_by_its_slope_in_each_octave(exponent: float, expected_db: float) -> None:
    noise = colored_noise(1 << 17, exponent, rng=rng())
    assert noise.dtype == np.float32
    assert np.mean(noise**2) == pytest.approx(1.0, abs=1e-4)
    power = np.abs(np.fft.rfft(noise)) ** 2
    frequencies_hz = np.fft.rfftfreq(len(noise), 1 / RATE_HZ)

    def band_db(low_hz: float) -> float:
        inside = (frequencies_hz >= low_hz) & (frequencies_hz < 2 * low_hz)
        return float(10 * np.log10(power[inside].mean()))

    for low_hz in (250.0, 1000.0, 2000.0):
        assert band_db(2 * low_hz) - band_db(low_hz) == pytest.approx(expected_db, abs=0.4)


def test_babble_has_every_voice_as_loud_and_the_asked_length() -> None:
    noise = babble_noise([tone(4000, 500), 0.01 * tone(7000, 3000)], 20_000, rng=rng(1), num_voices=20)
    assert noise.shape == (20_000,)
    spectrum = np.abs(np.fft.rfft(noise))
    assert 0.1 < spectrum[int(500 * 20_000 / RATE_HZ)] / spectrum[int(3000 * 20_000 / RATE_HZ)] < 10


@settings(max_examples=20, deadline=None)
@given(st.floats(0.5, 2.0), st.integers(1000, 20_000))
def test_speed_changes_length_and_pitch(factor: float, num_samples: int) -> None:
    faster = change_speed(tone(num_samples), factor)
    assert abs(len(faster) - num_samples / factor) <= 1
    assert loudest_hz(faster) == pytest.approx(1000 * factor, abs=2 * RATE_HZ / len(faster))


def test_gain_is_in_decibels() -> None:
    assert power_db(apply_gain(tone(), -6.0)) - power_db(tone()) == pytest.approx(-6.0, abs=1e-4)


def test_a_room_rings_for_its_rt60_after_the_direct_sound() -> None:
    click = np.zeros(RATE_HZ, np.float32)
    click[100] = 1.0
    heard = simulate_room(click, sample_rate_hz=RATE_HZ, rng=rng(), rt60_s=0.4, direct_to_reverb_db=6.0)
    assert heard.shape == click.shape
    assert np.abs(heard).argmax() == 100
    assert np.abs(heard[:99]).max() < 1e-6
    direct, tail = heard[100], heard[101:]
    assert 10 * np.log10(direct**2 / np.sum(tail.astype(np.float64) ** 2)) == pytest.approx(6.0, abs=0.01)
    # Schroeder's backward integration: the energy still to come falls by 30 dB in half the RT60.
    remaining_db = 10 * np.log10(np.cumsum(tail[:6400][::-1].astype(np.float64) ** 2)[::-1])
    assert remaining_db[0] - remaining_db[3200] == pytest.approx(30.0, abs=1.5)
    assert np.abs(tail[6400:]).max() < 1e-6


def test_a_room_and_a_tilt_keep_the_power() -> None:
    voice = colored_noise(RATE_HZ, 1.0, rng=rng())
    for changed in (
        simulate_room(voice, sample_rate_hz=RATE_HZ, rng=rng()),
        tilt_spectrum(voice, sample_rate_hz=RATE_HZ, db_per_octave=5.0),
    ):
        assert changed.dtype == np.float32
        assert power_db(changed) == pytest.approx(power_db(voice), abs=0.01)


def test_a_tilt_changes_two_tones_by_its_slope() -> None:
    both = tone(RATE_HZ, 500) + tone(RATE_HZ, 2000)
    spectrum = np.abs(np.fft.rfft(tilt_spectrum(both, sample_rate_hz=RATE_HZ, db_per_octave=3.0)))
    assert 20 * np.log10(spectrum[2000] / spectrum[500]) == pytest.approx(6.0, abs=0.2)


def test_warping_by_one_changes_nothing_and_by_more_moves_peaks_up() -> None:
    mels = torch.zeros(3, 80)
    mels[:, 30] = 1.0
    torch.testing.assert_close(warp_frequencies(mels, 1.0), mels, atol=1e-5, rtol=0)
    up, down = warp_frequencies(mels, 1.1), warp_frequencies(mels, 0.9)
    assert up[0].argmax() > 30 > down[0].argmax()
    # By hand: mel 30 of 80 lies at 700 * ((1 + 8000 / 700) ** (31 / 81) - 1) = 1135.6 Hz; 1.1 times that is mel 32.0.
    assert up[0].argmax() == 32


@settings(max_examples=30, deadline=None)
@given(st.floats(0.7, 1.4), st.integers(2, 100))
def test_warping_keeps_the_shape_and_the_range(factor: float, num_mels: int) -> None:
    mels = torch.randn(4, num_mels, generator=torch.Generator().manual_seed(num_mels))
    warped = warp_frequencies(mels, factor)
    assert warped.shape == mels.shape
    assert warped.max() <= mels.max() + 1e-5
    assert warped.min() >= mels.min() - 1e-5


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1), st.integers(0, 4), st.integers(0, 60), st.integers(0, 1000))
def test_masks_are_whole_bands_no_wider_than_allowed(dim: int, num_masks: int, max_width: int, seed: int) -> None:
    features = torch.randn(50, 40, generator=torch.Generator().manual_seed(seed)) + 10
    masked = mask_bands(features, dim=dim, num_masks=num_masks, max_width=max_width, rng=rng(seed))
    changed = masked != features
    bands = changed.all(dim=1 - dim)
    assert torch.equal(changed.any(dim=1 - dim), bands)
    assert bands.sum() <= num_masks * max_width
    torch.testing.assert_close(masked[changed], features.mean().expand(int(changed.sum())))


def test_the_same_generator_gives_the_same_augmentation() -> None:
    augmenter, features = Augmenter(ALWAYS), torch.randn(120, 80)
    one, same, other = (augmenter.samples(tone(), sample_rate_hz=RATE_HZ, rng=rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert one.shape != other.shape or np.abs(one - other).max() > 1e-3
    masked, again = (augmenter.features(features, rng=rng(3)) for _ in range(2))
    torch.testing.assert_close(masked, again, rtol=0, atol=0)
    assert not torch.equal(masked, features)


def test_an_augmenter_that_does_nothing_changes_nothing() -> None:
    features = torch.randn(10, 160)
    assert Augmenter(NEVER).samples(tone(), sample_rate_hz=RATE_HZ, rng=rng()) is not None
    np.testing.assert_array_equal(Augmenter(NEVER).samples(tone(), sample_rate_hz=RATE_HZ, rng=rng()), tone())
    torch.testing.assert_close(Augmenter(NEVER).features(features, rng=rng()), features, rtol=0, atol=0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(400, 8000))
def test_augmented_samples_are_finite_float32_within_one(seed: int, num_samples: int) -> None:
    augmenter = Augmenter(ALWAYS.model_copy(update={"noise_colors": ("babble", "brown")}), babble=[tone(3000, 300)])
    changed = augmenter.samples(tone(num_samples), sample_rate_hz=RATE_HZ, rng=rng(seed))
    assert changed.dtype == np.float32
    assert np.isfinite(changed).all()
    assert np.abs(changed).max() <= 1.0
    low, high = ALWAYS.speed
    assert num_samples / high - 1 <= len(changed) <= num_samples / low + 1


def test_stacked_features_are_masked_by_mel_in_every_frame() -> None:
    config = NEVER.model_copy(update={"spec_probability": 1.0, "num_time_masks": 0, "num_mel_masks": 1})
    features = torch.randn(20, 160)
    changed = Augmenter(config).features(features, rng=rng(5), stack=2) != features
    assert changed.any()
    assert torch.equal(changed[:, :80], changed[:, 80:])


def test_settings_that_mean_nothing_are_refused() -> None:
    for values, message in (
        ({"noise_probability": 1.5}, "noise_probability"),
        ({"speed": [1.1, 0.9]}, r"the range must be \[lowest, highest\]"),
        ({"speed": [0.0, 1.0]}, "the range must lie above 0"),
        ({"noise_colors": ["blue"]}, "noise_colors"),
        ({"nois_probability": 1.0}, "did you mean 'noise_probability'"),
    ):
        with pytest.raises(ConfigError, match=message):
            validate(AugmentConfig, values, where="train.yaml")
    with pytest.raises(pydantic.ValidationError):
        AugmentConfig(noise_colors=())
    with pytest.raises(AudioError, match='"babble" but there are no recordings'):
        Augmenter(AugmentConfig(noise_colors=("babble",)))

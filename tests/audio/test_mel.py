"""The mels that a voice is made of: against Hugging Face's filters and numpy's FFT, by hand, and by properties."""

import numpy as np
import pytest
import torch
from transformers.audio_utils import mel_filter_bank

from sonant.audio.mel import MelSpec, filters_of, log_mel, magnitudes, overlap_add, spectra, window_of
from sonant.errors import ConfigError

SPEC = MelSpec()


def noise(*shape: int) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_filters_are_htk_triangles_of_height_1_as_in_transformers() -> None:
    theirs = mel_filter_bank(513, 128, 20.0, 8000.0, 16_000, norm=None, mel_scale="htk")
    assert np.abs(filters_of(SPEC).numpy() - theirs).max() < 1e-5
    assert filters_of(SPEC).amax(0).min() > 0  # no filter falls between two bins


def test_a_frame_equals_numpys_spectrum_around_the_middle_of_its_hop() -> None:
    samples = noise(4000)
    middle = 7 * 200 + 100
    frame = samples.numpy()[middle - 400 : middle + 400].astype(np.float64)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(800) / 800)
    by_hand = np.abs(np.fft.rfft(frame * window, n=1024))
    assert np.abs(magnitudes(samples, SPEC)[7].numpy() - by_hand).max() < 1e-4
    theirs = np.log(np.maximum(1e-5, by_hand @ mel_filter_bank(513, 128, 20.0, 8000.0, 16_000, None, "htk")))
    assert np.abs(log_mel(samples, SPEC)[7].numpy() - theirs).max() < 1e-4


@pytest.mark.parametrize(("num_samples", "num_frames"), [(0, 0), (1, 1), (199, 1), (200, 1), (201, 2), (60_000, 300)])
def test_there_is_one_frame_for_every_hop_begun(num_samples: int, num_frames: int) -> None:
    assert SPEC.num_frames(num_samples) == num_frames
    assert log_mel(noise(2, num_samples), SPEC).shape == (2, num_frames, 128)


def test_silence_is_the_floor_and_a_batch_equals_its_rows() -> None:
    assert log_mel(torch.zeros(1000), SPEC).eq(np.float32(SPEC.log_floor)).all()
    rows = noise(3, 2, 3000)
    assert torch.allclose(log_mel(rows, SPEC)[1, 1], log_mel(rows[1, 1], SPEC), atol=1e-5)


def test_frames_of_a_part_cut_at_hops_are_that_part_of_the_frames() -> None:
    samples = noise(8000)
    whole, part = log_mel(samples, SPEC), log_mel(samples[2000:6000], SPEC)
    assert torch.allclose(part[3:-3], whole[13:27], atol=1e-5)  # three frames away no window reaches the cut


def test_windowed_frames_laid_back_give_the_samples_again() -> None:
    samples = noise(2, 5000)
    window = window_of(SPEC)
    frames = torch.fft.irfft(spectra(samples, SPEC)) * window
    weight = overlap_add(window.square().expand(1, 25, 1024), SPEC)
    assert torch.allclose(overlap_add(frames, SPEC) / weight, samples, atol=1e-5)


@pytest.mark.parametrize(
    ("setting", "said"),
    [({"num_mels": 0}, "num_mels is 0"), ({"hop_length": 900}, "hop <= window <= FFT"), ({"max_hz": 9e3}, "8000")],
)
def test_a_spec_that_cannot_be_is_refused(setting: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        MelSpec(**setting)

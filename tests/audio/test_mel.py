"""The mels that a voice is made of: against Hugging Face's filters and numpy's FFT, by hand, and by properties."""

import numpy as np
import pytest
import torch
from transformers import SpeechT5FeatureExtractor
from transformers.audio_utils import mel_filter_bank

from sonant.audio.mel import MelSpec, Synthesis, filters_of, log_mel, magnitudes, overlap_add, spectra
from sonant.errors import ConfigError

SPEC = MelSpec()


def noise(*shape: int) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_filters_are_htk_triangles_of_height_1_as_in_transformers() -> None:
    theirs = mel_filter_bank(513, 128, 20.0, 8000.0, 16_000, norm=None, mel_scale="htk")
    assert np.abs(filters_of(SPEC).numpy() - theirs).max() < 1e-5
    assert filters_of(SPEC).amax(0).min() > 0  # no filter falls between two bins


def test_slaneys_filters_are_those_that_speecht5_hears_by() -> None:
    spec = MelSpec(num_mels=80, window_length=1024, hop_length=256, min_hz=80.0, max_hz=7600.0, scale="slaney")
    assert np.abs(filters_of(spec).numpy() - SpeechT5FeatureExtractor().mel_filters).max() < 1e-7


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


def test_spectra_laid_back_give_the_samples_again_and_nothing_after_a_rows_end() -> None:
    samples = noise(2, 5000)
    samples[1, 3000:] = 0
    again = Synthesis(torch.tensor([25, 15]), 25, SPEC)(spectra(samples, SPEC))
    assert torch.allclose(again[0], samples[0], atol=1e-5)
    assert torch.allclose(again[1, :2200], samples[1, :2200], atol=1e-5)  # frames past the end reached back to here
    assert again[1, 3000:].eq(0).all()


def test_overlap_add_equals_a_loop() -> None:
    frames = noise(2, 4, 1024)
    by_hand = torch.zeros(2, 3 * 200 + 1024)
    for number in range(4):
        by_hand[:, 200 * number : 200 * number + 1024] += frames[:, number]
    assert torch.allclose(overlap_add(frames, SPEC), by_hand[:, 412 : 412 + 800], atol=1e-6)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"scale": "bark"}, "htk and slaney"),
        ({"num_mels": 0}, "num_mels is 0"),
        ({"hop_length": 900}, "hop <= window <= FFT"),
        ({"max_hz": 9e3}, "8000"),
    ],
)
def test_a_spec_that_cannot_be_is_refused(setting: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        MelSpec(**setting)


def test_two_specs_tell_where_they_differ() -> None:
    assert SPEC.unlike(MelSpec()) == ""
    assert SPEC.unlike(MelSpec(hop_length=256, num_mels=80)) == "num_mels 128 against 80, hop_length 200 against 256"

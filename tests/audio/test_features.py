import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    ParakeetFeatureExtractor,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)
from transformers.audio_utils import mel_filter_bank

from sonant.audio.features import FeatureSpec, extract, mel_filters
from sonant.audio.io import load
from sonant.errors import AudioError, ConfigError

SAMPLES = Path(__file__).parents[2] / ".." / "shared" / "data" / "samples"
PRESETS = {
    "whisper": FeatureSpec.whisper(),
    "whisper-128": FeatureSpec.whisper(128),
    "seamless": FeatureSpec.seamless(),
    "parakeet": FeatureSpec.parakeet(),
    "parakeet-128": FeatureSpec.parakeet(128),
    "waveform": FeatureSpec.waveform(normalize=True),
    "raw waveform": FeatureSpec.waveform(normalize=False),
    "tiny": FeatureSpec.tiny(),
}


def reference(name: str, samples: np.ndarray) -> np.ndarray:
    """What Hugging Face's extractor gives for one recording, without padding or what it masks."""
    if name.startswith("whisper"):
        num_mels = PRESETS[name].num_mels
        extracted: Any = WhisperFeatureExtractor(num_mels)(
            samples, sampling_rate=16_000, padding="do_not_pad", return_tensors="np"
        )
        return extracted.input_features[0].T
    if name == "waveform":
        return Wav2Vec2FeatureExtractor()(samples, sampling_rate=16_000).input_values[0]
    kind = SeamlessM4TFeatureExtractor if name == "seamless" else ParakeetFeatureExtractor
    extractor = kind(PRESETS[name].num_mels)
    extracted = extractor(samples, sampling_rate=16_000, return_tensors="np")
    return np.asarray(extracted.input_features[0])[: int(np.asarray(extracted.attention_mask[0]).sum())]


def speechlike(num_samples: int) -> np.ndarray:
    """A gliding tone with harmonics over noise, swelling and fading, with digital silence at both ends."""
    rng = np.random.default_rng(num_samples)
    phase = np.cumsum(0.05 + 0.02 * np.sin(np.arange(num_samples) / 3000))
    voice = sum(np.sin(k * phase) / k for k in range(1, 20)) * np.abs(np.sin(np.arange(num_samples) / 2500))
    samples = (0.2 * voice + 0.01 * rng.standard_normal(num_samples)).astype(np.float32)
    silence = num_samples // 8
    samples[:silence] = samples[num_samples - silence :] = 0.0
    return samples


REFERENCES = [name for name in PRESETS if name not in ("tiny", "raw waveform")]


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("num_samples", [720, 16_000, 40_123])
def test_features_equal_those_of_hugging_face(name: str, num_samples: int) -> None:
    samples = speechlike(num_samples)
    features = extract(torch.from_numpy(samples), PRESETS[name])
    np.testing.assert_allclose(features.numpy(), reference(name, samples), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", REFERENCES)
def test_features_of_real_speech_equal_those_of_hugging_face(name: str) -> None:
    if not SAMPLES.is_dir():
        pytest.skip("needs the recordings of shared/data")
    samples = load(SAMPLES / "librispeech.flac", duration_s=4.0)
    features = extract(torch.from_numpy(samples), PRESETS[name])
    np.testing.assert_allclose(features.numpy(), reference(name, samples), atol=1e-4, rtol=0)


@pytest.mark.parametrize("num_mels", [80, 128])
def test_slaney_filters_equal_those_of_hugging_face(num_mels: int) -> None:
    expected = mel_filter_bank(201, num_mels, 0.0, 8000.0, 16_000, norm="slaney", mel_scale="slaney")
    np.testing.assert_allclose(mel_filters(FeatureSpec.whisper(num_mels)), expected, atol=1e-12)


def test_kaldi_filters_equal_those_of_hugging_face() -> None:
    expected = mel_filter_bank(257, 80, 20.0, 8000.0, 16_000, mel_scale="kaldi", triangularize_in_mel_space=True)
    np.testing.assert_allclose(mel_filters(FeatureSpec.seamless()), expected, atol=1e-12)


def test_padding_whisper_with_its_silence_equals_padding_the_audio() -> None:
    samples = speechlike(16_000)
    samples[-2000:] = 0.0
    padded = WhisperFeatureExtractor()(samples, sampling_rate=16_000, return_tensors="np").input_features[0].T
    features = extract(torch.from_numpy(samples), FeatureSpec.whisper())
    silence = max(-1.5, features.max().item() - 2)
    np.testing.assert_allclose(padded[: len(features)], features.numpy(), atol=1e-4)
    np.testing.assert_allclose(padded[len(features) :], silence, atol=1e-4)


def test_a_tone_is_loudest_in_the_mel_of_its_frequency() -> None:
    spec = FeatureSpec("log_mel")
    tone = torch.sin(2 * torch.pi * 1000.0 * torch.arange(16_000) / 16_000)
    features = extract(tone, spec)
    centres_hz = (mel_filters(spec) * np.linspace(0, 8000, 201)[:, None]).sum(0) / mel_filters(spec).sum(0)
    assert abs(centres_hz[features.mean(0).argmax()] - 1000.0) < 40.0


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(PRESETS)), st.integers(0, 3000))
def test_the_number_of_frames_is_known_before(name: str, extra: int) -> None:
    spec = PRESETS[name]
    features = extract(torch.randn(spec.min_samples + extra), spec)
    assert len(features) == spec.num_frames(spec.min_samples + extra) >= 1
    assert features.shape[1:] == (() if spec.kind == "waveform" else (spec.dim,))
    assert features.dtype == torch.float32
    assert features.isfinite().all()


@pytest.mark.parametrize("name", PRESETS)
def test_audio_too_short_or_of_many_rows_is_refused(name: str) -> None:
    spec = PRESETS[name]
    too_few = 0 if spec.pad_short else spec.min_samples - 1
    with pytest.raises(AudioError, match=rf"shape \({too_few},\); give one row \(S,\) of at least"):
        extract(torch.zeros(too_few), spec)
    with pytest.raises(AudioError, match=r"shape \(2, 16000\)"):
        extract(torch.zeros(2, 16_000), spec)


def test_digital_silence_gives_finite_features() -> None:
    for spec in PRESETS.values():
        assert extract(torch.zeros(16_000), spec).isfinite().all()


def test_tiny_features_are_normalised_and_do_not_depend_on_loudness() -> None:
    samples = torch.from_numpy(speechlike(32_000)) + 0.01 * torch.randn(32_000)
    features = extract(samples, FeatureSpec.tiny())
    assert features.shape == (200, 80)
    torch.testing.assert_close(features.mean(0), torch.zeros(80), atol=1e-5, rtol=0)
    torch.testing.assert_close(features.std(0), torch.ones(80), atol=1e-3, rtol=0)
    torch.testing.assert_close(extract(0.5 * samples, FeatureSpec.tiny()), features, atol=1e-3, rtol=0)


def test_bands_that_a_telephone_cuts_off_are_zero_in_tiny_features() -> None:
    spectrum = torch.fft.rfft(torch.from_numpy(speechlike(32_000)))
    spectrum[8_000:] = 0
    features = extract(torch.fft.irfft(spectrum), FeatureSpec.tiny())
    assert features[:, -10:].count_nonzero() == 0
    assert features.std() > 0.5


@pytest.mark.parametrize("num_samples", [1, 100, 319])
def test_short_audio_is_padded_for_the_tiny_encoder(num_samples: int) -> None:
    assert extract(torch.ones(num_samples), FeatureSpec.tiny()).shape == (2, 80)
    assert FeatureSpec.tiny().num_frames(num_samples) == 2


def test_frame_rates_follow_from_hop_and_stack() -> None:
    rates_hz = {name: spec.frame_rate_hz for name, spec in PRESETS.items()}
    assert rates_hz["whisper"] == rates_hz["parakeet"] == rates_hz["tiny"] == 100
    assert rates_hz["seamless"] == 50
    assert rates_hz["waveform"] == 16_000


@pytest.mark.parametrize("name", PRESETS)
def test_a_spec_survives_json_and_is_hashable(name: str) -> None:
    spec = PRESETS[name]
    again = FeatureSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec
    assert len({again, spec}) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "log_mel", "num_bins": 3}, "unknown key 'num_bins'"),
        ({}, "no kind"),
        ({"kind": "mfcc"}, "kind is 'mfcc'; one of waveform, log_mel, encoded is allowed"),
        ({"kind": "log_mel", "window": "hamming"}, "window is 'hamming'; one of hann, hann_symmetric, povey"),
        ({"kind": "log_mel", "hop_length": 0}, "hop_length is 0; 1 or more is allowed"),
        ({"kind": "log_mel", "window_length": 999}, "window_length 999 exceeds n_fft 400"),
    ],
)
def test_a_spec_that_means_nothing_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FeatureSpec.from_json(values)


def test_thousands_of_clips_take_seconds() -> None:
    # 0.7 ms for 3 s of audio on a free core; the bound leaves room for a busy machine.
    samples = torch.from_numpy(speechlike(48_000))
    times = []
    for _ in range(10):
        start = time.thread_time()
        extract(samples, FeatureSpec.tiny())
        times.append(time.thread_time() - start)
    assert min(times) < 0.01


def test_frames_of_an_encoder_have_a_width_and_a_rate_and_survive_json():
    spec = FeatureSpec.encoded("ear-0123", 64, 12.5)
    assert (spec.dim, spec.frame_rate_hz) == (64, 12.5)
    assert FeatureSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    with pytest.raises(AudioError, match="is for the encoder to say"):
        spec.num_frames(16_000)
    with pytest.raises(ConfigError, match=r"use FeatureSpec\.encoded"):
        FeatureSpec("encoded")
    with pytest.raises(ConfigError, match=r"use FeatureSpec\.encoded"):
        FeatureSpec("waveform", encoder="ear")


@pytest.mark.parametrize("name", ["whisper", "tiny"])
def test_mel_frames_are_multiplied_in_sizes_that_come_again(name: str) -> None:
    # oneDNN makes a kernel for each size it meets: one for every clip's length took longer than all else of a row.
    sizes = set()

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten.mm.default:
                sizes.add(args[0].shape[0])
            return func(*args, **(kwargs or {}))

    spec = getattr(FeatureSpec, name)()
    with Watching():
        lengths = [len(extract(torch.randn(160 * n), spec)) for n in (70, 90, 100, 120, 128, 129)]
    assert lengths == [70, 90, 100, 120, 128, 129]
    assert sizes == {128, 192}

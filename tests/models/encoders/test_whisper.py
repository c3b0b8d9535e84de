"""Whisper's encoder against transformers' own."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from numpy.random import default_rng

from sonant.audio.features import extract
from sonant.errors import ModelError
from sonant.models.encoders.base import EncoderConfig
from sonant.models.encoders.load import load_encoder
from sonant.models.encoders.whisper import WhisperEncoder
from sonant.models.parts import quiet_transformers


@pytest.fixture
def reference(architecture: Any, tmp_path: Path) -> Any:
    """A whole Whisper in `tmp_path`, as checkpoints on the hub are."""
    torch.manual_seed(3)
    config = transformers.WhisperConfig(**architecture("whisper"))
    model = transformers.WhisperForConditionalGeneration(config).eval()
    with quiet_transformers():
        model.save_pretrained(tmp_path)
    return model.model.encoder


def test_a_full_window_equals_the_reference(reference: Any, tmp_path: Path) -> None:
    encoder = WhisperEncoder(EncoderConfig(kind="whisper", path=str(tmp_path))).eval()
    features = torch.randn(2, 40, 80)
    expected = reference(features.transpose(1, 2)).last_hidden_state
    torch.testing.assert_close(encoder(features, torch.tensor([40, 40])), expected, atol=1e-6, rtol=0)


def test_padding_to_30_s_equals_the_reference_over_its_own_features(architecture: Any, tmp_path: Path) -> None:
    """Here a window is one second; the reference extractor pads the samples, the encoder the features."""
    torch.manual_seed(3)
    config = transformers.WhisperConfig(**architecture("whisper", max_source_positions=50))
    reference = transformers.WhisperModel(config).eval()
    with quiet_transformers():
        reference.save_pretrained(tmp_path)
    encoder = WhisperEncoder(EncoderConfig(kind="whisper", path=str(tmp_path), pad_to_30s=True)).eval()
    samples = default_rng(0).normal(size=4800).astype("float32") * 0.1
    samples[-800:] = 0  # ends in silence, so that the mirrored end of a clip is silence as well
    features = extract(torch.from_numpy(samples), encoder.feature_spec)[None]
    extractor = transformers.WhisperFeatureExtractor(chunk_length=1)
    padded = extractor(samples, sampling_rate=16_000, return_tensors="pt").input_features
    frames = encoder(features, torch.tensor([30]))
    assert frames.shape == (1, 15, 32)
    torch.testing.assert_close(frames, reference.encoder(padded).last_hidden_state[:, :15], atol=1e-4, rtol=0)


def test_a_long_clip_is_encoded_in_overlapping_windows_of_all_its_positions(architecture: Any, build: Any) -> None:
    """A window holds 40 mel frames; a tenth, 4, are shared with the next: 2 frames, one kept by each."""
    encoder = build("whisper")
    features = torch.randn(2, 97, 80)
    frames = encoder(features, torch.tensor([97, 40]))
    pieces = [encoder(features[:1, start : start + 36], torch.tensor([min(36, 97 - start)])) for start in (0, 32, 64)]
    joined = torch.cat([pieces[0][:, :17], pieces[1][:, 1:17], pieces[2][:, 1:]], dim=1)
    torch.testing.assert_close(frames[:1], joined, atol=1e-5, rtol=0)
    torch.testing.assert_close(frames[1:, :20], encoder(features[1:, :40], torch.tensor([40])), atol=1e-5, rtol=0)
    assert frames[1, 20:].eq(0).all()
    alone = WhisperEncoder(EncoderConfig(kind="whisper", architecture=architecture("whisper")))
    with pytest.raises(ModelError, match=r"97 mel frames are more .* use load_encoder"):
        alone(features, torch.tensor([97, 40]))


def test_padding_to_30_s_changes_short_clips_and_still_keeps_batches_apart(architecture: Any, build: Any) -> None:
    plain = build("whisper")
    config = EncoderConfig(kind="whisper", architecture=architecture("whisper"), pad_to_30s=True)
    encoder: Any = load_encoder(config)
    encoder.eval().load_state_dict(plain.state_dict())
    features, lengths = torch.randn(3, 50, 80), torch.tensor([50, 9, 1])
    frames = encoder(features, lengths)
    assert frames.shape == (3, 25, 32)
    assert (frames - plain(features, lengths)).abs().max() > 1e-3
    alone = encoder(features[1:2, :9], lengths[1:2])
    torch.testing.assert_close(frames[1:2, :5], alone, atol=1e-5, rtol=0)

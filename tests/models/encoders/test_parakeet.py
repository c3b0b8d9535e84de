"""Parakeet's encoder against transformers' own."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from sonant.models.encoders.base import EncoderConfig
from sonant.models.encoders.parakeet import ParakeetEncoder
from sonant.models.parts import quiet_transformers


@pytest.mark.parametrize("whole", [True, False])
def test_one_clip_equals_the_reference_from_ctc_and_from_bare_checkpoints(
    whole: bool, architecture: Any, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    settings = transformers.ParakeetEncoderConfig(**architecture("parakeet"))
    model = transformers.ParakeetForCTC(transformers.ParakeetCTCConfig(vocab_size=20, encoder_config=settings)).eval()
    with quiet_transformers():
        (model if whole else model.encoder).save_pretrained(tmp_path)
    encoder = ParakeetEncoder(EncoderConfig(kind="parakeet", path=str(tmp_path))).eval()
    features = torch.randn(1, 77, 80)
    expected = model.encoder(features).last_hidden_state
    torch.testing.assert_close(encoder(features, torch.tensor([77])), expected, atol=1e-5, rtol=0)
    assert encoder.frame_rate_hz == 12.5


def test_batch_norm_keeps_its_statistics_in_training(build: Any) -> None:
    encoder = build("parakeet", dropout=0.0, activation_dropout=0.0, attention_dropout=0.0)
    features, lengths = torch.randn(3, 40, 80), torch.tensor([40, 25, 9])
    evaluated = encoder(features, lengths)
    torch.testing.assert_close(encoder.train()(features, lengths), evaluated)
    assert encoder.training
    assert encoder.model.layers[0].training
    assert not encoder.model.layers[0].conv.norm.training


def test_it_learns_under_bf16_autocast_what_it_learns_without(build: Any) -> None:
    """Its own gradients of the first convolutions met bfloat16 once, and float32 weights: an error in every step."""
    features, lengths = torch.randn(3, 60, 80), torch.tensor([60, 44, 9])
    gradients = []
    for enabled in (False, True):
        encoder = build("parakeet")
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            frames = encoder(features, lengths)
        (frames.float() * torch.linspace(-1, 1, frames.shape[-1])).sum().backward()
        gradients.append([layer.weight.grad for layer in encoder.model.subsampling.layers if hasattr(layer, "weight")])
    for exact, rounded in zip(*gradients, strict=True):
        assert rounded.dtype == torch.float32
        assert torch.nn.functional.cosine_similarity(exact.flatten(), rounded.flatten(), dim=0) > 0.99

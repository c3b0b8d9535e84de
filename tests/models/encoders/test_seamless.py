"""The speech encoder of SeamlessM4T v2 against transformers' own."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from sonant.models.encoders.base import EncoderConfig
from sonant.models.encoders.seamless import SeamlessEncoder
from sonant.models.parts import quiet_transformers


@pytest.fixture
def reference(architecture: Any, tmp_path: Path) -> Any:
    torch.manual_seed(3)
    config = transformers.SeamlessM4Tv2Config(**architecture("seamless"))
    model = transformers.SeamlessM4Tv2ForSpeechToText(config).eval()
    with quiet_transformers():
        model.save_pretrained(tmp_path)
    return model.speech_encoder


def test_one_clip_equals_the_reference(reference: Any, tmp_path: Path) -> None:
    encoder = SeamlessEncoder(EncoderConfig(kind="seamless", path=str(tmp_path))).eval()
    for length in (7, 8, 33):
        features = torch.randn(1, length, 160)
        expected = reference(features, attention_mask=torch.ones(1, length)).last_hidden_state
        torch.testing.assert_close(encoder(features, torch.tensor([length])), expected, atol=1e-5, rtol=0)
    assert encoder.frame_rate_hz == 6.25


def test_the_reference_lets_padding_into_the_end_of_a_shorter_clip(reference: Any, tmp_path: Path) -> None:
    """Why the adapter is not called as it is: should transformers mend this, ours can go."""
    features = torch.randn(1, 40, 160)
    mask = (torch.arange(40) < 17)[None].float()
    alone = reference(features[:, :17], attention_mask=torch.ones(1, 17)).last_hidden_state
    padded = reference(features, attention_mask=mask).last_hidden_state[:, : alone.shape[1]]
    assert (alone - padded).abs().max() > 1e-3

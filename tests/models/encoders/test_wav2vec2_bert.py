"""Wav2Vec2-BERT against transformers' own."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from sonant.models.encoders.base import EncoderConfig
from sonant.models.encoders.wav2vec2_bert import Wav2Vec2BertEncoder
from sonant.models.parts import quiet_transformers


@pytest.mark.parametrize(
    ("changes", "frame_rate_hz"),
    [
        ({"add_adapter": False}, 50.0),
        ({"add_adapter": False, "position_embeddings_type": "rotary"}, 50.0),
        ({"use_intermediate_ffn_before_adapter": True}, 12.5),
    ],
)
def test_one_clip_equals_the_reference(
    changes: dict[str, Any], frame_rate_hz: float, architecture: Any, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    config = transformers.Wav2Vec2BertConfig(**architecture("wav2vec2_bert", **changes))
    reference = transformers.Wav2Vec2BertForCTC(config).eval()
    with quiet_transformers():
        reference.save_pretrained(tmp_path)
    encoder = Wav2Vec2BertEncoder(EncoderConfig(kind="wav2vec2_bert", path=str(tmp_path))).eval()
    features = torch.randn(1, 37, 160)
    expected = reference.wav2vec2_bert(features).last_hidden_state
    torch.testing.assert_close(encoder(features, torch.tensor([37])), expected, atol=1e-5, rtol=0)
    assert encoder.frame_rate_hz == frame_rate_hz

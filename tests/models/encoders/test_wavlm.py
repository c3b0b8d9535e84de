"""WavLM against transformers' own."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from sonant.errors import ModelError
from sonant.models.encoders.base import EncoderConfig
from sonant.models.encoders.wavlm import WavLMEncoder
from sonant.models.parts import quiet_transformers


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_one_clip_equals_the_reference(norm: str, architecture: Any, tmp_path: Path) -> None:
    torch.manual_seed(3)
    config = transformers.WavLMConfig(
        **architecture("wavlm", feat_extract_norm=norm, do_stable_layer_norm=norm == "layer")
    )
    reference = transformers.WavLMForCTC(config).eval()
    with quiet_transformers():
        reference.save_pretrained(tmp_path)
    encoder = WavLMEncoder(EncoderConfig(kind="wavlm", path=str(tmp_path))).eval()
    samples = torch.randn(1, 3001)
    expected = reference.wavlm(samples).last_hidden_state
    torch.testing.assert_close(encoder(samples, torch.tensor([3001])), expected, atol=1e-5, rtol=0)
    assert (encoder.feature_spec.normalization == "unit") == (norm == "layer")
    assert encoder.frame_rate_hz == 50.0


def test_a_checkpoint_with_an_adapter_is_refused(architecture: Any) -> None:
    config = EncoderConfig(kind="wavlm", architecture=architecture("wavlm", add_adapter=True))
    with pytest.raises(ModelError, match="add_adapter=true is not supported"):
        WavLMEncoder(config)

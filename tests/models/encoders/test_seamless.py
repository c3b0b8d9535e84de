"""The speech encoder of SeamlessM4T v2 against transformers' own."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from sonant.models.encoders.base import EncoderConfig
from sonant.models.encoders.load import load_encoder
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


def test_without_its_length_adapter_it_gives_the_last_hidden_state_and_25_hz_as_a_mean_of_two(
    reference: Any, tmp_path: Path
) -> None:
    """What SpeechMapper reads; two passes are identical."""
    config = EncoderConfig(kind="seamless", path=str(tmp_path), length_adapter=False)
    encoder = SeamlessEncoder(config)
    features = torch.randn(1, 33, 160)
    layered: list[torch.Tensor] = []
    reference.encoder.layer_norm.register_forward_hook(lambda _, inputs, output: layered.append(output))
    reference(features, attention_mask=torch.ones(1, 33))
    expected = layered[0]  # hidden_states[number of layers]: behind the final norm, before the length adapter
    torch.testing.assert_close(encoder.eval()(features, torch.tensor([33])), expected, atol=1e-5, rtol=0)
    assert encoder.frame_rate_hz == 50
    assert encoder.output_lengths(torch.tensor([33])).tolist() == [33]
    halved = load_encoder(config.model_copy(update={"average": 2}))
    assert isinstance(halved, nn.Module)
    assert halved.frame_rate_hz == 25
    frames = halved.eval()(features, torch.tensor([33]))
    torch.testing.assert_close(frames[0, :16], expected[0, :32].unflatten(0, (16, 2)).mean(1), atol=1e-5, rtol=0)
    assert torch.equal(frames, halved(features, torch.tensor([33])))
    assert not any("adapter" in name or "inner_layer_norm" in name for name in encoder.state_dict())


def test_the_reference_lets_padding_into_the_end_of_a_shorter_clip(reference: Any, tmp_path: Path) -> None:
    """Why the adapter is not called as it is: should transformers mend this, ours can go."""
    features = torch.randn(1, 40, 160)
    mask = (torch.arange(40) < 17)[None].float()
    alone = reference(features[:, :17], attention_mask=torch.ones(1, 17)).last_hidden_state
    padded = reference(features, attention_mask=mask).last_hidden_state[:, : alone.shape[1]]
    assert (alone - padded).abs().max() > 1e-3

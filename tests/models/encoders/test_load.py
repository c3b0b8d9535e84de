"""What every encoder keeps to, whichever it is."""

from typing import Any

import pytest
import torch
from torch import nn

from sonant.models.encoders.base import EncoderConfig
from sonant.models.encoders.load import load_encoder

CASES = [
    ("tiny", {}),
    ("whisper", {}),
    ("wavlm", {}),
    ("wavlm", {"feat_extract_norm": "layer", "do_stable_layer_norm": True}),
    ("seamless", {}),
    ("parakeet", {}),
    ("wav2vec2_bert", {}),
    ("wav2vec2_bert", {"add_adapter": False, "position_embeddings_type": "relative"}),
]
every_encoder = pytest.mark.parametrize(("kind", "changes"), CASES)


def clip_lengths(encoder: Any) -> list[int]:
    return [2003, 1201, 721, 399] if encoder.feature_spec.kind == "waveform" else [71, 33, 16, 1]


@every_encoder
def test_a_clip_gives_the_same_frames_alone_and_in_a_batch(
    kind: str, changes: dict[str, Any], build: Any, random_features: Any
) -> None:
    encoder = build(kind, **changes)
    lengths = clip_lengths(encoder)
    features = random_features(encoder, lengths)
    together = encoder(features, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        alone = encoder(features[row : row + 1, :length], torch.tensor([length]))[0]
        size = int(encoder.output_lengths(torch.tensor([length])))
        torch.testing.assert_close(together[row, :size], alone[:size], atol=1e-5, rtol=0)


@every_encoder
def test_frames_past_the_output_length_are_zero(
    kind: str, changes: dict[str, Any], build: Any, random_features: Any
) -> None:
    encoder = build(kind, **changes)
    lengths = torch.tensor(clip_lengths(encoder))
    features = random_features(encoder, lengths.tolist())
    features[1, lengths[1] :] = float("nan")  # whatever the padding holds
    frames = encoder(features, lengths)
    output_lengths = encoder.output_lengths(lengths)
    assert frames.shape == (4, int(output_lengths.max()), encoder.dim)
    for row, size in enumerate(output_lengths.tolist()):
        assert frames[row, :size].isfinite().all()
        assert frames[row, size:].eq(0).all()


@every_encoder
def test_output_lengths_are_those_really_computed(
    kind: str, changes: dict[str, Any], build: Any, random_features: Any
) -> None:
    encoder = build(kind, **changes)
    waveform = encoder.feature_spec.kind == "waveform"
    lengths = [400, 401, 719, 720, 721, 1039, 1040, 1999] if waveform else [1, 2, 3, 7, 8, 9, 15, 16, 17, 39, 40, 41]
    for length in lengths:
        frames = encoder(random_features(encoder, [length]), torch.tensor([length]))
        assert frames.shape[1] == int(encoder.output_lengths(torch.tensor([length]))), length


@every_encoder
def test_the_frame_rate_is_that_of_a_long_clip(kind: str, changes: dict[str, Any], build: Any) -> None:
    encoder = build(kind, **changes)
    features_an_hour = torch.tensor([int(3600 * encoder.feature_spec.frame_rate_hz)])
    assert int(encoder.output_lengths(features_an_hour)) == pytest.approx(3600 * encoder.frame_rate_hz, rel=1e-4)


@every_encoder
def test_every_trained_weight_gets_a_finite_gradient(
    kind: str, changes: dict[str, Any], build: Any, random_features: Any
) -> None:
    """A weight without a gradient stops DDP; a clip too short for one frame once gave NaN to all."""
    encoder = build(kind, **changes).train()
    lengths = clip_lengths(encoder)
    encoder(random_features(encoder, lengths), torch.tensor(lengths)).square().sum().backward()
    weights = {name: weight for name, weight in encoder.named_parameters() if weight.requires_grad}
    weights = {name: weight for name, weight in weights.items() if "_head." not in name}  # the tiny one's, for CTC
    assert [name for name, weight in weights.items() if weight.grad is None or not weight.grad.isfinite().all()] == []


@every_encoder
def test_its_architecture_builds_it_again_on_the_meta_device(kind: str, changes: dict[str, Any], build: Any) -> None:
    encoder = build(kind, **changes)
    with torch.device("meta"):
        again = load_encoder(EncoderConfig(kind=kind, architecture=encoder.architecture))
    assert isinstance(again, nn.Module)
    assert {weight.device.type for weight in again.parameters()} == {"meta"}
    shapes = {name: weight.shape for name, weight in encoder.named_parameters()}
    assert {name: weight.shape for name, weight in again.named_parameters()} == shapes
    assert again.feature_spec == encoder.feature_spec


def test_only_the_first_layers_are_built_on_demand(architecture: Any) -> None:
    config = EncoderConfig(kind="parakeet", architecture=architecture("parakeet"), num_layers=1, dtype="bfloat16")
    encoder = load_encoder(config)
    assert isinstance(encoder, nn.Module)
    assert len(encoder.model.layers) == 1
    assert encoder.architecture["num_hidden_layers"] == 1
    assert encoder(torch.randn(1, 20, 80), torch.tensor([20])).dtype == torch.bfloat16

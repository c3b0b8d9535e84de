"""The Conformer against transformers' FastConformer block and by hand."""

import math
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from sonant.models.conformer import (
    ConformerEncoder,
    ConformerLayer,
    MaskedBatchNorm,
    relative_positions,
    shift_relative,
)


@pytest.fixture
def reference() -> Any:
    """Transformers' Parakeet encoder with every weight random; its layers are the blocks to compare with."""
    torch.manual_seed(5)
    settings = transformers.ParakeetEncoderConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, subsampling_conv_channels=4
    )
    model = transformers.ParakeetEncoder(settings).eval()
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.2)
    for layer in model.layers:
        nn.init.uniform_(layer.conv.norm.running_var, 0.5, 2.0)
        nn.init.normal_(layer.conv.norm.running_mean)
    return model


def test_a_layer_equals_the_reference_block_with_the_same_weights(reference: Any) -> None:
    hidden, positions = torch.randn(3, 11, 32), relative_positions(11, 32, device=torch.device("cpu"))
    mask = torch.arange(11) < torch.tensor([11, 7, 1])[:, None]
    square = (mask[:, :, None] & mask[:, None, :])[:, None]
    block = reference.layers[0]
    layer = ConformerLayer(32, 4, ffn_dim=128, conv_kernel=9, dropout=0.1).eval()
    layer.load_state_dict(block.state_dict())
    expected = block(hidden, attention_mask=square, position_embeddings=positions[None].expand(3, -1, -1))
    torch.testing.assert_close(layer(hidden, positions, mask)[mask], expected[mask], atol=1e-5, rtol=1e-5)


def test_the_encoder_equals_the_reference_layers_over_scaled_inputs(reference: Any) -> None:
    encoder = ConformerEncoder(20, 32, num_layers=2, num_heads=4).eval()
    encoder.layers.load_state_dict(reference.layers.state_dict())
    frames = torch.randn(1, 9, 20)
    hidden = encoder.input(frames) * math.sqrt(32)
    positions = reference.encode_positions(hidden)
    for block in reference.layers:
        hidden = block(hidden, position_embeddings=positions)
    torch.testing.assert_close(encoder(frames, torch.tensor([9])), hidden, atol=1e-5, rtol=1e-5)


def test_relative_positions_equal_the_reference(reference: Any) -> None:
    expected = reference.encode_positions(torch.zeros(1, 50, 32))[0]
    torch.testing.assert_close(relative_positions(50, 32, device=torch.device("cpu")), expected, atol=1e-5, rtol=0)


def test_the_shift_reads_the_distance_from_query_to_key() -> None:
    distance = torch.arange(4, -5, -1).float()  # 4 ... -4 for five frames
    by_key = shift_relative(distance.expand(1, 1, 5, 9))[0, 0]
    frame = torch.arange(5).float()
    assert torch.equal(by_key, frame[:, None] - frame)


def test_a_clip_gives_the_same_frames_alone_and_in_a_batch() -> None:
    torch.manual_seed(0)
    encoder = ConformerEncoder(8, 16, num_heads=2).eval()
    frames, lengths = torch.randn(4, 12, 8), torch.tensor([12, 7, 1, 0])
    together = encoder(frames, lengths)
    for row, length in enumerate(lengths[:3].tolist()):
        alone = encoder(frames[row : row + 1, :length], lengths[row : row + 1])
        torch.testing.assert_close(together[row : row + 1, :length], alone, atol=1e-5, rtol=0)
        assert together[row, length:].eq(0).all()
    assert together[3].eq(0).all()


def test_in_training_batch_norm_counts_real_frames_only() -> None:
    norm, plain = MaskedBatchNorm(6), nn.BatchNorm1d(6)
    hidden = torch.randn(2, 6, 5) * 3 + 1
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    hidden[1, :, 2:] = 1000.0  # padding
    real = hidden.transpose(1, 2)[mask]
    torch.testing.assert_close(norm(hidden, mask).transpose(1, 2)[mask], plain(real))
    torch.testing.assert_close(norm.running_mean, plain.running_mean)
    torch.testing.assert_close(norm.running_var, plain.running_var)
    norm.eval(), plain.eval()
    torch.testing.assert_close(norm(hidden, mask), plain(hidden))


def test_a_single_real_frame_uses_the_running_statistics() -> None:
    norm = MaskedBatchNorm(6)
    hidden, mask = torch.randn(1, 6, 3), torch.tensor([[True, False, False]])
    trained = norm(hidden, mask)
    assert norm.running_mean is not None
    assert norm.running_mean.eq(0).all()
    torch.testing.assert_close(trained, norm.eval()(hidden, mask))


def test_every_weight_gets_a_finite_gradient_though_one_clip_is_empty() -> None:
    encoder = ConformerEncoder(8, 16, num_heads=2).train()
    encoder(torch.randn(3, 6, 8), torch.tensor([6, 2, 0])).square().sum().backward()
    gradients = {name: weight.grad for name, weight in encoder.named_parameters()}
    assert [name for name, grad in gradients.items() if grad is None or not grad.isfinite().all()] == []

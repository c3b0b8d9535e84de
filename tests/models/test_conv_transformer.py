"""The trunk of SpeechMapper's projector: lengths by its formula, sizes as published."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sonant.errors import ModelError
from sonant.models.conv_transformer import ConvBlockConfig, ConvTrunk, ConvTrunkConfig, TransformerLayer
from sonant.models.rotary import rotation

TINY = ConvTrunkConfig(
    blocks=(
        ConvBlockConfig(num_layers=1, num_heads=4, ffn_dim=48, dim=32, out_dim=64),
        ConvBlockConfig(num_layers=1, num_heads=4, ffn_dim=48),
    )
)


def test_lengths_are_those_of_the_formula_and_of_the_convolutions() -> None:
    trunk = ConvTrunk(TINY, in_dim=8).eval()
    for length in range(1, 201):
        once = 1 + length // 2
        assert trunk.output_lengths(torch.tensor([length])).tolist() == [1 + once // 2]
    with torch.no_grad():
        for length in range(1, 30):
            assert trunk(torch.randn(1, length, 8), torch.tensor([length]))[0].shape[1] == 1 + (1 + length // 2) // 2
    assert trunk.output_lengths(torch.tensor([0])).tolist() == [0]


def test_padding_reaches_no_convolution() -> None:
    """Random padding, even of another batch width, changes nothing; a trunk that masks once at the start would fail."""
    torch.manual_seed(0)
    trunk = ConvTrunk(TINY, in_dim=8).eval()
    frames, lengths = torch.randn(4, 45, 8), torch.tensor([45, 18, 1, 0])
    together, sizes = trunk(frames, lengths)
    assert together.isfinite().all()
    for row in range(3):
        alone, size = trunk(frames[row : row + 1, : lengths[row]], lengths[row : row + 1])
        assert size.tolist() == [sizes[row]]
        torch.testing.assert_close(together[row : row + 1, :size], alone, atol=1e-5, rtol=0)
        assert together[row, size:].eq(0).all()


def test_a_layer_computes_what_its_formula_says() -> None:
    torch.manual_seed(0)
    layer = TransformerLayer(8, 1, ffn_dim=12, dropout=0.3).eval()
    hidden = torch.randn(1, 5, 8)
    one = torch.ones(5, 4), torch.zeros(5, 4)  # no turn: the attention of torch's own module
    reference = nn.MultiheadAttention(8, 1, batch_first=True).eval()
    reference.in_proj_weight, reference.in_proj_bias = layer.attention_in.weight, layer.attention_in.bias
    reference.out_proj = layer.attention_out  # type: ignore[assignment]
    normed = layer.attention_norm(hidden)
    expected = hidden + reference(normed, normed, normed)[0]
    expected = expected + layer.ffn_out(F.gelu(layer.ffn_in(layer.ffn_norm(expected))))
    attended = torch.ones(1, 1, 1, 5, dtype=torch.bool)
    torch.testing.assert_close(layer(hidden, attended, one), expected, atol=1e-5, rtol=0)
    assert not torch.allclose(layer(hidden, attended, rotation(5, 8, like=hidden)), expected)


def test_a_block_without_layers_is_a_convolution_and_gelu() -> None:
    trunk = ConvTrunk(ConvTrunkConfig(blocks=(ConvBlockConfig(kernel=5, num_layers=0, dim=3),)), in_dim=2).eval()
    frames = torch.randn(1, 7, 2)
    conv = trunk.blocks[0].conv
    expected = F.gelu(F.conv1d(frames.mT, conv.weight, conv.bias, stride=2, padding=2)).mT
    made, lengths = trunk(frames, torch.tensor([7]))
    torch.testing.assert_close(made, expected)
    assert lengths.tolist() == [4]


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ModelError, match="width 30 and 4 heads; the width must be a multiple of twice the heads"):
        ConvTrunk(ConvTrunkConfig(blocks=(ConvBlockConfig(num_heads=4),)), in_dim=30)

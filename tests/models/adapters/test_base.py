"""Adapters: what all of them promise."""

import pydantic
import pytest
import torch
from small_adapters import build

from sonant.models.adapters.base import AdapterConfig
from sonant.models.adapters.conformer import ConformerConfig
from sonant.models.adapters.conv_transformer import ConvTransformerConfig
from sonant.models.adapters.ctc_pooling import CTCPoolingConfig
from sonant.models.adapters.linear import LinearConfig
from sonant.models.adapters.stack_mlp import StackMLPConfig
from sonant.models.conv_transformer import ConvBlockConfig, ConvTrunkConfig

BLOCK = ConvBlockConfig(num_layers=1, num_heads=2, ffn_dim=16)
CONFIGS = [
    LinearConfig(),
    StackMLPConfig(stack=3),
    ConformerConfig(num_heads=2),
    CTCPoolingConfig(vocab_size=5),
    ConvTransformerConfig(blocks=(BLOCK, BLOCK), dropout=0.0),
    CTCPoolingConfig(vocab_size=5, trunk=ConvTrunkConfig(blocks=(BLOCK,), dropout=0.0), head="distance"),
]
every_adapter = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)


@every_adapter
def test_a_clip_gives_the_same_vectors_alone_and_in_a_batch(config: AdapterConfig) -> None:
    adapter = build(config)
    frames, lengths = torch.randn(4, 23, 8), torch.tensor([23, 10, 4, 1])
    together, sizes = adapter(frames, lengths)
    assert together.shape == (4, int(sizes.max()), 12)
    for row, length in enumerate(lengths.tolist()):
        alone, size = adapter(frames[row : row + 1, :length], lengths[row : row + 1])
        assert size.tolist() == [sizes[row]]
        torch.testing.assert_close(together[row : row + 1, :size], alone, atol=1e-5, rtol=1e-5)
        assert together[row, size:].eq(0).all()


@every_adapter
def test_the_lengths_promised_hold(config: AdapterConfig) -> None:
    adapter = build(config)
    for length in range(1, 14):
        _, sizes = adapter(torch.randn(1, length, 8), torch.tensor([length]))
        promised = adapter.output_lengths(torch.tensor([length]))
        if config.kind == "ctc_pooling":  # what is heard decides; the promise is an upper bound
            assert 1 <= sizes <= promised
        else:
            assert sizes == promised


@every_adapter
def test_every_weight_gets_a_finite_gradient(config: AdapterConfig) -> None:
    adapter = build(config).train()
    frames = torch.randn(3, 9, 8, requires_grad=True)
    adapter(frames, torch.tensor([9, 4, 1]))[0].square().sum().backward()
    gradients = {name: weight.grad for name, weight in adapter.named_parameters()}
    assert [name for name, grad in gradients.items() if grad is None or not grad.isfinite().all()] == []
    assert frames.grad is not None
    assert frames.grad.abs().sum() > 0


@every_adapter
def test_bfloat16_autocast_gives_nearly_the_same_and_never_nan(config: AdapterConfig) -> None:
    adapter = build(config).train(config.kind != "conformer")  # whose dropout would be another one
    frames, lengths = torch.randn(3, 9, 8), torch.tensor([9, 4, 0])
    expected, sizes = adapter(frames, lengths)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        vectors, half_sizes = adapter(frames, lengths)
    assert vectors.isfinite().all()
    if torch.equal(sizes, half_sizes):
        assert (vectors - expected).abs().max() < 0.1 * expected.abs().max()


def test_an_adapter_is_chosen_by_its_kind() -> None:
    choice: pydantic.TypeAdapter[AdapterConfig] = pydantic.TypeAdapter(AdapterConfig)
    assert choice.validate_python({"kind": "stack_mlp", "stack": 2}) == StackMLPConfig(stack=2)
    with pytest.raises(pydantic.ValidationError, match="bilinear"):
        choice.validate_python({"kind": "bilinear"})

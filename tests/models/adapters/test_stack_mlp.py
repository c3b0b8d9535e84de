"""Stacked frames by hand."""

import torch
from small_adapters import build

from sonant.models.adapters.stack_mlp import StackMLPConfig


def test_stacking_pads_an_odd_end_with_zeros_and_drops_nothing() -> None:
    adapter = build(StackMLPConfig(stack=3, hidden_dim=7))
    frames = torch.randn(1, 5, 8)
    vectors, lengths = adapter(frames, torch.tensor([5]))
    stacked = torch.cat([frames.flatten(), torch.zeros(8)]).reshape(1, 2, 24)
    assert lengths.tolist() == [2]
    torch.testing.assert_close(vectors, adapter.mlp(adapter.norm(stacked)))
    assert adapter.output_lengths(torch.tensor([0, 1, 3, 4, 6])).tolist() == [0, 1, 1, 2, 2]

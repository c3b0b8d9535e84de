"""Small random adapters of every kind."""

from typing import Any

import torch
from torch import nn

from sonant.models.adapters.base import AdapterConfig, build_adapter
from sonant.models.adapters.ctc_pooling import CTCPoolingAdapter


def build(config: AdapterConfig, *, in_dim: int = 8, out_dim: int = 12) -> Any:
    """A random adapter in evaluation mode, nothing in it zero."""
    torch.manual_seed(0)
    adapter = build_adapter(config, in_dims=[in_dim], out_dim=out_dim)
    assert isinstance(adapter, nn.Module)
    for weight in adapter.parameters():
        nn.init.normal_(weight, std=0.5)
    if isinstance(adapter, CTCPoolingAdapter) and adapter.soft:
        adapter.anchor(torch.randn(adapter.vocab_size, out_dim))
    return adapter.eval()

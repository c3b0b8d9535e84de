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


def loop_spikes(best: list[int], blank: int) -> list[tuple[list[int], list[int]]]:
    """For each segment, all its frames and those of its spike: written as one thinks of it."""
    segments: list[tuple[list[int], list[int]]] = []
    waiting: list[int] = []
    for frame, token in enumerate(best):
        if token == blank:
            waiting.append(frame)
        elif frame > 0 and best[frame - 1] == token:
            segments[-1][0].append(frame)
            segments[-1][1].append(frame)
        else:
            segments.append(([*waiting, frame], [frame]))
            waiting = []
    everything = list(range(len(best)))
    return segments or [(everything, everything)]

"""Activation checkpointing: a layer keeps what went into it and computes the rest again when backward needs it.

    forward   x ─▶ layer ─▶ x ─▶ layer ─▶ x ─▶ layer ─▶ x      kept: the x, one a layer
    backward                        layer again ◀─ x           kept meanwhile: the inside of one layer

One forward pass more a step, so a third more operations. No number changes, those drawn at random included.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from sonant.models.lora import scale_kept

ActivationCheckpointing = Literal["none", "layers"]


def recompute_layers(model: nn.Module) -> int:
    """Returns how many layers of LLM, encoders, adapter and speech head compute their insides twice from now on.

    A layer is a module of several parts in a `ModuleList` called "...layers" (one convolution keeps its input anyway).
    It does as before in eval mode, where nothing needs a gradient, and where it fills a cache of keys and values. Only
    its `forward` is replaced: parameters keep their names, and hooks (by which FSDP2 gathers a layer) stay outside and
    run once. Layers that transformers computes again already (`llm.gradient_checkpointing`) are left to it.
    """
    named = model.named_modules()
    stacks = [module for name, module in named if name.endswith("layers") and isinstance(module, nn.ModuleList)]
    layers = [layer for stack in stacks for layer in stack if any(layer.children())]
    layers = [layer for layer in layers if not getattr(layer, "gradient_checkpointing", False)]
    for layer in layers:
        layer.forward = partial(_forward, layer, layer.forward)
    return len(layers)


def _forward(layer: nn.Module, forward: Any, *args: Any, **kwargs: Any) -> Any:
    if not (layer.training and torch.is_grad_enabled()) or kwargs.get("past_key_values") is not None:
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, context_fn=partial(_contexts, layer), **kwargs)


def _contexts(layer: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    first, again = scale_kept()
    return first, _Again(layer, again)


@dataclass
class _Again(AbstractContextManager[None]):
    """Inside the block `layer` runs with the LoRA scale of its first run; batch norm does not count a batch twice."""

    layer: nn.Module
    scale: AbstractContextManager[None]

    def __enter__(self) -> None:
        self._buffers = [(buffer, buffer.clone()) for buffer in self.layer.buffers()]
        self.scale.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.scale.__exit__(*error)
        for buffer, before in self._buffers:
            buffer.copy_(before)

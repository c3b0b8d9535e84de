"""A linear layer with LoRA whose full-width work is matrix products and one addition.

peft writes  y = W x + scaling * B(A(x)),  so the product with `scaling` and its gradient, and the sum of two gradients
of x, are passes over tensors as wide as the layer: a fifth of a step where LLMs are small. Here the scaling meets the
rank-wide gradients, and the second gradient of x is added while it is multiplied.
"""

from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners import lora
from torch import Tensor
from torch.autograd.function import once_differentiable


class LowRankLinear(lora.Linear):
    """peft's LoRA layer, to the last bit of rounding; what it cannot do faster it does as peft does."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Returns (..., out_features) of `x` (..., in_features)."""
        if args or kwargs or self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return super().forward(x, *args, **kwargs)
        name = self.active_adapters[0]
        if name not in self.lora_A or name in self.lora_variant:
            return super().forward(x)
        base, down, up, dropout = self.base_layer, self.lora_A[name], self.lora_B[name], self.lora_dropout[name]
        scaling = self.scaling[name]
        plain = type(base) is torch.nn.Linear and x.dtype == base.weight.dtype == down.weight.dtype == up.weight.dtype
        silent = isinstance(dropout, torch.nn.Identity) or not dropout.training or dropout.p == 0
        if plain and silent and not up._forward_hooks and not torch.is_autocast_enabled(x.device.type):
            return _LowRank.apply(x, base.weight, base.bias, down.weight, up.weight, scaling)
        result = base(x)
        change = up(down(dropout(self._cast_input_dtype(x, down.weight.dtype))))
        # One rounding, as in _LowRank: a scale of 1 on the hooked way must not change a bit.
        return torch.add(result, change, alpha=scaling).to(result.dtype)


class _LowRank(torch.autograd.Function):
    """x W^T + bias + scaling * (x A^T) B^T. Shapes: x (..., I), W (O, I), A (r, I), B (O, r)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scaling: float
    ) -> Tensor:
        inner = F.linear(x, down)
        ctx.save_for_backward(x, weight, down, up, inner)
        ctx.scaling = scaling
        return F.linear(x, weight, bias).add_(F.linear(inner, up), alpha=scaling)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, down, up, inner = ctx.saved_tensors
        for_x, for_weight, for_bias, for_down, for_up, _ = ctx.needs_input_grad
        shape, grad, x, inner = x.shape, grad.flatten(0, -2), x.flatten(0, -2), inner.flatten(0, -2)
        inner_grad = (grad @ up).mul_(ctx.scaling)
        x_grad = (grad @ weight).addmm_(inner_grad, down).view(shape) if for_x else None
        return (
            x_grad,
            grad.T @ x if for_weight else None,
            grad.sum(0) if for_bias else None,
            inner_grad.T @ x if for_down else None,
            (grad.T @ inner).mul_(ctx.scaling) if for_up else None,
            None,
        )

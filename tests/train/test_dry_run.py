from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sonant.train.dry_run import GRADIENTS, dry_step, empty, shapes_of


class Squares:
    """A loss of a toy: the batch is what the model takes."""

    def weight(self, batch: Any) -> float:
        return float(len(batch))

    def __call__(self, model: nn.Module, batch: Any) -> Any:
        return SimpleNamespace(total=model(batch).square().sum(), parts={})


class Attending(nn.Module):
    """Attention with dropout, which CPU kernels do not fuse."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.read(x)[:, None].chunk(3, dim=-1)
        return F.scaled_dot_product_attention(q, k, v, dropout_p=0.1)


def test_the_operations_of_a_step_are_those_of_the_real_one() -> None:
    model, batch = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32)), torch.randn(16, 64)
    with FlopCounterMode(display=False) as counter:
        Squares()(model, batch).total.backward()
    model.zero_grad()
    mode = shapes_of(model)
    step = dry_step(model, Squares(), [empty(mode, 16, 64)])  # type: ignore[list-item]
    assert sum(step.flops.values()) == counter.get_total_flops()
    assert step.flops["0"] == 2 * 2 * 16 * 64 * 64  # nothing is asked of the first layer's input
    assert step.flops["2"] == 3 * 2 * 16 * 64 * 32


def test_what_is_held_is_the_activations_then_the_gradients() -> None:
    model = nn.Sequential(nn.Linear(64, 64, bias=False))
    mode = shapes_of(model)
    wide = dry_step(model, Squares(), [empty(mode, 1000, 64)])  # type: ignore[list-item]
    # The layer's output and its square, in backward a few as large: input and weight were there before.
    assert 2 <= wide.peak_bytes / (4 * 1000 * 64) <= 6
    narrow = dry_step(model, Squares(), [empty(mode, 1, 64)] * 2)  # type: ignore[list-item]
    assert narrow.peak[GRADIENTS] == 4 * 64 * 64
    assert all(p.grad is None for p in model.parameters())


def test_tied_weights_stay_tied() -> None:
    with torch.device("meta"):
        table = nn.Embedding(10, 4)
        out = nn.Linear(4, 10, bias=False)
        out.weight = table.weight
    model = nn.ModuleDict({"table": table, "out": out})
    shapes_of(model)
    assert table.weight is out.weight
    assert len(list(model.parameters())) == 1


def test_fused_attention_keeps_no_weights() -> None:
    model = Attending()
    mode = shapes_of(model)
    x = empty(mode, 2, 500, 8)
    as_here = dry_step(model, Squares(), [x])  # type: ignore[list-item]
    fused = dry_step(model, Squares(), [x], fused_attention=True)  # type: ignore[list-item]
    assert as_here.peak_bytes - fused.peak_bytes > 4 * 2 * 500 * 500

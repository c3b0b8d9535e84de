from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sonant.train.cost import most_allocated
from sonant.train.dry_run import GRADIENTS, HEAD, dry_step, empty, kind_of, shapes_of


class Squares:
    """A loss of a toy: the batch is what the model takes."""

    def weight(self, batch: Any) -> float:
        return float(len(batch))

    def __call__(self, model: nn.Module, batch: Any) -> Any:
        return SimpleNamespace(total=model(batch).square().sum(), parts={})


class Spelling(Squares):
    """CTC of three texts of four letters at most."""

    def __call__(self, model: nn.Module, batch: Any) -> Any:
        scores, ids = model(batch).log_softmax(-1), torch.tensor([[1, 2, 3, 4]] * 3)
        losses = F.ctc_loss(scores, ids, torch.tensor([100, 90, 80]), torch.tensor([4, 3, 2]), reduction="sum")
        return SimpleNamespace(total=losses, parts={})


class Grouped(nn.Module):
    """Four queries share a key."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(8, 6 * 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.read(x).unflatten(-1, (6, 8)).transpose(1, 2).split((4, 1, 1), dim=1)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


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


def test_what_is_held_at_most_is_known_to_the_byte_and_the_allocator_agrees() -> None:
    """64 -> 64 -> ReLU -> 32, squared, summed, of 1000 rows; numbers held when ReLU goes backward, the worst moment:

    what ReLU gave, which it and the last layer kept; its gradient; the gradient of what it was given     3 x 64,000
    the last layer's gradient                                                                                 64 x 32
    the loss and its gradient                                                                                       2
    """
    model = nn.Sequential(nn.Linear(64, 64, bias=False), nn.ReLU(), nn.Linear(64, 32, bias=False))
    x = torch.randn(1000, 64)
    expected = 4 * (3 * 64_000 + 64 * 32 + 2)
    assert most_allocated(lambda: Squares()(model, x).total.backward()) == expected
    mode = shapes_of(model)
    step = dry_step(model, Squares(), [empty(mode, 1000, 64)])  # type: ignore[list-item]
    assert step.peak_bytes == sum(step.peak.values()) == expected
    assert step.peak[GRADIENTS] == 4 * 64 * 32
    assert step.peak[HEAD] == 4 * 2
    assert all(p.grad is None for p in model.parameters())


def test_a_second_micro_batch_meets_all_gradients_of_the_first() -> None:
    model = nn.Sequential(nn.Linear(64, 64, bias=False), nn.ReLU(), nn.Linear(64, 32, bias=False))
    mode = shapes_of(model)
    step = dry_step(model, Squares(), [empty(mode, 1, 64)] * 2)  # type: ignore[list-item]
    assert step.peak[GRADIENTS] == 4 * (64 * 64 + 64 * 32)
    # When the first layer's are made anew, of the gradient of its output.
    assert step.peak_bytes == 4 * (64 * 64 + 64 * 32 + 64 * 64 + 64 + 2)


def test_ctc_keeps_a_number_for_each_frame_and_state() -> None:
    model = nn.Linear(8, 5, bias=False)
    mode = shapes_of(model)
    step = dry_step(model, Spelling(), [empty(mode, 100, 3, 8)])  # type: ignore[list-item]
    scores, states = 100 * 3 * 5, 3 * 100 * (2 * 4 + 1)
    assert step.peak_bytes >= 4 * (2 * scores + states)


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


def test_keys_that_queries_share_are_held_once_and_multiplied_as_often() -> None:
    model = Grouped()
    mode = shapes_of(model)
    step = dry_step(model, Squares(), [empty(mode, 2, 100, 8)], fused_attention=True)  # type: ignore[list-item]
    (backward,) = [call for calls in step.calls.values() for call in calls if "cpu_backward" in call.kind]
    assert backward.flops == 5 * 2 * 2 * 4 * 100 * 100 * 8  # five products for each row and query head
    head = 4 * 2 * 100 * 8
    assert 20 * head < backward.moved_bytes < 21 * head  # q, its gradient, output and its: 16; k, v and theirs: 4


def test_attention_is_one_kind_on_every_device() -> None:
    """A step is counted with a CPU's kernel and measured with a GPU's."""
    aten = torch.ops.aten
    on_cpu = aten._scaled_dot_product_flash_attention_for_cpu
    for kernel in (aten._scaled_dot_product_flash_attention, aten._scaled_dot_product_efficient_attention):
        assert kind_of(kernel.default) == kind_of(on_cpu.default)
    backward = aten._scaled_dot_product_cudnn_attention_backward
    assert kind_of(backward.default) == kind_of(aten._scaled_dot_product_flash_attention_for_cpu_backward.default)
    assert kind_of(aten.mm.default) == "aten.mm"

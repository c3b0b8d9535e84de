from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from sonant.train.cost import StepCost, cost_table, most_allocated, step_cost, step_time


class Squares:
    """A loss of a toy: the batch is what the model takes."""

    def weight(self, batch: Any) -> float:
        return float(len(batch))

    def __call__(self, model: nn.Module, batch: Any) -> Any:
        return SimpleNamespace(total=model(batch).square().sum(), parts={})


def test_a_linear_layer_costs_three_products_of_its_matrix() -> None:
    torch.manual_seed(0)
    model, batch = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32)), torch.randn(16, 64)
    cost = step_cost(model, Squares(), batch)  # type: ignore[arg-type]
    first, second = 2 * 16 * 64 * 64, 2 * 16 * 64 * 32
    assert cost.flops == 2 * first + 3 * second  # nothing is asked of the first layer's input
    assert cost.seconds > 0
    weights = 4 * sum(p.numel() for p in model.parameters())
    activations = 4 * (16 * 64 + 16 * 64 + 16 * 32)  # input, what ReLU gives, output
    assert cost.memory_bytes == 4 * weights + activations  # weights, gradients, two states of Adam
    assert all(p.grad is None for p in model.parameters())


def test_a_frozen_part_costs_no_gradients_of_its_own() -> None:
    model, batch = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 32)), torch.randn(16, 64)
    model[1].requires_grad_(False)
    cost = step_cost(model, Squares(), batch)  # type: ignore[arg-type]
    assert cost.flops == 2 * (2 * 16 * 64 * 64) + 2 * (2 * 16 * 64 * 32)


def test_the_table_compares_with_its_first_line() -> None:
    text = cost_table({"one": StepCost(100, 0.1, 1000), "other": StepCost(300, 0.5, 2000)})
    assert text.splitlines()[1].split()[0] == "one"
    assert "3.00 x FLOP, 5.00 x time" in text.splitlines()[2]


def test_the_time_of_a_step_is_known_by_kind_of_operation() -> None:
    model, batch = nn.Sequential(nn.Linear(64, 64, bias=False), nn.ReLU()), torch.randn(16, 64)
    time = step_time(model, Squares(), batch)  # type: ignore[arg-type]
    assert set(time.by_kind) >= {"aten.mm", "aten.relu", "aten.sum"}
    assert "aten.t" not in time.by_kind  # a view
    assert min(time.by_kind.values()) > 0
    assert time.seconds > 0
    assert model[0].weight.grad is None


def test_the_most_that_is_allocated_is_what_lives_together() -> None:
    def act() -> None:
        one = torch.empty(1000)
        two = torch.empty(500)
        del one
        torch.empty(200).add(two[:200])

    assert most_allocated(act) == 4 * 1500

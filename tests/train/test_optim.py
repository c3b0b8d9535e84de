import math

import pytest
import torch
from torch import nn

from sonant.errors import TrainingError
from sonant.train.optim import (
    awake,
    clip_gradients,
    make_optimizer,
    name_groups,
    schedule_factor,
    set_learning_rates,
    trained,
)


def two_layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))


def group(name: str, module: nn.Module, lr: float = 0.1) -> dict:
    return {"name": name, "params": list(module.parameters()), "lr": lr, "weight_decay": 0.5}


@pytest.mark.parametrize(
    ("kind", "step", "factor"),
    [
        ("constant", 0, 0.25),
        ("constant", 3, 1.0),
        ("constant", 103, 1.0),
        ("linear", 4, 1.0),
        ("linear", 54, 0.55),
        ("linear", 104, 0.1),
        ("cosine", 29, 0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2),
        ("cosine", 54, 0.55),
        ("cosine", 500, 0.1),
    ],
)
def test_learning_rates_warm_up_and_then_follow_the_schedule(kind: str, step: int, factor: float) -> None:
    got = schedule_factor(step, kind=kind, steps=104, warmup_steps=4, final_ratio=0.1)  # type: ignore[arg-type]
    assert got == pytest.approx(factor)


def test_each_group_keeps_its_own_learning_rate_and_weight_decay() -> None:
    model = two_layers()
    without_decay = {key: value for key, value in group("b", model[1], 0.3).items() if key != "weight_decay"}
    named = name_groups(model, [group("a", model[0]), without_decay], weight_decay=0.01)
    optimizer = make_optimizer(model, named, betas=(0.9, 0.98))
    assert set_learning_rates(optimizer, factor=0.5) == {"a": 0.05, "b": 0.15}
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.5, 0.01]


def test_a_trained_parameter_in_no_group_is_an_error() -> None:
    model = two_layers()
    with pytest.raises(TrainingError, match=r"2 trained parameters are in no group, the first is 1\.weight"):
        name_groups(model, [group("a", model[0])], weight_decay=0.0)


def test_a_parameter_in_two_groups_is_an_error() -> None:
    model = two_layers()
    with pytest.raises(TrainingError, match=r"0\.weight is in the groups 'a' and 'all'"):
        name_groups(model, [group("a", model[0]), group("all", model)], weight_decay=0.0)


def test_a_frozen_parameter_in_a_group_is_an_error() -> None:
    model = two_layers()
    model[1].requires_grad_(False)
    with pytest.raises(TrainingError, match=r"group 'b': parameter 1\.weight is frozen"):
        name_groups(model, [group("a", model[0]), group("b", model[1])], weight_decay=0.0)


def test_a_foreign_parameter_in_a_group_is_an_error() -> None:
    with pytest.raises(TrainingError, match="does not belong to the model"):
        name_groups(two_layers(), [group("a", nn.Linear(2, 3))], weight_decay=0.0)


def test_training_nothing_is_an_error() -> None:
    with pytest.raises(TrainingError, match="no parameter is trained"):
        name_groups(two_layers().requires_grad_(False), [], weight_decay=0.0)


def test_state_made_in_advance_updates_as_adamw_does_by_itself() -> None:
    torch.manual_seed(0)
    ours, plain = two_layers(), two_layers()
    plain.load_state_dict(ours.state_dict())
    first = make_optimizer(ours, name_groups(ours, [group("a", ours)], weight_decay=0.0), betas=(0.9, 0.98))
    second = torch.optim.AdamW(plain.parameters(), lr=0.1, betas=(0.9, 0.98), weight_decay=0.5, fused=True)
    for _ in range(3):
        for model, optimizer in ((ours, first), (plain, second)):
            optimizer.zero_grad()
            model(torch.ones(4, 2)).pow(2).sum().backward()
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))


def test_clipping_returns_the_norm_before_and_gives_unused_parameters_a_zero_gradient() -> None:
    model = two_layers()
    optimizer = make_optimizer(model, name_groups(model, [group("a", model)], weight_decay=0.0), betas=(0.9, 0.98))
    model[0].weight.grad = torch.full((3, 2), 2.0)
    assert clip_gradients(trained(optimizer), max_norm=1.0) == pytest.approx(math.sqrt(24))
    assert float(model[0].weight.grad.norm()) == pytest.approx(1.0, rel=1e-4)
    assert torch.equal(model[1].weight.grad, torch.zeros(1, 3))
    model[0].weight.grad = torch.full((3, 2), 2.0)
    assert clip_gradients(trained(optimizer), max_norm=None) == pytest.approx(math.sqrt(24))
    assert torch.equal(model[0].weight.grad, torch.full((3, 2), 2.0))


def late(step: int) -> tuple[nn.Sequential, torch.optim.AdamW]:
    model = two_layers()
    groups = [group("first", model[0]), group("later", model[1]) | {"start_step": step}]
    return model, make_optimizer(model, name_groups(model, groups, weight_decay=0.0), betas=(0.9, 0.98))


@pytest.mark.parametrize(("step", "rate"), [(0, 0.0), (9, 0.0), (10, 0.0125), (11, 0.025), (13, 0.05), (50, 0.05)])
def test_a_group_that_starts_late_has_rate_zero_and_then_its_own_warm_up(step: int, rate: float) -> None:
    _, optimizer = late(10)
    got = set_learning_rates(optimizer, factor=0.5, step=step, warmup_steps=4)
    assert got == {"first": 0.05, "later": pytest.approx(rate)}


def test_a_resting_group_keeps_weights_and_moments_bit_for_bit_and_does_not_count_in_the_norm() -> None:
    model, optimizer = late(10)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = [p.detach().clone() for p in model[1].parameters()]
    norm = clip_gradients(awake(optimizer, step=9), max_norm=None)
    optimizer.step()
    assert norm == pytest.approx(math.sqrt(9))
    assert all(torch.equal(a, b) for a, b in zip(model[1].parameters(), before, strict=True))
    assert all(not value.any() for p in model[1].parameters() for value in optimizer.state[p].values())
    assert awake(optimizer, step=10) == trained(optimizer)


def test_a_plan_in_which_every_group_rests_at_first_is_an_error() -> None:
    model = two_layers()
    with pytest.raises(TrainingError, match="nothing would train at first: 'a' at step 3"):
        name_groups(model, [group("a", model) | {"start_step": 3}], weight_decay=0.0)

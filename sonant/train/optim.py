"""Parameter groups by name, AdamW whose state is complete from the start, and learning rates as f(step)."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sonant.errors import TrainingError

Schedule = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True)
class NamedGroup:
    """Parameters that share a learning rate, by name: sharding replaces the Parameter objects, never the names."""

    name: str
    parameters: tuple[str, ...]
    lr: float
    weight_decay: float
    start_step: int = 0  # the group rests until then


def name_groups(model: nn.Module, groups: Sequence[Mapping[str, Any]], *, weight_decay: float) -> list[NamedGroup]:
    """Returns the groups of a freeze plan ({"name", "params", "lr", "weight_decay", "start_step"}), by name.

    Raises: TrainingError if a group holds a frozen or foreign parameter, a trained one stands in no group or two, or
    every group rests at first.
    """
    names = {id(p): n for n, p in model.named_parameters()}
    owner: dict[str, str] = {}
    named: list[NamedGroup] = []
    for group in groups:
        label = str(group.get("name", len(named)))
        members = [names.get(id(p)) for p in group["params"]]
        for member, parameter in zip(members, group["params"], strict=True):
            if member is None or not parameter.requires_grad:
                what = "is frozen" if member else "does not belong to the model"
                raise TrainingError(
                    f"group {label!r}: parameter {member or tuple(parameter.shape)} {what}; mend the plan"
                )
            if member in owner:
                raise TrainingError(f"parameter {member} is in the groups {owner[member]!r} and {label!r}; keep one")
            owner[member] = label
        if members:
            decay = float(group.get("weight_decay", weight_decay))
            start = int(group.get("start_step", 0))
            named.append(NamedGroup(label, tuple(m for m in members if m), float(group["lr"]), decay, start))
    forgotten = [n for n, p in model.named_parameters() if p.requires_grad and n not in owner]
    if forgotten or not owner:
        what = f"{len(forgotten)} trained parameters are in no group, the first is {forgotten[0]}" if forgotten else ""
        raise TrainingError(f"{what or 'no parameter is trained'}; list them in a group or freeze the others")
    if all(g.start_step for g in named):
        starts = ", ".join(f"{g.name!r} at step {g.start_step}" for g in named)
        raise TrainingError(f"nothing would train at first: {starts}; let one group start at step 0")
    return named


def make_optimizer(model: nn.Module, groups: Sequence[NamedGroup], *, betas: tuple[float, float]) -> torch.optim.AdamW:
    """Returns AdamW over the groups; every parameter has its (zero) state at once, so that a checkpoint can be filled.

    A group keeps its full learning rate in "base_lr"; `set_learning_rates` derives "lr" from it.
    """
    parameters = dict(model.named_parameters())
    settings = [
        {
            "name": g.name,
            "params": [parameters[n] for n in g.parameters],
            "lr": g.lr,
            "base_lr": g.lr,
            "weight_decay": g.weight_decay,
            "start_step": g.start_step,
        }
        for g in groups
    ]
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in parameters.values())
    optimizer = torch.optim.AdamW(settings, betas=betas, fused=fused)
    for parameter in trained(optimizer):
        zeros = {key: torch.zeros_like(parameter.detach()) for key in ("exp_avg", "exp_avg_sq")}
        # The fused kernel counts on the parameter's device.
        count = torch.zeros((), device=parameter.device if fused else None)
        optimizer.state[parameter] = {"step": count, **zeros}
    return optimizer


def trained(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """Returns all parameters of the optimiser, group after group."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def schedule_factor(step: int, *, kind: Schedule, steps: int, warmup_steps: int, final_ratio: float) -> float:
    """Returns what the learning rates are multiplied with at `step` (from 0).

    1 |   /--------\\__            linear warm-up, then constant, linear or cosine
      |  /             \\__        down to `final_ratio` after the last step
    0 | /                 ---
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
    if kind == "linear":
        return 1.0 + (final_ratio - 1.0) * done
    if kind == "cosine":
        return final_ratio + (1.0 - final_ratio) * 0.5 * (1.0 + math.cos(math.pi * done))
    return 1.0


def set_learning_rates(
    optimizer: torch.optim.Optimizer, *, factor: float, step: int = 0, warmup_steps: int = 0
) -> dict[str, float]:
    """Returns the learning rate of each group by name, after setting it to base_lr x factor.

    A group that rests at `step` has rate 0; one that starts late has a warm-up of its own, under the same schedule.
    """
    for group in optimizer.param_groups:
        trained_steps = step - group["start_step"] + 1
        late = min(1.0, max(0, trained_steps) / max(1, warmup_steps)) if group["start_step"] else 1.0
        group["lr"] = group["base_lr"] * factor * late
    return {group["name"]: group["lr"] for group in optimizer.param_groups}


def awake(optimizer: torch.optim.Optimizer, *, step: int) -> list[nn.Parameter]:
    """Returns the parameters that train at `step`; the others lose their gradients, so AdamW leaves them alone."""
    parameters = []
    for group in optimizer.param_groups:
        if group["start_step"] <= step:
            parameters += group["params"]
        else:
            for parameter in group["params"]:
                parameter.grad = None
    return parameters


def clip_gradients(parameters: Iterable[nn.Parameter], *, max_norm: float | None) -> float:
    """Returns the norm of all gradients (before clipping) and scales them down to `max_norm` if they are longer.

    A parameter nobody used gets a zero gradient first: otherwise it would rest, and with other ranks' zeros decay.
    """
    parameters, gradients = list(parameters), []
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    norm: Any = nn.utils.get_total_norm(gradients, foreach=True)
    whole: Tensor = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    found = float(whole)
    if max_norm is not None and found > max_norm:
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm, foreach=True)
    return found

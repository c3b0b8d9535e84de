"""What one training step costs: operations, seconds and memory, so that recipes can be compared before they are run."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sonant.batch import Batch
from sonant.train.dry_run import CPU_ATTENTION
from sonant.train.trainer import Loss

_ADAM_STATES = 2  # numbers of the optimiser for each trained parameter


@dataclass(frozen=True)
class StepCost:
    """One micro-batch, forward and backward.

    flops: of matrix products, convolutions and attention, as `torch.utils.flop_counter` counts them.
    memory_bytes: on a GPU the peak that was allocated; on a CPU, which does not say, what must be held at once:
        weights, and for those that train gradients and Adam's two states, and what backward needs of the activations.
    """

    flops: int
    seconds: float  # the fastest of several; on a CPU, of its cores: a wall clock would tell of the neighbours as well
    memory_bytes: int


def step_cost(model: nn.Module, loss: Loss, batch: Batch, *, repeats: int = 3, bf16: bool = False) -> StepCost:
    """Returns what a step of `loss` costs; gradients are gone afterwards, weights as they were.

    Only parameters that require gradients are counted as trained. bf16: under autocast.
    """
    device = next(model.parameters()).device
    there = batch.to(device)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            total = loss(model, there).total
        total.backward()

    step()  # what is made at the first use is no cost of a step
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        step()
    memory = _memory(model, step, device)
    seconds = min(_seconds(step, device) for _ in range(repeats))
    model.zero_grad(set_to_none=True)
    return StepCost(int(counter.get_total_flops()), seconds, memory)


def cost_table(costs: Mapping[str, StepCost]) -> str:
    """Returns the costs as lines of text, the first one being what the others are compared with."""
    first = next(iter(costs.values()))
    lines = [f"{'a step of one micro-batch':<40} {'GFLOP':>10} {'ms':>9} {'MB':>9}   compared"]
    for name, cost in costs.items():
        ratios = f"{cost.flops / max(first.flops, 1):.2f} x FLOP, {cost.seconds / first.seconds:.2f} x time"
        numbers = f"{cost.flops / 1e9:>10.3f} {1e3 * cost.seconds:>9.1f} {cost.memory_bytes / 1e6:>9.1f}"
        lines.append(f"{name:<40} {numbers}   {ratios}")
    return "\n".join(lines)


def _seconds(step: Callable[[], None], device: torch.device) -> float:
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    began = clock()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - began


def _memory(model: nn.Module, step: Callable[[], None], device: torch.device) -> int:
    trained = sum(_bytes(p) for p in model.parameters() if p.requires_grad)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return int(torch.cuda.max_memory_allocated(device)) + _ADAM_STATES * trained
    weights = [*model.parameters(), *model.buffers()]
    kept: dict[int, int] = {}  # storage -> bytes: views of one tensor are held once

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step()
    for weight in weights:
        kept.pop(weight.untyped_storage().data_ptr(), None)
    held = {weight.untyped_storage().data_ptr(): weight.untyped_storage().nbytes() for weight in weights}
    return sum(held.values()) + sum(kept.values()) + (1 + _ADAM_STATES) * trained


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()

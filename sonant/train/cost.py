"""What one training step costs: operations, seconds and memory, so that recipes can be compared before they are run."""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from sonant.batch import Batch
from sonant.train.dry_run import CPU_ATTENTION, kind_of
from sonant.train.trainer import Loss

Steps = dict[str, tuple[nn.Module, Batch, Loss]]  # name -> what trains, on what, by which loss
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


@dataclass(frozen=True)
class StepTime:
    """How long one micro-batch takes, forward and backward, and in which operations.

    by_kind: kind of operation (`sonant.train.dry_run.Call.kind`) -> seconds of all of them; the rest is Python's.
    """

    seconds: float
    by_kind: Mapping[str, float]


def step_cost(model: nn.Module, loss: Loss, batch: Batch, *, repeats: int = 3, bf16: bool = False) -> StepCost:
    """Returns what a step of `loss` costs; gradients are gone afterwards, weights as they were.

    Only parameters that require gradients are counted as trained. bf16: under autocast.
    """
    device, step = _step(model, loss, batch, bf16=bf16)
    step()  # what is made at the first use is no cost of a step
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        step()
    memory = _memory(model, step, device)
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    seconds = min(_seconds(step, device, clock) for _ in range(repeats))
    model.zero_grad(set_to_none=True)
    return StepCost(int(counter.get_total_flops()), seconds, memory)


def step_time(model: nn.Module, loss: Loss, batch: Batch, *, repeats: int = 3, bf16: bool = False) -> StepTime:
    """Returns how long the fastest of `repeats` steps of `loss` takes, and where the time of as many others went."""
    device, step = _step(model, loss, batch, bf16=bf16)
    step()
    seconds = min(_seconds(step, device, clock_of(device)) for _ in range(repeats))
    timed = []
    for _ in range(repeats):
        with _Timing(device) as timing:
            step()
        timed.append(timing.by_kind)
    model.zero_grad(set_to_none=True)
    return StepTime(seconds, min(timed, key=lambda by_kind: sum(by_kind.values())))


def most_allocated(act: Callable[[], object]) -> int:
    """Returns the most bytes that `act` held at once on the CPU beside what there was before, as the allocator says."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        act()
    events = profiler.profiler.kineto_results.events()
    held = most = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def clock_of(device: torch.device) -> Callable[[], float]:
    """Returns a clock in seconds: of the wall, but where one thread of a CPU works, of that, as if it were idle.

    Several threads do not share all of a step, so that their seconds say less than the wall's.
    """
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time if alone else time.perf_counter


def cost_table(costs: Mapping[str, StepCost]) -> str:
    """Returns the costs as lines of text, the first one being what the others are compared with."""
    first = next(iter(costs.values()))
    lines = [f"{'a step of one micro-batch':<40} {'GFLOP':>10} {'ms':>9} {'MB':>9}   compared"]
    for name, cost in costs.items():
        ratios = f"{cost.flops / max(first.flops, 1):.2f} x FLOP, {cost.seconds / first.seconds:.2f} x time"
        numbers = f"{cost.flops / 1e9:>10.3f} {1e3 * cost.seconds:>9.1f} {cost.memory_bytes / 1e6:>9.1f}"
        lines.append(f"{name:<40} {numbers}   {ratios}")
    return "\n".join(lines)


def tell_costs(steps: Steps, path: Path, *, say: Callable[[str], None]) -> None:
    """Measures a step of each kind (what trains, on what, by which loss), says it as a table and writes it as JSON.

    Not of models in pieces: the other processes, which hold the rest, have gone.
    """
    if any(isinstance(module, FSDPModule) for model, *_ in steps.values() for module in model.modules()):
        say("costs of a step are not measured: the model is shared out over processes (fsdp2)")
        return
    costs = {name: step_cost(model, loss, batch) for name, (model, batch, loss) in steps.items()}
    path.write_text(json.dumps({name: asdict(cost) for name, cost in costs.items()}, indent=2) + "\n", encoding="utf-8")
    say(cost_table(costs))


def _step(model: nn.Module, loss: Loss, batch: Batch, *, bf16: bool = False) -> tuple[torch.device, Callable[[], None]]:
    """The model's device, and forward and backward there, without old gradients."""
    device = next(model.parameters()).device
    there = batch.to(device)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            total = loss(model, there).total
        total.backward()

    return device, step


def _seconds(step: Callable[[], None], device: torch.device, clock: Callable[[], float]) -> float:
    began = clock()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - began


class _Timing(TorchDispatchMode):
    """Within, every operation is timed; views are not, which do nothing."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.by_kind = defaultdict[str, float](float)
        self._device, self._clock = device, clock_of(device)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.is_view:
            return func(*args, **(kwargs or {}))
        began = self._clock()
        out = func(*args, **(kwargs or {}))
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.by_kind[kind_of(func)] += self._clock() - began
        return out


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

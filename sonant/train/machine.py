"""How fast a machine computes: measured by a product of matrices, a pass over memory and an empty operation."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

_SIZE = 1024  # of the square matrices
_NUMBERS = 4 * 2**20  # of the array passed over: 16 MB read, 16 MB written


@dataclass(frozen=True)
class Machine:
    """One device as the plan sees it.

    efficiency: the share of these rates that a training step reaches; what is measured is 1.0 by definition for the
        products that measured it. `calibrated` says that it was measured with the model at hand.
    """

    name: str
    flops_per_s: float  # fp32
    bf16_flops_per_s: float
    bytes_per_s: float
    call_s: float = 0.0  # an operation that does nothing
    efficiency: float = 1.0
    calibrated: bool = False

    def seconds(self, flops: int, moved_bytes: int, dtype: torch.dtype) -> float:
        """Returns how long an operation takes: the longer of computing and of moving, and the call."""
        peak = self.flops_per_s if dtype in (torch.float32, torch.float64) else self.bf16_flops_per_s
        return (max(flops / peak, moved_bytes / self.bytes_per_s) + self.call_s) / self.efficiency


def measure_machine(*, device: str = "cpu") -> Machine:
    """Returns what this machine reaches, the best of several runs of about a second in all (see `clock_of`)."""
    where = torch.device(device)
    clock = clock_of(where)

    def seconds(act: Callable[[], object], *, repeats: int) -> float:
        times = []
        for _ in range(repeats):
            began = clock()
            act()
            if where.type == "cuda":
                torch.cuda.synchronize(where)
            times.append(clock() - began)
        return max(min(times), 1e-9)

    def product(dtype: torch.dtype) -> float:
        x = torch.ones(_SIZE, _SIZE, dtype=dtype, device=where)
        return 2 * _SIZE**3 / seconds(lambda: x @ x, repeats=6)

    numbers, one = torch.ones(_NUMBERS, device=where), torch.ones(1, device=where)
    target = torch.empty_like(numbers)
    return Machine(
        name=torch.cuda.get_device_name(where)
        if where.type == "cuda"
        else f"this CPU, {torch.get_num_threads()} threads",
        flops_per_s=product(torch.float32),
        bf16_flops_per_s=product(torch.bfloat16),
        bytes_per_s=2 * numbers.nbytes / seconds(lambda: torch.mul(numbers, 2.0, out=target), repeats=6),
        call_s=seconds(lambda: [one.add(1.0) for _ in range(1000)], repeats=3) / 1000,
    )


def clock_of(device: torch.device) -> Callable[[], float]:
    """Returns a clock in seconds; on a CPU, of its threads, as if idle: a wall clock tells of neighbours too."""
    if device.type == "cuda":
        return time.perf_counter
    return lambda: time.process_time() / torch.get_num_threads()


def calibrated(machine: Machine, *, predicted_s: float, measured_s: float) -> Machine:
    """Returns the machine with the efficiency that makes of a prediction what was measured."""
    return replace(machine, efficiency=machine.efficiency * predicted_s / measured_s, calibrated=True)

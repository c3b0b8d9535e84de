"""How fast a machine computes: by a product of matrices, a pass over memory and an empty operation; by a real step.

rates         what hardware does at best, measured here or told
efficiency    the share of them that a step reaches, told, where no step was measured
slowness      of each kind of operation, where one was: seconds / seconds by the rates
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch

from sonant.errors import ConfigError
from sonant.train.cost import StepTime, clock_of
from sonant.train.dry_run import Call

# Of the square matrices, and of the array passed over (16 MB read, 16 MB written). A GPU would do it in microseconds,
# less than starting takes, and its cache holds 50 MB.
_SIZES = {"cpu": (1024, 4 * 2**20), "cuda": (8192, 2**28)}


@dataclass(frozen=True)
class Machine:
    """One device as the plan sees it.

    efficiency: the share of the rates that a training step reaches.
    slowness: kind of operation -> how many times as long as by the rates it takes; of kinds that were not met in the
        step that was measured, and of all where none was, 1 / efficiency.

    Raises: ConfigError for an efficiency or rates that no machine has.
    """

    name: str
    flops_per_s: float  # fp32
    bf16_flops_per_s: float
    bytes_per_s: float
    call_s: float = 0.0  # of an operation, whatever it does
    efficiency: float = 1.0
    slowness: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.efficiency <= 1:
            raise ConfigError(f"efficiency {self.efficiency:g}: a share of what is possible is above 0 and at most 1")
        if min(self.flops_per_s, self.bf16_flops_per_s, self.bytes_per_s) <= 0:
            raise ConfigError(
                f"a machine of {self.flops_per_s:g} FLOP/s (bf16 {self.bf16_flops_per_s:g}) and {self.bytes_per_s:g} "
                "bytes/s never ends; rates are above 0"
            )

    @property
    def calibrated(self) -> bool:
        """Returns whether a real step was measured."""
        return bool(self.slowness)

    def seconds(self, call: Call) -> float:
        """Returns how long an operation takes."""
        return self.at_best(call) * self.slowness.get(call.kind, 1 / self.efficiency) + self.call_s

    def at_best(self, call: Call) -> float:
        """Returns how long an operation takes by the rates alone: the longer of computing and of moving."""
        peak = self.flops_per_s if call.dtype in (torch.float32, torch.float64) else self.bf16_flops_per_s
        return max(call.flops / peak, call.moved_bytes / self.bytes_per_s)


def measure_machine(*, device: str = "cpu") -> Machine:
    """Returns what this machine reaches, the best of several runs of about a second in all (see `clock_of`).

    Products are as fast as fp32 is multiplied now: enter `sonant.models.matmul.fast_matmul` as training does.
    """
    where = torch.device(device)
    clock, (width, length) = clock_of(where), _SIZES[where.type]

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
        x = torch.ones(width, width, dtype=dtype, device=where)
        return 2 * width**3 / seconds(lambda: x @ x, repeats=6)

    numbers, one = torch.ones(length, device=where), torch.ones(1, device=where)
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


def calibrated(machine: Machine, calls: Mapping[Call, int], measured: StepTime) -> Machine:
    """Returns the machine as fast as a real step of these `calls` was.

    What the step took beside its operations (Python, autograd) is spread over their number.
    """
    best, number = defaultdict[str, float](float), Counter[str]()
    for call, n in calls.items():
        best[call.kind] += n * machine.at_best(call)
        number[call.kind] += n
    slowness = {
        kind: max(0.0, seconds - number[kind] * machine.call_s) / best[kind]
        for kind, seconds in measured.by_kind.items()
        if best.get(kind)
    }
    explained = sum(slowness[kind] * best[kind] for kind in slowness)
    return replace(
        machine,
        slowness=slowness,
        call_s=max(0.0, measured.seconds - explained) / number.total(),
        efficiency=min(1.0, sum(best.values()) / measured.seconds),
    )

"""What a thousand ranks would be dealt of a million rows: every row once, equally much to hear; what it costs a rank.

The rows are made up: log-normal clips of 1 to 30 s (as in read speech), 12.5 frames a second, 15 % text alone.
"""

import json
import subprocess
import sys
import time

import numpy as np
from numpy.typing import NDArray

from bench.figure import Figure, at_most, reported
from sonant.data.plan import EpochPlan, Plan, PlanConfig

ROWS, RANKS, TOKEN_BUDGET = 1_000_000, 1000, 8192
LIMIT = 2.0  # percent


def measure() -> list[Figure]:
    seconds, plan = rows_heard(ROWS), plan_of(ROWS, RANKS)
    figures = []
    for epoch in (0, 1):
        dealt = Dealt(plan.epoch(epoch), seconds, RANKS)
        times, steps = dealt.times_seen, plan.epoch(epoch).num_steps
        once = int(times.min()) == int(times.max()) == 1
        told = f"each row {times.min()} to {times.max()} times"
        figures.append(Figure(f"epoch {epoch}, {RANKS:,} ranks, {steps} steps: rows seen", "each once", told, once))
        what = f"epoch {epoch}: audio seconds of a rank, furthest from the mean"
        figures.append(at_most(what, LIMIT, [dealt.furthest_percent], "%"))
        slowest = "epoch {}: heaviest micro-batch of a step over the mean one, by tokens, mean of steps"
        figures.append(reported(slowest.format(epoch), [dealt.waiting(plan.epoch(epoch))], "x"))
    child = subprocess.run([sys.executable, "-m", "bench.thousand_ranks"], check=True, capture_output=True, text=True)
    cost = json.loads(child.stdout)
    return [
        *figures,
        reported("a rank alone: the plan of epoch 0 and its first step", [cost["start_s"]], "s CPU"),
        reported("a later step of a rank", [cost["step_us"]], "us CPU"),
        reported("a rank alone: memory of rows and plan", [cost["memory_mb"]], "MB"),
    ]


class Dealt:
    """Who gets what: all micro-batches of an epoch, asked for as every rank would."""

    def __init__(self, plan: EpochPlan, seconds: NDArray[np.int64], ranks: int) -> None:
        self.times_seen = np.zeros(len(seconds), np.int64)
        self.heard = np.zeros(ranks, np.int64)
        for step in range(plan.num_steps):
            for rank in range(ranks):
                for rows, _ in plan.step(step, rank=rank, world_size=ranks):
                    np.add.at(self.times_seen, rows, 1)
                    self.heard[rank] += seconds[rows].sum()

    @property
    def furthest_percent(self) -> float:
        """How far the rank furthest from the mean is from it."""
        return float(100 * np.abs(self.heard / self.heard.mean() - 1).max())

    def waiting(self, plan: EpochPlan) -> float:
        """How much longer than the mean rank the slowest computes, if time goes with tokens; the mean over steps."""
        ends = np.diff(np.append(0, np.cumsum(lengths_of(len(self.times_seen))[plan.rows]))[plan.starts])
        steps = ends[plan.order].reshape(plan.num_steps, -1)
        return float((steps.max(1) / steps.mean(1)).mean())


def rows_heard(rows: int) -> NDArray[np.int64]:
    """Returns (rows,) milliseconds of audio of each row; 15 % have none."""
    dice = np.random.default_rng(0)
    seconds = np.clip(dice.lognormal(2.0, 0.6, rows), 1, 30)
    return np.where(dice.random(rows) < 0.15, 0, np.round(1000 * seconds)).astype(np.int64)


def lengths_of(rows: int) -> NDArray[np.int64]:
    """Returns (rows,) tokens: 12.5 frames a second, and 10 to 80 tokens of text, to 300 where there is no audio."""
    dice, heard = np.random.default_rng(1), rows_heard(rows)
    text = dice.integers(10, 80, rows) + (heard == 0) * dice.integers(0, 220, rows)
    return text + heard // 80


def plan_of(rows: int, ranks: int) -> Plan:
    """Returns the plan in which each rank takes one micro-batch a step."""
    config = PlanConfig(token_budget=TOKEN_BUDGET, share_among=ranks)
    return Plan([np.arange(rows)], lengths_of(rows), shares=[1.0], config=config, loads=rows_heard(rows))


def main() -> None:
    """Prints what one rank pays, as JSON."""
    plan_of(100, 4).epoch(0)  # imports and first uses are no part of it
    before, began = _resident_mb(), time.process_time()
    plan = plan_of(ROWS, RANKS)
    plan.epoch(0).step(0, rank=17, world_size=RANKS)
    start_s, memory_mb, began = time.process_time() - began, _resident_mb() - before, time.process_time()
    for step in range(plan.epoch(0).num_steps):
        plan.epoch(0).step(step, rank=17, world_size=RANKS)
    step_us = 1e6 * (time.process_time() - began) / plan.epoch(0).num_steps
    print(json.dumps({"start_s": start_s, "memory_mb": memory_mb, "step_us": step_us}))


def _resident_mb() -> float:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    main()

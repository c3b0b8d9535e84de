"""Does `sonant train --plan` tell the truth? Operations, memory and time of steps, planned from shapes, and real ones.

The models are those that meet the peers (`bench.peers_ours`), encoder, adapter and LoRA trained, at two token budgets
and two lengths of clip. Memory is the most that the allocator hands out in forward and backward (`most_allocated`).
Time is of forward and backward; the rates were measured by steps of the smallest budget: of the model itself, and, for
Parakeet also of the other one.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch

from bench.figure import Figure
from bench.peers_ours import PARAKEET, STACK, WHISPER
from sonant.cli.train import preset_path
from sonant.config import load_config
from sonant.models.matmul import fast_matmul
from sonant.recipes.planned import Planned, planned
from sonant.recipes.typical import Row
from sonant.recipes.voicetextblender import VoiceTextBlender
from sonant.train.cost import most_allocated, step_cost, step_time
from sonant.train.dry_run import dry_step
from sonant.train.fit import seconds_of
from sonant.train.machine import Machine, calibrated, measure_machine

WITHIN = 10.0  # percent
ENCODERS = {"whisper": WHISPER, "parakeet": PARAKEET}
LLM = {  # of the peers
    "model_type": "llama",
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 768,
    "vocab_size": 1024,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
CASES = ((800, Row()), (2400, Row()), (2400, Row(clip_s=25.0)))  # the first one calibrates


def measure() -> list[Figure]:
    """Returns planned against measured for each case."""
    with fast_matmul():
        machine, figures = measure_machine(), []
        rates: dict[str, Machine] = {}
        for name in ENCODERS:
            for budget, row in CASES:
                figures += list(compare(name, budget, row, machine=machine, rates=rates))
        figures += list(compare_bf16("whisper", *CASES[0]))
    return figures


def compare(name: str, budget: int, row: Row, *, machine: Machine, rates: dict[str, Machine]) -> Iterator[Figure]:
    """Yields the figures of one case; adds to `rates` what the first case of a model measures."""
    what = f"{name}, {budget} positions, clips of {row.clip_s:g} s"
    dry, real = stages(name, budget)
    rows = dry.num_rows(row)
    plan, batch = dry_step(dry.model, dry.loss, [dry.batch(row, rows)]), real.batch(row, rows)
    calls = sum(plan.calls.values(), Counter())
    measured = step_time(real.model, real.loss, batch)
    cost = step_cost(real.model, real.loss, batch, repeats=1)
    yield compared(f"{what}: operations", sum(plan.flops.values()) / 1e9, cost.flops / 1e9, "GFLOP")
    yield compared(f"{what}: most held", plan.peak_bytes / 1e6, held(real, batch) / 1e6, "MB")
    found = 1e3 * measured.seconds
    for calibrator, rate in rates.items():
        yield compared(f"{what}: time, by a step of {calibrator}", 1e3 * seconds_of(calls, rate), found, "ms")
    if name not in rates:
        rates[name] = calibrated(machine, calls, measured)


def compare_bf16(name: str, budget: int, row: Row) -> Iterator[Figure]:
    """Yields what is held under autocast."""
    dry, real = stages(name, budget, "train.precision=bf16")
    rows = dry.num_rows(row)
    plan = dry_step(dry.model, dry.loss, [dry.batch(row, rows)], bf16=True)
    found = held(real, real.batch(row, rows))
    yield compared(f"{name}, {budget} positions, bf16: most held", plan.peak_bytes / 1e6, found / 1e6, "MB")


def stages(name: str, budget: int, *overrides: str) -> tuple[Planned, Planned]:
    """Returns the model as shapes and with weights."""
    config = load_config(VoiceTextBlender, [preset_path("voicetextblender", "tiny")], overrides=list(overrides))
    values: dict[str, Any] = config.model_dump(mode="json")
    values["model"] |= {
        "encoders": [ENCODERS[name]],
        "adapter": {"kind": "stack_mlp", "stack": STACK[name]},
        "llm": {"architecture": LLM},
    }
    values["data"]["plan"]["token_budget"] = budget
    values["kl_weight"] = 0.0
    values["groups"]["encoder"] = {"patterns": ["encoders.*"], "lr": 1e-4}
    config = VoiceTextBlender.model_validate(values)
    return planned(config)[0], planned(config, real=True)[0]


def held(stage: Planned, batch: Any) -> int:
    """Returns the most bytes that forward and backward hold beside weights and batch."""

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=stage.train.precision == "bf16"):
            total = stage.loss(stage.model, batch).total
        total.backward()

    stage.model.zero_grad(set_to_none=True)
    most = most_allocated(step)
    stage.model.zero_grad(set_to_none=True)
    return most


def compared(what: str, plan: float, found: float, unit: str) -> Figure:
    """Returns the figure that a plan is within 10 % of what was found."""
    off = 100 * (plan / found - 1)
    return Figure(
        what, f"within {WITHIN:g} %", f"{plan:.4g} planned, {found:.4g} {unit} ({off:+.1f} %)", abs(off) <= WITHIN
    )

"""Does `sonant train --plan` tell the truth? Memory and time of a step, planned from shapes, beside the real step.

Memory is what the allocator hands out at most (torch.profiler), less what there was before, against what the plan says
is held. Time is of the CPU's clock; its efficiency was measured by three steps of a quarter of the rows.
"""

from typing import Any

import torch

from bench.figure import Figure
from sonant.cli.train import preset_path
from sonant.cli.train_plan import calibrated_for
from sonant.config import load_config
from sonant.recipes.planned import Planned, planned
from sonant.recipes.typical import Row
from sonant.recipes.voicetextblender import VoiceTextBlender
from sonant.train.cost import step_cost
from sonant.train.dry_run import dry_step
from sonant.train.fit import seconds_of
from sonant.train.machine import measure_machine

WITHIN = 10.0  # percent
STACK: dict[str, Any] = {"adapter": {"kind": "stack_mlp", "stack": 2, "hidden_dim": 256}}
LARGER: dict[str, Any] = STACK | {
    "encoders": [
        {
            "kind": "whisper",
            "architecture": {
                "d_model": 256,
                "encoder_layers": 4,
                "encoder_attention_heads": 4,
                "encoder_ffn_dim": 1024,
                "num_mel_bins": 80,
                "max_source_positions": 1500,
            },
        }
    ],
    "llm": {
        "architecture": {
            "model_type": "llama",
            "hidden_size": 384,
            "num_hidden_layers": 6,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "intermediate_size": 1024,
            "vocab_size": 4096,
            "tie_word_embeddings": True,
        }
    },
}
CASES = {
    "tiny parts, stacked frames": (STACK, Row()),
    "Whisper class 4 x 256, Llama 6 x 384, encoder trained": (LARGER, Row()),
    "the same, clips of 25 s": (LARGER, Row(clip_s=25.0)),
}


def measure() -> list[Figure]:
    """Returns planned against measured for each case."""
    machine = measure_machine()
    figures = []
    base = load_config(VoiceTextBlender, [preset_path("voicetextblender", "tiny")]).model_dump(mode="json")
    for name, (parts, row) in CASES.items():
        groups = base["groups"] | {"encoder": {"patterns": ["encoders.*"], "lr": 1e-4}}
        changes = {"model": base["model"] | parts, "kl_weight": 0.0, "groups": groups}
        config = VoiceTextBlender.model_validate(base | changes)
        dry, real = planned(config)[0], planned(config, real=True)[0]
        rows = dry.num_rows(row)
        step = dry_step(dry.model, dry.loss, [dry.batch(row, rows)])
        batch = real.batch(row, rows)
        cost = step_cost(real.model, real.loss, batch)
        rate = calibrated_for(dry, real, row, machine=machine)
        seconds = sum(seconds_of(calls, rate) for calls in step.calls.values())
        held = allocated(real, batch)
        figures += [
            compared(f"{name}: operations", sum(step.flops.values()) / 1e9, cost.flops / 1e9, "GFLOP"),
            compared(f"{name}: most held in a step", step.peak_bytes / 1e6, held / 1e6, "MB"),
            compared(f"{name}: time", 1e3 * seconds, 1e3 * cost.seconds / torch.get_num_threads(), "ms"),
        ]
    return figures


def compared(what: str, plan: float, found: float, unit: str) -> Figure:
    """Returns the figure that a plan is within 10 % of what was found."""
    off = 100 * (plan / found - 1)
    return Figure(
        what, f"within {WITHIN:g} %", f"{plan:.4g} planned, {found:.4g} {unit} ({off:+.1f} %)", abs(off) <= WITHIN
    )


def allocated(stage: Planned, batch: Any) -> int:
    """Returns the most bytes forward and backward hold more than there was, as the allocator tells it."""
    stage.model.zero_grad(set_to_none=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        stage.loss(stage.model, batch).total.backward()
    stage.model.zero_grad(set_to_none=True)
    events = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    memory = sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns())
    held = most = 0
    for event in memory:
        held += event.nbytes()
        most = max(most, held)
    return most

"""`sonant train RECIPE PRESET --plan`: parameters, memory and time of a step, before anything is trained."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sonant.recipes.planned import Planned
    from sonant.recipes.typical import Row
    from sonant.train.fit import Devices, Fit
    from sonant.train.machine import Machine

_LONGEST_S = 36_000.0  # ten hours


@dataclass(frozen=True)
class Wanted:
    """What `--plan` was told beside the settings; a rate of None is measured here."""

    devices: int = 1
    memory_gb: float | None = None
    peak_tflops: float | None = None
    bandwidth_gb_s: float | None = None
    efficiency: float | None = None
    calibrate: bool = False
    clip_s: float = 10.0
    text_tokens: int = 64
    answer_tokens: int = 32


def plan(config: Any, wanted: Wanted, *, out: Path | None, say: Callable[[str], None]) -> None:
    """Says how each stage of the settings would train; writes the same as JSON to `out`.

    Raises: SonantError for settings that no plan can be made of.
    """
    from sonant.models.matmul import fast_matmul
    from sonant.recipes.planned import planned
    from sonant.recipes.typical import Row

    row = Row(wanted.clip_s, wanted.text_tokens, wanted.answer_tokens)
    stages, found = planned(config), {}
    with fast_matmul(stages[0].train.matmul, device=_here()):  # as training runs
        machine = _machine(wanted)
        real = planned(config, real=True) if wanted.calibrate else [None] * len(stages)
        for stage, with_weights in zip(stages, real, strict=True):
            rate = machine if with_weights is None else calibrated_for(stage, with_weights, row, machine=machine)
            found[stage.name] = _tell(stage, row, _devices(wanted, rate), say=say)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _here() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _machine(wanted: Wanted) -> "Machine":
    from sonant.errors import ConfigError
    from sonant.train.machine import Machine, measure_machine

    if wanted.peak_tflops is None:
        machine = measure_machine(device=_here())
        return machine if wanted.efficiency is None else replace(machine, efficiency=wanted.efficiency)
    if wanted.calibrate:
        raise ConfigError("--calibrate measures this machine and --peak-tflops tells of another; give one of them")
    peak = 1e12 * wanted.peak_tflops
    # GPUs of these years do 200 to 400 FLOP in the time of a byte.
    bandwidth = peak / 300 if wanted.bandwidth_gb_s is None else 1e9 * wanted.bandwidth_gb_s
    efficiency = 0.5 if wanted.efficiency is None else wanted.efficiency
    return Machine("as told", peak, peak, bandwidth, call_s=5e-6, efficiency=efficiency)


def _devices(wanted: Wanted, machine: "Machine") -> "Devices":
    import torch

    from sonant.train.fit import Devices

    gpu = torch.cuda.is_available() or wanted.peak_tflops is not None or wanted.memory_gb is not None
    memory = None if wanted.memory_gb is None else round(1e9 * wanted.memory_gb)
    if memory is None and torch.cuda.is_available() and wanted.peak_tflops is None:
        memory = torch.cuda.mem_get_info()[1]
    return Devices(machine, wanted.devices, memory, "gpu" if gpu else "cpu")


def calibrated_for(stage: "Planned", real: "Planned", row: "Row", *, machine: "Machine") -> "Machine":
    """Returns the machine as fast as steps of a quarter of the rows of this very model are, operation by operation."""
    from collections import Counter

    from sonant.train.cost import step_time
    from sonant.train.dry_run import dry_step
    from sonant.train.machine import calibrated

    rows, bf16 = max(1, stage.num_rows(row) // 4), stage.train.precision == "bf16"
    batches, fused = [stage.batch(row, rows)], _here() == "cuda"
    dry = dry_step(stage.model, stage.loss, batches, bf16=bf16, fused_attention=fused)
    measured = step_time(real.model.to(_here()), real.loss, real.batch(row, rows), bf16=bf16)
    return calibrated(machine, sum(dry.calls.values(), Counter()), measured)


def _tell(stage: "Planned", row: "Row", devices: "Devices", *, say: Callable[[str], None]) -> dict[str, Any]:
    from sonant.data.plan import check_world
    from sonant.errors import ConfigError
    from sonant.train.fit import Fit, Step, fit_step, largest_that_fits, longest_by_memory

    check_world(stage.plan.micro_batches, rank=0, world_size=devices.count)
    rows = stage.num_rows(row)
    if not rows:
        raise ConfigError(
            f"{stage.name}: a row of {row.clip_s:g} s takes {stage.positions(row)} positions, more than "
            f"token_budget={stage.plan.token_budget}; raise the budget or plan for shorter clips (--clip-s)"
        )
    each = stage.plan.micro_batches // devices.count

    def fit(clip_s: float, num_rows: int) -> Fit:
        long = replace(row, clip_s=clip_s)
        batch = stage.batch(long, num_rows)
        return fit_step(Step(stage.model, stage.loss, batch, stage.positions(long), each, stage.train), devices)

    whole = fit(row.clip_s, rows)
    most = largest_that_fits(
        lambda s: stage.positions(replace(row, clip_s=s)) <= stage.most_positions, first=row.clip_s, most=_LONGEST_S
    )
    longest = most
    if devices.memory_bytes is not None and most:
        usable = devices.usable_bytes
        longest = longest_by_memory(lambda s: fit(s, 1).memory_bytes, usable_bytes=usable, first=row.clip_s, most=most)
    fits = whole.memory_bytes <= devices.usable_bytes
    say(_table(stage, row, whole, devices))
    say(_verdict(stage, whole, devices, longest_s=longest, allowed_s=most))
    return whole.as_json() | {"fits": fits, "longest_clip_s": longest, "longest_clip_allowed_s": most}


def _table(stage: "Planned", row: "Row", fit: "Fit", devices: "Devices") -> str:
    machine, times = devices.machine, max(fit.step_s, 1e-12)
    columns = f"{'part':<16}{'parameters':>15}{'trained':>14}{'weights':>10}{'optimiser':>10}{'held':>10}"
    lines = [
        f"{stage.name}: {fit.rows} rows of {row.clip_s:g} s and {row.text_tokens} tokens ({fit.positions} positions), "
        f"{fit.micro_batches} micro-batches a step on each of {devices.count} devices, {stage.train.precision}",
        f"machine: {machine.name}, {machine.flops_per_s / 1e12:.3g} TFLOP/s "
        f"(bf16 {machine.bf16_flops_per_s / 1e12:.3g}), {machine.bytes_per_s / 1e9:.3g} GB/s, "
        f"efficiency {machine.efficiency:.2f} ({'measured with this model' if machine.calibrated else 'assumed'})",
        "",
        f"{columns}{'TFLOP':>10}{'s':>10}{'share':>8}   (GB on each device)",
    ]
    for part in fit.parts:
        sizes = "".join(f"{value / 1e9:>10.3f}" for value in (part.weight_bytes, part.optimizer_bytes, part.held_bytes))
        lines.append(
            f"{part.part:<16}{part.parameters:>15,}{part.trained:>14,}{sizes}"
            f"{part.flops / 1e12:>10.3f}{part.seconds:>10.3f}{part.seconds / times:>8.0%}"
        )
    if fit.gathered_bytes:
        lines.append(f"{'gathered (fsdp2)':<65}{fit.gathered_bytes / 1e9:>10.3f}")
    parameters, trained = sum(p.parameters for p in fit.parts), sum(p.trained for p in fit.parts)
    flops = sum(p.flops for p in fit.parts)
    lines.append(
        f"{'all':<16}{parameters:>15,}{trained:>14,}{fit.memory_bytes / 1e9:>30.3f}"
        f"{flops / 1e12:>10.3f}{fit.step_s:>10.3f}"
    )
    lines.append(f"{fit.audio_s_per_s:,.4g} s of audio and {fit.tokens_per_s:,.4g} positions a second on all devices")
    return "\n".join(lines)


def _verdict(stage: "Planned", fit: "Fit", devices: "Devices", *, longest_s: float, allowed_s: float) -> str:
    limit = "token_budget" if stage.most_positions == stage.plan.token_budget else "the LLM's positions"
    clip = f"longest clip alone in a micro-batch: {longest_s:,.0f} s"
    clip += f" ({limit} would allow {allowed_s:,.0f} s)" if longest_s < allowed_s else f" (set by {limit})"
    need = fit.memory_bytes / 1e9
    if devices.memory_bytes is None:
        return f"needs {need:.2f} GB on each device (--memory-gb says what there is); {clip}\n"
    have = devices.usable_bytes / 1e9
    if need <= have:
        return f"FITS: {need:.2f} of {have:.2f} usable GB on each device; {clip}\n"
    changes = "; ".join(_remedies(stage, fit, devices))
    return f"DOES NOT FIT: {need:.2f} GB needed, {have:.2f} usable on each device; {clip}\nto change: {changes}\n"


def _remedies(stage: "Planned", fit: "Fit", devices: "Devices") -> list[str]:
    """What would help most, the largest first."""
    held = sum(part.held_bytes for part in fit.parts)
    fixed = fit.memory_bytes - held
    found = []
    if fixed < devices.usable_bytes:
        room = (devices.usable_bytes - fixed) / held
        found.append(f"data.plan.token_budget={int(stage.plan.token_budget * room) // 64 * 64} and more micro_batches")
    if stage.train.activation_checkpointing == "none":
        found.append("train.activation_checkpointing=layers")
    if stage.train.precision == "fp32":
        found.append("train.precision=bf16")
    if stage.train.parallel != "fsdp2":
        found.append("train.parallel=fsdp2 on more devices")
    frozen = [p for p in fit.parts if p.weight_bytes > 3 * p.parameters and not p.trained and p.parameters > 10**8]
    return found + [f"{part.part} in bfloat16 ({part.weight_bytes / 2e9:.1f} GB less)" for part in frozen]

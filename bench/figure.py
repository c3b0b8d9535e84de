"""One promised figure: what was asked, what was measured."""

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sonant.evaluate.metrics.score import Score

RUNS = Path("runs/bench")
HISTORY = RUNS / "history.jsonl"


@dataclass(frozen=True)
class Figure:
    """`reached` is None where the figure is reported without a threshold."""

    what: str
    asked: str
    measured: str
    reached: bool | None = None


def at_most(what: str, limit: float, values: Sequence[float], unit: str) -> Figure:
    """Returns the figure that every value, one a seed, stays at or below the limit."""
    return Figure(what, f"≤ {limit:g} {unit}", f"{listed(values)} {unit}", max(values) <= limit)


def at_least(what: str, limit: float, values: Sequence[float], unit: str) -> Figure:
    """Returns the figure that every value, one a seed, stays at or above the limit."""
    return Figure(what, f"≥ {limit:g} {unit}", f"{listed(values)} {unit}", min(values) >= limit)


def above_zero(what: str, change: Score, unit: str) -> Figure:
    """Returns the figure that a paired difference is above zero, luck set aside: its 95 % interval, all of it."""
    shown = f"{change.value:+.2f} [{change.low:+.2f}, {change.high:+.2f}] {unit}"
    return Figure(what, "95 % interval > 0", shown, change.low > 0)


def reported(what: str, values: Sequence[float], unit: str) -> Figure:
    """Returns a figure without a threshold."""
    return Figure(what, "report", f"{listed(values)} {unit}")


def listed(values: Sequence[float]) -> str:
    """Returns the values, and their mean if there are several."""
    shown = " / ".join(f"{value:.4g}" for value in values)
    return f"{shown} (mean {sum(values) / len(values):.4g})" if len(values) > 1 else shown


def show(name: str, figures: Sequence[Figure]) -> None:
    """Prints asked / measured, writes them to runs/bench/NAME.json and adds a line to HISTORY (see `bench.history`)."""
    table = Table("figure", "asked", "measured", "", title=name)
    for figure in figures:
        table.add_row(
            figure.what, figure.asked, figure.measured, {True: "reached", False: "MISSED", None: ""}[figure.reached]
        )
    Console(width=150).print(table)
    RUNS.mkdir(parents=True, exist_ok=True)
    (RUNS / f"{name}.json").write_text(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n")
    entry = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": subprocess.run(
            ["git", "describe", "--always", "--dirty"], capture_output=True, text=True
        ).stdout.strip(),
        "machine": f"{os.cpu_count()} x {platform.processor() or platform.machine()}",
        "bench": name,
        "figures": {figure.what: figure.measured for figure in figures},
    }
    with HISTORY.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry, ensure_ascii=False) + "\n")

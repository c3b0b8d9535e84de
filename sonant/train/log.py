"""What a run writes while it works: log.jsonl (one line a step, the source of every plot) and a line to look at."""

import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column
from torch import Tensor

from sonant.batch import Batch


def say(text: str) -> None:
    """Prints one line to standard error."""
    print(text, file=sys.stderr, flush=True)


def truncate(path: Path, *, step: int) -> None:
    """Drops the lines of steps after `step`, and a line cut off by a crash, so that a resumed run doubles no row."""
    if not path.exists():
        return
    temporary = path.with_name(path.name + ".tmp")
    with path.open(encoding="utf-8") as old, temporary.open("w", encoding="utf-8") as new:
        for line in old:
            if line.endswith("\n") and json.loads(line)["step"] <= step:
                new.write(line)
    os.replace(temporary, path)


class RunLog:
    """Writes log.jsonl and rows.jsonl and shows progress; on other ranks than 0 it does nothing."""

    def __init__(self, run_dir: Path, *, steps: int, done: int, log_every: int, rank: int) -> None:
        self._silent = rank != 0
        if self._silent:
            return
        run_dir.mkdir(parents=True, exist_ok=True)
        self._files = {name: run_dir / f"{name}.jsonl" for name in ("log", "rows")}
        for path in self._files.values():
            truncate(path, step=done)
        self._steps, self._log_every, self._first, self._started = steps, log_every, done, time.monotonic()
        self._live: Progress | None = None
        console = Console(stderr=True)
        if console.is_terminal:
            rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")
            columns = (BarColumn(10), MofNCompleteColumn(), TimeRemainingColumn())
            self._live = Progress(
                *columns, TextColumn("{task.description}", table_column=rest), console=console, expand=True
            )
            self._task = self._live.add_task("starting", total=steps, completed=done)
            self._live.start()

    def step(self, record: Mapping[str, Any], *, rows: Sequence[str] | None = None) -> None:
        """Adds the line of a step ({"step": ...}), and with `rows` the ids it has seen."""
        if self._silent:
            return
        self._append("log", record)
        if rows is not None:
            self._append("rows", {"step": record["step"], "ids": list(rows)})
        step, text = int(record["step"]), describe(record)
        if self._live is not None:
            self._live.update(self._task, completed=step, description=text)
        elif step % self._log_every == 0 or step in (self._first + 1, self._steps):
            per_step_s = (time.monotonic() - self._started) / (step - self._first)
            say(f"step {step}/{self._steps}  {text}  left {_clock(per_step_s * (self._steps - step))}")

    def note(self, record: Mapping[str, Any], text: str) -> None:
        """Adds a line of another kind, for instance scores of a validation, and shows `text`."""
        if self._silent:
            return
        self._append("log", record)
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False)
        else:
            say(text)

    def close(self) -> None:
        """Ends the live line."""
        if not self._silent and self._live is not None:
            self._live.stop()

    def _append(self, name: str, record: Mapping[str, Any]) -> None:
        # Opened for each line: it is on its way to the disk when the process dies, and costs microseconds.
        with self._files[name].open("a", encoding="utf-8") as file:
            file.write(json.dumps(_strict(record), ensure_ascii=False) + "\n")


def measure(batches: Sequence[Batch], sums: Sequence[tuple[Tensor, Any]]) -> dict[str, Any]:
    """Returns this rank's share of a step, as JSON."""
    totals = [float(total) for total, _ in sums]
    parts: dict[str, list[float]] = {}
    for _, by_task in sums:
        for task, (total, weight) in by_task.items():
            old = parts.get(task, [0.0, 0.0])
            parts[task] = [old[0] + float(total), old[1] + float(weight)]
    targets: dict[str, float] = {}  # supervised tokens, by task
    for batch in batches:
        for task, weight in zip(batch.tasks, batch.loss_mask[:, 1:].sum(1).tolist(), strict=True):
            targets[task or "other"] = targets.get(task or "other", 0.0) + weight
    return {
        "loss": math.fsum(totals) if all(map(math.isfinite, totals)) else math.nan,
        "parts": parts,
        "bad": [name for b, total in zip(batches, totals, strict=False) if not math.isfinite(total) for name in b.ids],
        "ids": [list(batch.ids) for batch in batches],
        "tokens": sum(int(batch.token_lengths.sum()) for batch in batches),
        "padded_tokens": sum(batch.token_ids.numel() for batch in batches),
        "audio_s": sum(batch.audio_duration_s for batch in batches),
        "targets": targets,
    }


def rates(ours: Sequence[Mapping[str, Any]], task_tokens: Mapping[str, float], *, seconds: float) -> dict[str, Any]:
    """Returns speeds and shares over all ranks: the rest of a log line. Padding is padding / padded size, 0 = none."""
    tasks = sorted({task for rank in ours for task in rank["parts"]})
    sums = {t: [math.fsum(r["parts"].get(t, (0.0, 0.0))[i] for r in ours) for i in (0, 1)] for t in tasks}
    tokens, padded, audio_s = (sum(rank[key] for rank in ours) for key in ("tokens", "padded_tokens", "audio_s"))
    seen = sum(task_tokens.values())
    return {
        "task_loss": {task: total / weight for task, (total, weight) in sums.items() if weight > 0},
        "tokens_per_s": tokens / seconds,
        "audio_s_per_s": audio_s / seconds,
        "padding_share": 1.0 - tokens / padded if padded else 0.0,
        "data_s": max(rank["data_s"] for rank in ours),
        "seconds": seconds,
        "shares": {task: weight / seen for task, weight in task_tokens.items()} if seen else {},
    }


def interleave(ids: Sequence[Sequence[Sequence[str]]]) -> list[str]:
    """Returns row ids in the order of the step's micro-batches: rank r of W holds number r, r + W, ..."""
    return [name for together in zip(*ids, strict=True) for micro_batch in together for name in micro_batch]


def describe(record: Mapping[str, Any]) -> str:
    """Returns the progress line of a step: loss (per task), speed, padding."""
    if "skipped" in record:
        return f"skipped: {record['skipped']}"
    tasks = " ".join(f"{task} {loss:.3f}" for task, loss in record["task_loss"].items())
    return (
        f"loss {record['loss']:.4f}{f' ({tasks})' if len(record['task_loss']) > 1 else ''}  "
        f"{record['tokens_per_s']:.0f} tokens/s  {record['audio_s_per_s']:.0f} audio s/s  "
        f"padding {100 * record['padding_share']:.0f} %"
    )


def _strict(value: Any) -> Any:
    """NaN and infinity are no JSON: they become null."""
    if isinstance(value, Mapping):
        return {key: _strict(v) for key, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _clock(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"

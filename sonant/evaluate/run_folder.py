"""Reads back what `sonant evaluate` and `sonant train` leave in a folder; for reports and comparisons."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sonant.errors import EvaluationError

Json = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """What a run folder holds: any of results.json, items.jsonl, log.jsonl and report_notes.txt."""

    folder: Path
    results: Json  # task -> see TaskResult.to_json
    items: list[Json]
    log: list[Json]  # one line a step
    notes: list[str]
    label: str = ""

    @property
    def name(self) -> str:
        """The folder's own name, or what it is called beside others of that name."""
        return self.label or self.folder.resolve().name

    def items_of(self, task: str) -> list[Json]:
        """Returns the items behind the task's scores: with a prompt bank, those in held-out ("test") wordings."""
        items = [item for item in self.items if item["task"] == task]
        return [item for item in items if item.get("wording", "test").startswith("test")]


def read_run(folder: str | os.PathLike[str]) -> Run:
    """Returns the run in `folder`. Raises: EvaluationError if it holds neither results nor a log, or a cut file."""
    path = Path(folder)
    results_path = path / "results.json"
    results = _parse(results_path.read_text(encoding="utf-8"), results_path) if results_path.exists() else {}
    log = [line for line in _read_lines(path / "log.jsonl") if "loss" in line]
    if not results and not log:
        raise EvaluationError(f"{path}: neither results.json nor log.jsonl; give the folder of a run")
    notes = path / "report_notes.txt"
    return Run(
        folder=path,
        results=results,
        items=_read_lines(path / "items.jsonl"),
        log=log,
        notes=notes.read_text(encoding="utf-8").splitlines() if notes.exists() else [],
    )


def references_of(item: Json) -> list[str]:
    """Returns all right answers to an item."""
    return item.get("references") or [item["reference"]]


def _read_lines(path: Path) -> list[Json]:
    if not path.exists():
        return []
    with open(path, encoding="utf-8") as file:  # by line feeds alone: an answer may hold other line separators
        return [_parse(line, path) for line in file]


def _parse(text: str, path: Path) -> Json:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise EvaluationError(f"{path}: not JSON ({error}); evaluate or train again") from None
    if not isinstance(values, dict):
        raise EvaluationError(f"{path}: holds a {type(values).__name__} where an object should be; evaluate again")
    return values

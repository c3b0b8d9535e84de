"""Ablations: a grid of arms and seeds, each trained and measured in a folder of its own, then one table.

OUT/ARM-seedN/        config.yaml, measured_on.json, log.jsonl, model, results.json, items.jsonl; finished once it has
                      results.json
OUT/ablation.json     scores of every arm, and differences to the first one
OUT/ablation.md       the same as tables
OUT/report.html       all runs side by side
"""

import json
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field

from sonant.config import Config, load_config, save_config
from sonant.errors import ConfigError, SonantError, TrainingError
from sonant.evaluate.findings import Findings, compare_arms, markdown
from sonant.evaluate.report.page import write_report
from sonant.evaluate.run import evaluate
from sonant.evaluate.run_folder import read_run
from sonant.generate.assistant import Assistant
from sonant.recipes.staged import device_of
from sonant.recipes.voicetextblender import VoiceTextBlender, main


class Grid(Config):
    """What is compared: the arms differ from `preset` and `common` by their settings; the first is the base."""

    recipe: Literal["voicetextblender"] = "voicetextblender"
    preset: str = "tiny"
    common: tuple[str, ...] = ()  # settings of every arm, as a.b=c
    manifests: tuple[str, ...] = Field(min_length=1)  # to measure on, relative to data.root
    limit: int | None = Field(None, gt=0)  # rows of each task
    arms: dict[str, tuple[str, ...]] = Field(min_length=1)


@dataclass(frozen=True)
class Cell:
    """One arm with one seed."""

    arm: str
    seed: int
    folder: Path
    config: VoiceTextBlender
    manifests: tuple[Path, ...]
    limit: int | None

    @property
    def finished(self) -> bool:
        """Whether it has been trained and measured."""
        return (self.folder / "results.json").exists()


def make_cells(
    grid: Grid, preset: Path, *, out: Path, seeds: Sequence[int], settings: Sequence[str] = ()
) -> list[Cell]:
    """Returns every arm with every seed, their settings also written to their folders: mistakes show before any work.

    Raises: ConfigError if a setting is wrong, or a folder holds a run with other settings.
    """
    cells = []
    for seed in seeds:
        for arm, overrides in grid.arms.items():
            drawn = (f"train.seed={seed}", f"data.plan.seed={seed}", "train.resume=true")
            changes = [*grid.common, *settings, *overrides, *drawn]
            config = load_config(VoiceTextBlender, [preset], overrides=changes)
            manifests = tuple(Path(config.data.root, name) for name in grid.manifests)
            cells.append(Cell(arm, seed, out / f"{arm}-seed{seed}", config, manifests, grid.limit))
    for cell in cells:
        path = cell.folder / "config.yaml"
        if path.exists() and load_config(VoiceTextBlender, [path]) != cell.config:
            raise ConfigError(f"{path}: this run has other settings; choose another --out or remove {cell.folder}")
        rows = {"manifests": list(map(str, cell.manifests)), "limit": cell.limit}
        told = cell.folder / "measured_on.json"
        if cell.finished and told.exists() and json.loads(told.read_text(encoding="utf-8")) != rows:
            raise ConfigError(
                f"{told}: this run was measured on other rows; choose another --out, or remove "
                f"{cell.folder / 'results.json'} to have it measured again"
            )
        cell.folder.mkdir(parents=True, exist_ok=True)
        save_config(cell.config, path)
        told.write_text(json.dumps(rows) + "\n", encoding="utf-8")
    return cells


def run_cell(cell: Cell) -> None:
    """Trains and measures one cell, going on where it was stopped; what it prints goes to output.txt.

    Raises: SonantError if it cannot.
    """
    with open(cell.folder / "output.txt", "a", encoding="utf-8") as out, redirect_stdout(out), redirect_stderr(out):
        result = main(cell.config, cell.folder, say=print)
        if result.stopped:
            raise TrainingError(f"stopped by {result.stopped} at step {result.step}; start again to go on")
        assistant = Assistant.from_folder(cell.folder / "model", device=device_of(cell.config.train))
        evaluate(assistant, cell.manifests, cell.folder, limit=cell.limit)


def run_cells(
    cells: Iterable[Cell],
    *,
    jobs: int = 1,
    work: Callable[[Cell], None] = run_cell,
    done: Callable[[Cell], None] = lambda cell: None,
) -> None:
    """Runs what is not finished, `jobs` at a time in processes of their own; `done` is told of each.

    Raises: TrainingError that names every cell that failed, after all others have ended.
    """
    missing = [cell for cell in cells if not cell.finished]
    failures = []
    for cell, failure in _here(missing, work) if jobs == 1 else _in_processes(missing, work, jobs=jobs):
        failures += [f"{cell.folder.name}: {failure}"] if failure else []
        done(cell)
    if failures:
        raise TrainingError(f"{len(failures)} of {len(missing)} runs failed: {'; '.join(failures)}")


def summarize(cells: Sequence[Cell]) -> Findings:
    """Returns the findings of every arm that has finished with all seeds; the first arm is the base.

    Raises: TrainingError if the base has not finished.
    """
    arms = dict.fromkeys(cell.arm for cell in cells)
    seeds = {arm: [read_run(c.folder) for c in cells if c.arm == arm and c.finished] for arm in arms}
    whole = {arm: runs for arm, runs in seeds.items() if len(runs) == sum(c.arm == arm for c in cells)}
    base = next(iter(arms))
    if base not in whole:
        raise TrainingError(f"{base}, to which the others are compared, has not finished; run it first")
    return compare_arms(whole)


def write_findings(findings: Findings, cells: Sequence[Cell], *, out: Path) -> None:
    """Writes ablation.json, ablation.md and report.html (the first seed of each arm) to `out`."""
    plain = {arm: {name: asdict(finding) for name, finding in line.items()} for arm, line in findings.items()}
    (out / "ablation.json").write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
    (out / "ablation.md").write_text(markdown(findings), encoding="utf-8")
    first = {cell.arm: cell.folder for cell in reversed(cells) if cell.arm in findings}
    write_report([first[arm] for arm in findings], out=out / "report.html")


def _here(cells: Sequence[Cell], work: Callable[[Cell], None]) -> Iterator[tuple[Cell, str]]:
    for cell in cells:
        yield cell, _attempt(work, cell)


def _in_processes(cells: Sequence[Cell], work: Callable[[Cell], None], *, jobs: int) -> Iterator[tuple[Cell, str]]:
    threads = max(1, torch.get_num_threads() // jobs)
    spawn = multiprocessing.get_context("spawn")  # a fork after torch has used its threads can hang
    with ProcessPoolExecutor(jobs, spawn, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        running = {pool.submit(_attempt, work, cell): cell for cell in cells}
        for future in as_completed(running):
            yield running[future], str(future.exception() or future.result())


def _attempt(work: Callable[[Cell], None], cell: Cell) -> str:
    """Returns why it failed, or nothing."""
    try:
        work(cell)
    except SonantError as error:
        return str(error)
    return ""

"""Checkpoints that survive a kill at any moment: written aside, published by one rename, checked when read.

    checkpoints/
      step_200.tmp/                   being written, or left over from a crash: never read
      step_100/
        shard-00001-model-...safetensors    trained parameters, buffers and AdamW's state: what rank 0 has of them
        shard-00002-model-...safetensors    rank 1 writes and checks its own, and so on (torch DCP)
        progress.json                 step, place in the data, counts; name and shape of every tensor
        manifest.json                 size and SHA-256 of every other file, written last

No pickle on disk. Any number of ranks can read what any other number wrote, where all of them see the folder.
"""

import hashlib
import json
import os
import shutil
from collections import ChainMap
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException

from sonant.errors import CheckpointError, SonantError, TrainingError
from sonant.train.distributed import Ranks, on_each_rank, on_rank_zero
from sonant.train.log import say


@dataclass
class Progress:
    """Where a run stands, after `step` optimiser steps; (epoch, epoch_step) is where the data goes on."""

    step: int = 0
    epoch: int = 0
    epoch_step: int = 0
    bad_steps: int = 0
    bad_in_a_row: int = 0
    best: float | None = None
    best_step: int | None = None
    averaged: int = 0  # steps that the mean weights are of
    task_tokens: dict[str, float] = field(default_factory=dict)  # supervised tokens seen, by task


def state_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Returns all that training changes, by name, sharing memory with model and optimiser: filling it loads them.

    "model.<name>" for trained parameters and persistent buffers, "optimizer.<name>.<key>" for the optimiser.
    """
    tensors = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            tensors[f"model.{name}"] = parameter.detach()
            for key, value in optimizer.state[parameter].items():
                tensors[f"optimizer.{name}.{key}"] = value
    saved = model.state_dict().keys()
    tensors |= {f"model.{name}": buffer for name, buffer in model.named_buffers() if name in saved}
    # The safetensors writer of DCP loses the shape of 0-D tensors.
    return {name: tensor.reshape(1) if tensor.ndim == 0 else tensor for name, tensor in tensors.items()}


class Checkpointer:
    """Saves in a thread of its own, one checkpoint at a time, and finds the newest good one again."""

    def __init__(
        self, folder: Path, *, model: nn.Module, optimizer: torch.optim.Optimizer, ranks: Ranks, keep: int
    ) -> None:
        self._folder, self._model, self._optimizer, self._ranks, self._keep = folder, model, optimizer, ranks, keep
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._running: Future[None] | None = None

    @property
    def failed(self) -> bool:
        """Returns whether the last save ended with an error, which `wait` will raise."""
        return self._running is not None and self._running.done() and self._running.exception() is not None

    def save(self, progress: Progress) -> None:
        """Copies the state to CPU memory, then writes it as step_N while training goes on."""
        self.wait()
        final = self._folder / f"step_{progress.step}"
        aside = final.with_name(final.name + ".tmp")
        if on_rank_zero(lambda: self._prepare(final), ranks=self._ranks, group=self._ranks.talk):
            return
        tensors = state_tensors(self._model, self._optimizer)
        shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
        facts = {"format": 1, "progress": asdict(progress), "tensors": shapes, "torch": torch.__version__}
        writer = HuggingFaceStorageWriter(path=str(aside), save_distributed=True)
        copied = writer.stage(tensors)
        self._running = self._pool.submit(self._write, writer, copied, final, facts)

    def wait(self) -> None:
        """Returns when nothing is being written. Raises: TrainingError if the last save failed."""
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def close(self) -> None:
        """Waits for the thread, whatever came of it."""
        self._pool.shutdown()

    def load_newest(self) -> Progress | None:
        """Returns the progress of the newest good checkpoint after loading it, None if there is none yet.

        A damaged one is named in a warning and passed over. Raises: CheckpointError if all are damaged or the newest
        good one was made with other trained parameters.
        """
        group = self._ranks.talk
        folder = newest_good(self._folder, ranks=self._ranks)
        if folder is None:
            return None
        facts = on_rank_zero(lambda: json.loads((folder / "progress.json").read_text()), ranks=self._ranks, group=group)
        tensors = state_tensors(self._model, self._optimizer)
        _compare(folder, facts["tensors"], {name: list(tensor.shape) for name, tensor in tensors.items()})
        dcp.load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)), process_group=self._ranks.saving)
        return Progress(**facts["progress"])

    def _prepare(self, final: Path) -> bool:
        """Makes an empty folder to write to; returns whether the checkpoint is there already."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for leftover in self._folder.glob("step_*.tmp"):
            shutil.rmtree(leftover)
        if final.exists():
            if fault_of(final) is None:
                return True
            shutil.rmtree(final)
        final.with_name(final.name + ".tmp").mkdir()
        return False

    def _write(self, writer: Any, tensors: dict[str, Tensor], final: Path, facts: dict[str, Any]) -> None:
        aside = final.with_name(final.name + ".tmp")
        try:
            dcp.save(tensors, storage_writer=writer, process_group=self._ranks.saving)
            ours = aside.glob(f"shard-{self._ranks.rank + 1:05d}-*")
            seals = on_each_rank(lambda: {path.name: _seal(path) for path in ours}, group=self._ranks.saving)
            on_rank_zero(
                partial(self._publish, final, facts, dict(ChainMap(*seals))),
                ranks=self._ranks,
                group=self._ranks.saving,
            )
        except (Exception, CheckpointException) as error:
            shutil.rmtree(aside, ignore_errors=True)
            kept = [f"{path.name} is intact" for path in checkpoints(self._folder)[:1]] or ["there is no earlier one"]
            raise TrainingError(
                f"{final}: the checkpoint could not be written ({_reason(error)}), "
                f"{shutil.disk_usage(self._folder).free / 1e9:.1f} GB are free; "
                f"{kept[0]}; make room and start again with resume=true"
            ) from None

    def _publish(self, final: Path, facts: dict[str, Any], seals: dict[str, Any]) -> None:
        aside = final.with_name(final.name + ".tmp")
        if unseen := sorted(name for name in seals if not (aside / name).exists()):
            raise CheckpointError(
                f"rank 0 does not see {unseen[0]} of another rank; the run folder must be one that all machines share"
            )
        _write_json(aside / "progress.json", facts)
        _write_json(aside / "manifest.json", {**seals, "progress.json": _seal(aside / "progress.json")})
        _sync(aside)
        os.rename(aside, final)
        _sync(self._folder)
        # Those after this one are damaged (we would have resumed from them): they must not push a good one out.
        ours = checkpoints(self._folder)
        for old in ours[ours.index(final) + self._keep :]:
            shutil.rmtree(old)


def checkpoints(folder: Path) -> list[Path]:
    """Returns the published checkpoints in a folder, newest first."""
    found = [p for p in folder.glob("step_*") if p.name[5:].isdigit()]
    return sorted(found, key=lambda p: int(p.name[5:]), reverse=True)


def newest_good(folder: Path, *, ranks: Ranks) -> Path | None:
    """Returns the newest checkpoint without fault, None if none was ever published; each rank reads its share.

    Raises: CheckpointError if there are some and all are damaged.
    """
    names: list[str] = on_rank_zero(lambda: [path.name for path in checkpoints(folder)], ranks=ranks, group=ranks.talk)
    for name in names:
        share = slice(ranks.rank, None, ranks.world_size)
        faults = on_each_rank(partial(fault_of, folder / name, share=share), group=ranks.talk)
        fault = next((fault for fault in faults if fault), None)
        if fault is None:
            return folder / name
        if ranks.rank == 0:
            say(f"warning: checkpoint {folder / name} is damaged ({fault}); trying the one before")
    if names:
        raise CheckpointError(f"{folder}: all {len(names)} checkpoints are damaged; start again in another run folder")
    return None


def fault_of(checkpoint: Path, *, share: slice = slice(None)) -> str | None:
    """Returns what is wrong with a `share` of a checkpoint's files (missing, cut or changed), None if nothing is."""
    try:
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        for name, seal in sorted(manifest.items())[share]:
            if _seal(checkpoint / name) != seal:
                return f"{name} is not what was written"
        return None if "progress.json" in manifest else "progress.json is missing"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, AttributeError):
        return "manifest.json cannot be read"


def _compare(folder: Path, there: dict[str, list[int]], here: dict[str, list[int]]) -> None:
    differing = sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
    if differing:
        name = differing[0]
        raise CheckpointError(
            f"{folder}: it holds other trained parameters than this run, {len(differing)} tensors differ; the first is "
            f"{name}: {there.get(name, 'none')} in the checkpoint, {here.get(name, 'none')} here; "
            "use the configuration of the run folder or start in another one"
        )


def _seal(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _write_json(path: Path, value: Any) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Makes names in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _reason(error: BaseException) -> str:
    """The system's own words where DCP has wrapped them in tracebacks."""
    failures = getattr(error, "failures", None) or {}
    causes = [failure[0] for failure in failures.values()] or [error]
    cause = causes[0]
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(cause) if isinstance(cause, SonantError) else f"{type(cause).__name__}: {cause}"

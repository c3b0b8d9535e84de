"""The loop. It knows no speech: it sees micro-batches and a loss that is a sum over supervised tokens.

    source.steps(epoch, step) -> StepBatches ── this rank's micro-batches of one optimiser step
      weight of all micro-batches of all ranks          one small message, before any backward pass
      loss(model, batch).total x W / weight, backward   gradients travel with the last micro-batch only
      clip, guard, AdamW
      log, average, validate, save, stop?

One step has one loss, however it is cut into micro-batches and ranks: global sum / global number of tokens. The random
numbers of a micro-batch are f(seed, step, its place in the step), so a resumed run needs none saved, and dropout is the
same for any number of ranks.
"""

import contextlib
import math
import random
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeAlias

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from sonant.batch import Batch, StepBatches
from sonant.config import Config
from sonant.errors import TrainingError
from sonant.models.matmul import Matmul, fast_matmul
from sonant.train import distributed, log, optim
from sonant.train.average import WeightAverage
from sonant.train.distributed import Parallel, Ranks
from sonant.train.heap import keep_freed_memory
from sonant.train.log import RunLog
from sonant.train.recompute import ActivationCheckpointing, recompute_layers
from sonant.train.resume import Checkpointer, Progress
from sonant.train.stop import StopWish

Beta: TypeAlias = Annotated[float, Field(ge=0, lt=1)]


class TrainConfig(Config):
    """How to train. Learning rates stand in the freeze plan, micro-batches per step in the data plan."""

    steps: int = Field(1000, ge=1)
    schedule: optim.Schedule = "cosine"
    warmup_steps: int = Field(0, ge=0)
    final_lr_ratio: float = Field(0.0, ge=0, le=1)  # learning rate after the last step / full learning rate
    average_last: float = Field(0.0, ge=0, le=1)  # share of steps, at the end, whose mean weights are kept
    betas: tuple[Beta, Beta] = (0.9, 0.98)
    weight_decay: float = Field(0.0, ge=0)  # of groups that do not say
    clip_norm: float | None = Field(1.0, gt=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    matmul: Matmul = "auto"  # which kernels multiply fp32: the fast ones where they are as exact (models/matmul.py)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    parallel: Parallel = "auto"
    activation_checkpointing: ActivationCheckpointing = "none"  # layers: less memory, a third more operations
    seed: int = Field(0, ge=0)
    validate_every: int = Field(0, ge=0)  # steps; 0: never
    metric: str | None = None  # the score of the validation that chooses `best`
    metric_mode: Literal["min", "max"] = "min"
    save_every: int = Field(500, ge=1)  # steps; the last one is always saved
    keep: int = Field(2, ge=1)  # checkpoints
    log_every: int = Field(10, ge=1)  # steps, for progress on anything but a terminal
    log_rows: bool = False  # ids of all rows seen, in rows.jsonl
    max_bad_steps: int = Field(10, ge=0)  # steps in a row whose loss or gradient is not finite
    max_hours: float | None = Field(None, gt=0)
    resume: bool = False  # go on with the run in run_dir, if there is one


class BatchSource(Protocol):
    """Endless steps of micro-batches, the same whenever they start at the same (epoch, step)."""

    @property
    def micro_batches(self) -> int: ...
    def steps(self, epoch: int, step: int, *, rank: int, world_size: int) -> Iterator[StepBatches]: ...


class LossSums(Protocol):
    """What a loss returns: sums, never means."""

    @property
    def total(self) -> Tensor: ...  # () with gradient
    @property
    def parts(self) -> Mapping[str, tuple[Any, Any]]: ...  # task -> (sum, weight)


class Loss(Protocol):
    """A loss over a micro-batch; `weight` is what its sum is divided by, known before the model runs."""

    def weight(self, batch: Batch) -> float: ...
    def __call__(self, model: Any, batch: Batch) -> LossSums: ...


@dataclass(frozen=True)
class TrainResult:
    """How a run ended. `stopped` is None at the last step, else "SIGTERM", "SIGINT", "SIGUSR1" or "max_hours"."""

    step: int
    epoch: int
    bad_steps: int
    stopped: str | None
    best: float | None
    best_step: int | None
    scores: dict[str, float] = field(default_factory=dict)  # of the last validation of this process


def train(
    model: nn.Module,
    source: BatchSource,
    *,
    loss: Loss,
    config: TrainConfig,
    groups: Sequence[Mapping[str, Any]],
    run_dir: Path,
    validate: Callable[[int], Mapping[str, float]] | None = None,
    save_model: Callable[[Path], None] | None = None,
) -> TrainResult:
    """Trains `model` in place and returns how it ended; everything is written under `run_dir`.

    groups: of FreezePlan.apply: [{"name", "params", "lr", "weight_decay"}].
    validate: step -> scores; runs on rank 0 with the whole model in eval mode and without gradients.
    save_model: writes a folder; called for run_dir/best when `config.metric` improves and for run_dir/last at the end.

    Start it in each process of torchrun for many GPUs; it joins the others by itself.

    Raises: TrainingError if run_dir holds a run and config.resume is not set, the processes cannot share a step, too
    many steps in a row are not finite, a score is missing or a checkpoint cannot be written; CheckpointError if no
    checkpoint there can be used.
    """
    with (
        distributed.joined(config.device) as ranks,
        fast_matmul(config.matmul, device=ranks.device) as matmul,
        StopWish(config.max_hours) as wish,
        _quiet(),
    ):
        if ranks.device.type == "cpu":
            keep_freed_memory()
        distributed.check_world_size(ranks.world_size, micro_batches=source.micro_batches)
        distributed.on_rank_zero(lambda: _claim(run_dir, config), ranks=ranks, group=ranks.talk)
        named = optim.name_groups(model, groups, weight_decay=config.weight_decay)
        if config.activation_checkpointing == "layers":
            recompute_layers(model)
        unit = distributed.parallelize(_Unit(model, loss), layers_of=model, how=config.parallel, ranks=ranks)
        optimizer = optim.make_optimizer(model, named, betas=config.betas)
        average = WeightAverage(optimizer, share=config.average_last, steps=config.steps)
        saver = Checkpointer(run_dir / "checkpoints", model=model, optimizer=optimizer, ranks=ranks, keep=config.keep)
        at = saver.load_newest() or Progress()
        book = RunLog(run_dir, steps=config.steps, done=at.step, log_every=config.log_every, rank=ranks.rank)
        stepper = _Stepper(unit, loss=loss, optimizer=optimizer, config=config, ranks=ranks)
        judge = _Judge(
            unit, average, config=config, ranks=ranks, run_dir=run_dir, validate=validate, save_model=save_model
        )
        steps = source.steps(at.epoch, at.epoch_step, rank=ranks.rank, world_size=ranks.world_size)
        stopped: str | None = None
        chosen: dict[str, Any] = {"matmul": matmul}  # said in the first line that this process logs
        model.train()
        try:
            while at.step < config.steps and stopped is None:
                started = time.perf_counter()
                item = next(steps)
                waited_s = time.perf_counter() - started
                record, rows, news = stepper.step(
                    item, at, waited_s=waited_s, news=lambda: _News(wish.reason, saver.failed)
                )
                average.count(at)
                book.step(record | chosen, rows=rows if config.log_rows else None)
                chosen = {}
                if stepper.hopeless(at):
                    raise TrainingError(_why_hopeless(at, record))
                if config.validate_every and at.step % config.validate_every == 0:
                    judge.validate(at, book)
                stopped = news.stop
                if stopped or news.broken or at.step % config.save_every == 0 or at.step == config.steps:
                    saver.save(at)
            saver.wait()
            if stopped is None:
                judge.save(run_dir / "last", at)
        finally:
            book.close()
            saver.close()
            getattr(steps, "close", lambda: None)()
    return TrainResult(at.step, at.epoch, at.bad_steps, stopped, at.best, at.best_step, judge.scores)


@dataclass(frozen=True)
class _News:
    """What may end a run between two steps, on this rank or on any."""

    stop: str | None
    broken: bool  # a checkpoint could not be written


class _Unit(nn.Module):
    """Model and loss as one forward pass, so that DDP and FSDP2 see all that happens before backward."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, tuple[Any, Any]]]:
        out = self.loss(self.model, batch)
        return out.total, {task: (_detached(total), weight) for task, (total, weight) in out.parts.items()}


class _Stepper:
    """One optimiser step: forward, backward, guard, update."""

    def __init__(
        self, unit: nn.Module, *, loss: Loss, optimizer: torch.optim.Optimizer, config: TrainConfig, ranks: Ranks
    ) -> None:
        self._unit, self._loss, self._optimizer, self._config, self._ranks = unit, loss, optimizer, config, ranks
        self._buffers = distributed.running_buffers(unit)

    def step(
        self, item: StepBatches, at: Progress, *, waited_s: float, news: Callable[[], "_News"]
    ) -> tuple[dict[str, Any], list[str], "_News"]:
        """Returns log line, row ids and news of all ranks, after moving model and `at` on by one step."""
        started, config = time.perf_counter(), self._config
        weights = [self._loss.weight(batch) for batch in item.batches]
        total_weight = sum(distributed.gather_json(math.fsum(weights), group=self._ranks.talk))
        before = [buffer.clone() for buffer in self._buffers.values()]
        sums = self._backward(item.batches, at.step, total_weight) if total_weight > 0 else []
        mine = log.measure(item.batches, sums) | asdict(news()) | {"data_s": waited_s}
        ours = distributed.gather_json(mine, group=self._ranks.talk)
        mean = math.fsum(rank["loss"] for rank in ours) / total_weight if total_weight > 0 else 0.0
        awake = optim.awake(self._optimizer, step=at.step)
        norm = optim.clip_gradients(awake, max_norm=config.clip_norm) if total_weight > 0 else 0.0
        factor = optim.schedule_factor(
            at.step,
            kind=config.schedule,
            steps=config.steps,
            warmup_steps=config.warmup_steps,
            final_ratio=config.final_lr_ratio,
        )
        rates = optim.set_learning_rates(self._optimizer, factor=factor, step=at.step, warmup_steps=config.warmup_steps)
        record: dict[str, Any] = {"step": at.step + 1, "epoch": item.epoch, "loss": mean}
        finite = math.isfinite(mean) and math.isfinite(norm)
        if finite and total_weight > 0:
            self._optimizer.step()
            distributed.average_buffers(self._buffers, ranks=self._ranks)
        else:
            for buffer, old in zip(self._buffers.values(), before, strict=True):
                buffer.copy_(old)
            record["skipped"] = "no supervised tokens" if finite else "loss or gradient not finite"
            record["rows"] = [name for rank in ours for name in rank["bad"]]
        self._optimizer.zero_grad(set_to_none=True)
        _advance(at, item, ours, finite=finite)
        record |= {"lr": rates, "grad_norm": norm, "bad_steps": at.bad_steps} | log.rates(
            ours, at.task_tokens, seconds=time.perf_counter() - started + waited_s
        )
        stop = next((rank["stop"] for rank in ours if rank["stop"]), None)
        return record, log.interleave([r["ids"] for r in ours]), _News(stop, any(r["broken"] for r in ours))

    def hopeless(self, at: Progress) -> bool:
        """Returns whether too many steps in a row could not be used."""
        return at.bad_in_a_row > self._config.max_bad_steps

    def _backward(self, batches: Sequence[Batch], step: int, total_weight: float) -> list[tuple[Tensor, Any]]:
        """Fills the gradients of the mean over `total_weight`; returns (sum, parts) of each micro-batch."""
        ranks, sums = self._ranks, []
        # DDP and FSDP2 average over the ranks; times their number makes it a sum (gloo cannot do without averaging).
        scale = ranks.world_size / total_weight
        for i, batch in enumerate(batches):
            _seed(self._config.seed, step, ranks.rank + i * ranks.world_size)
            with distributed.gradients_shared(self._unit, when=i == len(batches) - 1):
                with torch.autocast(ranks.device.type, torch.bfloat16, enabled=self._config.precision == "bf16"):
                    total, parts = self._unit(batch.to(ranks.device))
                (total * scale).backward()
            sums.append((total.detach(), parts))
        return sums


class _Judge:
    """Validates and writes model folders, on rank 0, with whole parameters, or their means."""

    def __init__(
        self,
        unit: nn.Module,
        average: WeightAverage,
        *,
        config: TrainConfig,
        ranks: Ranks,
        run_dir: Path,
        validate: Callable[[int], Mapping[str, float]] | None,
        save_model: Callable[[Path], None] | None,
    ) -> None:
        self._unit, self._average, self._config, self._ranks, self._run_dir = unit, average, config, ranks, run_dir
        self._validate, self._save_model = validate, save_model
        self.scores: dict[str, float] = {}

    def validate(self, at: Progress, book: RunLog) -> None:
        """Measures the model and keeps it as run_dir/best if it is the best so far."""
        scoring, metric = self._validate, self._config.metric
        if scoring is None:
            return
        started = time.perf_counter()
        self.scores = self._alone(at, lambda: {name: float(score) for name, score in scoring(at.step).items()})
        if metric is not None and metric not in self.scores:
            raise TrainingError(f"metric {metric!r} is not among the scores {sorted(self.scores)}; name one of them")
        if metric is not None and _better(self.scores[metric], at.best, mode=self._config.metric_mode):
            at.best, at.best_step = self.scores[metric], at.step
            self.save(self._run_dir / "best", at)
        text = "  ".join(f"{name} {score:.4g}" for name, score in self.scores.items())
        record = {"step": at.step, "scores": self.scores, "seconds": round(time.perf_counter() - started, 3)}
        book.note(record, f"step {at.step} validation: {text}{'  (best)' if at.best_step == at.step else ''}")

    def save(self, folder: Path, at: Progress) -> None:
        """Writes the model folder, if the recipe said how."""
        saving = self._save_model
        if saving is not None:
            self._alone(at, lambda: saving(folder))

    def _alone(self, at: Progress, act: Callable[[], Any]) -> Any:
        modes = [(module, module.training) for module in self._unit.modules()]
        self._unit.eval()
        try:
            with self._average.in_place(at), distributed.gathered(self._unit), torch.no_grad():
                return distributed.on_rank_zero(act, ranks=self._ranks, group=self._ranks.talk)
        finally:
            for module, training in modes:  # not train(): a recipe may hold parts in eval mode for good
                module.training = training


def _claim(run_dir: Path, config: TrainConfig) -> None:
    """Makes sure the folder is ours to write in."""
    run_dir.mkdir(parents=True, exist_ok=True)
    if not config.resume and ((run_dir / "log.jsonl").exists() or (run_dir / "checkpoints").exists()):
        raise TrainingError(f"{run_dir} already holds a run; go on with it by resume=true, or name another run folder")


def _seed(seed: int, step: int, micro_batch: int) -> None:
    """Starts all random numbers a model may draw anew (Hugging Face's masking draws from numpy)."""
    value = int(np.random.SeedSequence([seed, step, micro_batch]).generate_state(1)[0])
    torch.default_generator.manual_seed(value)  # torch.manual_seed writes down a stack for each absent device
    if torch.cuda.is_available():
        torch.cuda.manual_seed(value)
    np.random.seed(value)
    random.seed(value)


def _advance(at: Progress, item: StepBatches, ours: Sequence[Mapping[str, Any]], *, finite: bool) -> None:
    at.step, at.epoch, at.epoch_step = at.step + 1, item.epoch, item.step + 1
    at.bad_steps += not finite
    at.bad_in_a_row = 0 if finite else at.bad_in_a_row + 1
    for rank in ours:
        for task, weight in rank["targets"].items():
            at.task_tokens[task] = at.task_tokens.get(task, 0.0) + weight


def _why_hopeless(at: Progress, record: Mapping[str, Any]) -> str:
    rows = ", ".join(record["rows"][:5]) or "none alone: the loss is finite, its gradient is not"
    return (
        f"step {at.step} (epoch {at.epoch}, step {at.epoch_step} there): loss or gradient not finite for "
        f"{at.bad_in_a_row} steps in a row, {at.bad_steps} in all; rows with a loss that is not finite: {rows}; "
        "lower the learning rate, use precision=bf16 or fp32 as the parts were trained, and check these rows"
    )


def _better(score: float, best: float | None, *, mode: str) -> bool:
    if not math.isfinite(score):
        return False
    return best is None or (score < best if mode == "min" else score > best)


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within, torch does not tell a single process that it is alone. (Filters are global: not for other threads.)"""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is .*(disabled|unavailable)")
        yield

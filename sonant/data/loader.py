"""The endless stream of batches a run trains on, resumable at any (epoch, step).

plan.step(step, rank) ─▶ rows of a micro-batch ─▶ make_example(conversation, rng) per row ─▶ collate ─▶ Batch
                          └──────────── threads, some micro-batches ahead ───────────────────┘
"""

import itertools
import logging
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import torch
from pydantic import Field

from sonant.batch import Batch, Example, StepBatches, collate
from sonant.chat.messages import Conversation, assistant, user
from sonant.config import Config
from sonant.data.blend import Group, Rows, Source, SourceRows
from sonant.data.measure import RowSizes, measure
from sonant.data.plan import PlanConfig, check_world
from sonant.errors import ConfigError, SonantError, TrainingError

log = logging.getLogger(__name__)

MakeExample = Callable[[Conversation, np.random.Generator], Example]
MIN_ROWS_FOR_RATE = 100  # a rate of broken rows is never taken over fewer rows than this


class LoaderConfig(Config):
    """How batches are made ahead of time, and how many broken rows a run bears."""

    workers: int = Field(default=1, ge=0, description="threads that decode and render; 0 = in the loop itself")
    prefetch: int = Field(default=4, gt=0, description="micro-batches made ahead of the loop")
    max_broken_share: float = Field(
        default=0.01, ge=0, le=1, description="a run stops when more of its rows are broken"
    )


@dataclass(frozen=True)
class _Made:
    batch: Batch
    num_rows: int
    broken: list[tuple[str, str]]  # (file:line, reason)


class BatchStream:
    """Batches of blended manifests: the same for any number of workers, and for all ranks together.

    Args:
        sources: one source, or groups of them; weights are token shares.
        make_example: renders and loads one row. It must draw from the given generator only, which is a function of
            (seed, cycle, row), where cycle counts how often the row's source was seen in full before.
        sizes: how long rows are; every row is read once at the start.

    A row that cannot be made (SonantError) leaves its batch, is logged, counted and kept in `quarantine`; nothing takes
    its place. A micro-batch without a row left becomes one row of weight 0, so that ranks stay in step.

    Raises: ManifestError for a row longer than the token budget (rows are never cut) or one that is no conversation;
    ConfigError if the plan cannot be made.
    """

    def __init__(
        self,
        sources: Source | Group,
        make_example: MakeExample,
        *,
        sizes: RowSizes,
        plan: PlanConfig,
        loader: LoaderConfig | None = None,
    ) -> None:
        self._rows, self._make_example, self._config = SourceRows(sources), make_example, loader or LoaderConfig()
        self._seed = plan.seed
        self._measured = measure(self._rows, sizes, budget=plan.token_budget)
        self.plan = self._measured.plan(sources, plan)
        self.quarantine: dict[str, str] = {}
        self.num_broken = 0
        self.num_seen = 0

    @property
    def lengths(self) -> Rows:
        """(N,) tokens of each expanded row."""
        return self._measured.lengths

    @property
    def micro_batches(self) -> int:
        """G: micro-batches of one optimiser step, over all ranks."""
        return self.plan.config.micro_batches

    def shares(self, epoch: int = 0, *, by: str = "source") -> dict[str, float]:
        """Returns source (or task, where `by` is "task") -> realised share of tokens in an epoch."""
        if by not in ("source", "task"):
            raise ConfigError(f"shares by {by!r} do not exist; ask by 'source' or 'task'")
        measured = self._measured
        labels, names = measured.by_source if by == "source" else (measured.tasks, measured.task_names)
        shares = self.plan.epoch(epoch).shares(labels, measured.target_sizes)
        return {names[int(label)]: share for label, share in shares.items()}

    @property
    def padding_share(self) -> float:
        """Padding / padded size of the planned batches of epoch 0."""
        return self.plan.epoch(0).padding_share(self.lengths)

    def steps(self, epoch: int = 0, step: int = 0, *, rank: int = 0, world_size: int = 1) -> Iterator[StepBatches]:
        """Yields this rank's batches from (epoch, step) on, without end.

        Raises: TrainingError at once if `world_size` does not divide the micro-batches of a step or the step does not
        exist; later if the share of broken rows passes `max_broken_share`.
        """
        check_world(self.micro_batches, rank=rank, world_size=world_size)
        num_steps = self.plan.epoch(epoch).num_steps
        if not 0 <= step <= num_steps:
            raise TrainingError(
                f"epoch {epoch} has {num_steps} steps, so it cannot go on at step {step}; "
                "the data or the plan differ from those of the checkpoint"
            )
        return self._steps(epoch, step, rank, world_size)

    def _steps(self, epoch: int, step: int, rank: int, world_size: int) -> Iterator[StepBatches]:
        share = self.micro_batches // world_size
        with closing(self._made(self._jobs(epoch, step, rank, world_size))) as made:
            while True:
                if step == self.plan.epoch(epoch).num_steps:
                    epoch, step = epoch + 1, 0
                batches = [self._account(next(made)) for _ in range(share)]
                yield StepBatches(epoch=epoch, step=step, batches=batches)
                step += 1

    def _jobs(self, epoch: int, step: int, rank: int, world_size: int) -> Iterator[tuple[Rows, Rows]]:
        while True:
            plan = self.plan.epoch(epoch)
            for at in range(step, plan.num_steps):
                yield from plan.step(at, rank=rank, world_size=world_size)
            epoch, step = epoch + 1, 0

    def _made(self, jobs: Iterator[tuple[Rows, Rows]]) -> Generator[_Made, None, None]:
        """The micro-batches in the order of the jobs, made by threads some jobs ahead."""
        if self._config.workers == 0:
            yield from (self._make(*job) for job in jobs)
            return
        # A thread that starts a team of threads of its own has OpenMP wake them all from sleep from then on, also those
        # of the model: a training step of small products takes half as long again. (This thread names its number first,
        # since one that never did gets the last that any thread has named.)
        torch.set_num_threads(torch.get_num_threads())
        pool = ThreadPoolExecutor(self._config.workers, "sonant-data", torch.set_num_threads, (1,))
        try:
            ahead = deque(pool.submit(self._make, *job) for job in itertools.islice(jobs, self._config.prefetch))
            while True:
                made = ahead.popleft().result()
                ahead.append(pool.submit(self._make, *next(jobs)))
                yield made
        finally:
            pool.shutdown(cancel_futures=True)

    def _make(self, rows: Rows, cycles: Rows) -> _Made:
        examples, broken = [], []
        for row, cycle in zip(rows.tolist(), cycles.tolist(), strict=True):
            try:
                rng = np.random.default_rng([self._seed, cycle, row])
                examples.append(self._make_example(self._rows[row], rng))
            except SonantError as error:
                broken.append((self._rows.place(row), str(error)))
        if not examples:
            examples.append(self._weightless())
        batch = collate(examples)
        # A process that trains on a GPU has one in use by now; one that could and does not is left alone.
        return _Made(batch.pinned() if torch.cuda.is_initialized() else batch, len(rows), broken)

    def _weightless(self) -> Example:
        """A row that trains nothing, where a micro-batch has no row (left)."""
        row = self._make_example(Conversation((user("."), assistant("."))), np.random.default_rng(0))
        return replace(row, loss_mask=np.zeros_like(row.loss_mask))

    def _account(self, made: _Made) -> Batch:
        self.num_seen += made.num_rows
        self.num_broken += len(made.broken)
        for place, reason in made.broken:
            if place not in self.quarantine:
                log.warning("row left out: %s: %s", place, reason)
            self.quarantine[place] = reason
        allowed = self._config.max_broken_share
        if self.num_broken > allowed * max(self.num_seen, MIN_ROWS_FOR_RATE):
            raise TrainingError(
                f"{self.num_broken} of the {self.num_seen} rows seen are broken (max_broken_share={allowed:g}); "
                f"the last: {made.broken[-1][0]}: {made.broken[-1][1]}; run 'sonant data check --fix' on the manifests"
            )
        return made.batch

"""In which order and in which batches rows are seen: a plan that is a function of (seed, epoch) alone.

    rows of the epoch   blended, in random order                                       (sonant.data.blend)
    windows             | 7 2 9 4 | 3 8 1 6 |       -> | 9 7 4 2 | 8 6 3 1 |           sorted by length inside each
    micro-batches       |9 7|4 2| |8 6|3 1|            rows · longest row <= token_budget, rows <= max_rows
    shuffled, grouped   |3 1|9 7| |4 2|8 6|            G micro-batches are one optimiser step
    levelled            |3 1|9 7| |8 6|4 2|            the heaviest to the place that had least so far
    ranks (W divides G)  r=0 r=1   r=0 r=1             rank r takes places r, r + W, r + 2W, ...

The state of training is therefore (epoch, step), whatever the number of workers and ranks.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationInfo, field_validator

from sonant.config import Config
from sonant.data.blend import Blend, Rows
from sonant.errors import ConfigError, TrainingError

MIN_MODALITY_STEPS = 20  # an epoch of mixing "modality" has as many steps of either kind, so that rounding cannot bias


class PlanConfig(Config):
    """How rows become batches. All sizes are in tokens of the expanded row (text and audio frames)."""

    seed: int = Field(default=0, ge=0)
    token_budget: int = Field(default=4096, gt=0, description="padded size of a micro-batch: rows x longest row")
    max_rows: int | None = Field(default=None, gt=0, description="most rows of a micro-batch")
    share_among: int = Field(
        default=1, gt=0, description="ranks that share a step: micro_batches is rounded up to a multiple of it"
    )
    micro_batches: int = Field(
        default=1, gt=0, validate_default=True, description="micro-batches of one optimiser step over all ranks (G)"
    )
    window: int = Field(
        default=4096, gt=0, description="rows that are sorted by length together: larger pads less, mixes less"
    )
    mixing: Literal["rows", "modality"] = "rows"
    audio_share: float = Field(default=0.85, gt=0, lt=1, description="share of audio steps where mixing is 'modality'")
    max_text_rows: int | None = Field(
        default=None, gt=0, description="as max_rows, for text steps where mixing is 'modality'"
    )

    @field_validator("micro_batches")
    @classmethod
    def _round_up(cls, micro_batches: int, values: ValidationInfo) -> int:
        ranks = int(values.data.get("share_among", 1))
        return -(-micro_batches // ranks) * ranks


@dataclass(frozen=True)
class EpochPlan:
    """The micro-batches of one epoch: batch i holds `rows[starts[i]:starts[i + 1]]`."""

    rows: Rows  # (R,) row indices
    cycles: Rows  # (R,) how often the row's source was seen in full before
    starts: Rows  # (batches + 1,)
    order: Rows  # (batches,) the order in which batches are seen; G in a row are one step
    micro_batches: int

    @property
    def num_steps(self) -> int:
        """Optimiser steps of the epoch."""
        return len(self.order) // self.micro_batches

    def step(self, step: int, *, rank: int = 0, world_size: int = 1) -> list[tuple[Rows, Rows]]:
        """Returns (rows, cycles) of each micro-batch that `rank` takes in a step.

        Raises: TrainingError if the world size does not divide the number of micro-batches.
        """
        check_world(self.micro_batches, rank=rank, world_size=world_size)
        first, end = step * self.micro_batches + rank, (step + 1) * self.micro_batches
        spans = [slice(self.starts[i], self.starts[i + 1]) for i in self.order[first:end:world_size]]
        return [(self.rows[span], self.cycles[span]) for span in spans]

    def shares(self, labels: NDArray[np.str_] | Rows, sizes: Rows) -> dict[str, float]:
        """Returns label -> share of `sizes` in this epoch; `labels` and `sizes` have one value a row index."""
        names, inverse = np.unique(labels[self.rows], return_inverse=True)
        weights = np.bincount(inverse, weights=sizes[self.rows].astype(np.float64), minlength=len(names))
        return {str(name): float(weight / max(weights.sum(), 1)) for name, weight in zip(names, weights, strict=True)}

    def padding_share(self, lengths: Rows) -> float:
        """Returns padding / padded size over all batches; 0 = none. `lengths` has one value a row index."""
        return padding_share([lengths[self.rows[a:b]] for a, b in zip(self.starts[:-1], self.starts[1:], strict=True)])


def padding_share(batches: Sequence[Rows]) -> float:
    """Returns the share of all positions that is padding, for batches given by the lengths of their rows."""
    padded = sum(len(lengths) * int(lengths.max(initial=0)) for lengths in batches)
    return 1.0 - sum(int(lengths.sum()) for lengths in batches) / padded if padded else 0.0


def check_world(micro_batches: int, *, rank: int, world_size: int) -> None:
    """Raises TrainingError unless `world_size` divides the micro-batches of a step and `rank` is one of its ranks."""
    if world_size < 1 or micro_batches % world_size:
        divisors = [w for w in range(1, micro_batches + 1) if micro_batches % w == 0]
        raise TrainingError(
            f"{world_size} ranks cannot share {micro_batches} micro-batches a step evenly; "
            f"start {' or '.join(map(str, divisors))} ranks, or set micro_batches to a multiple of {world_size}"
        )
    if not 0 <= rank < world_size:
        raise TrainingError(f"rank {rank} does not exist among {world_size} ranks; ranks count from 0")


class Plan:
    """The order of all epochs.

    Args:
        members: the rows of each source, as indices into `lengths`.
        lengths: (N,) tokens of each expanded row: what batches are filled by.
        shares: share of each source, measured in `sizes`.
        sizes: (N,) what shares are measured in (supervised tokens, say); `lengths` by default.
        has_audio: (N,) bool; needed where mixing is "modality".
        loads: (N,) what the ranks shall have equally much of over an epoch (audio, say); `lengths` by default.

    In mixing "modality" (VoiceTextBlender) every step holds rows with audio only or without audio only, and
    `audio_share` of the steps have audio. Differs from the published sampler, which draws each step alone: here an
    epoch holds the audio rows of a blend epoch (or of several, so that there are `MIN_MODALITY_STEPS` of either kind)
    and as many text steps as the share asks for, in random order: no row is lost, and all ranks agree. Sources keep
    their shares relative to each other inside each modality.

    The last step of an epoch is filled up by halving batches, and by empty ones if every batch is down to a row.

    Raises: ConfigError if a row is longer than the budget, there is no row, or mixing is "modality" and one modality is
    missing.
    """

    def __init__(
        self,
        members: Sequence[Rows],
        lengths: Rows,
        *,
        shares: Sequence[float],
        config: PlanConfig,
        sizes: Rows | None = None,
        has_audio: NDArray[np.bool_] | None = None,
        loads: Rows | None = None,
    ) -> None:
        self.config, self._lengths, self._loads = config, lengths, lengths if loads is None else loads
        self._cached = functools.lru_cache(maxsize=2)(self._plan)
        self._members, self._shares, self._sizes = members, shares, lengths if sizes is None else sizes
        if not any(len(rows) for rows in members):
            raise ConfigError("the sources hold no rows; name a manifest with at least one")
        longest = int(lengths.max(initial=0))
        if longest > config.token_budget:
            raise ConfigError(
                f"row {int(lengths.argmax())} has {longest} tokens, more than token_budget={config.token_budget}; "
                "raise the budget or drop the row (rows are never cut)"
            )
        if config.mixing == "rows":
            self._pools = [(self._blend(members, 1.0), config.max_rows)]
        else:
            self._pools = self._modalities(has_audio)

    def epoch(self, epoch: int) -> EpochPlan:
        """Returns the plan of one epoch: the same for the same arguments, whatever was asked before."""
        return self._cached(epoch)

    def _plan(self, epoch: int) -> EpochPlan:
        groups = self.config.micro_batches
        pools = [self._batches(pool, epoch, index) for index, pool in enumerate(self._pools)]
        first_batches = np.cumsum([0] + [len(pool.order) for pool in pools])
        steps = [
            (pool.order + first).reshape(-1, groups) for pool, first in zip(pools, first_batches[:-1], strict=True)
        ]
        order = np.random.default_rng([self.config.seed, 3, epoch]).permutation(np.concatenate(steps))
        first_rows = np.cumsum([0] + [len(pool.rows) for pool in pools])
        starts = np.concatenate(
            [*(pool.starts[:-1] + first for pool, first in zip(pools, first_rows[:-1], strict=True)), first_rows[-1:]]
        )
        rows = np.concatenate([pool.rows for pool in pools])
        if groups > 1:
            _level(order, _sums(self._loads[rows], starts))
        return EpochPlan(
            rows=rows,
            cycles=np.concatenate([pool.cycles for pool in pools]),
            starts=starts,
            order=order.reshape(-1),
            micro_batches=groups,
        )

    def _blend(self, members: Sequence[Rows], scale: float) -> Blend:
        return Blend(members, self._sizes, shares=self._shares, seed=self.config.seed, scale=scale)

    def _modalities(self, has_audio: NDArray[np.bool_] | None) -> list[tuple[Blend, int | None]]:
        assert has_audio is not None, "mixing 'modality' needs has_audio"
        config = self.config
        limits = [config.max_rows, config.max_text_rows or config.max_rows]
        split = [[rows[has_audio[rows] == wanted] for rows in self._members] for wanted in (True, False)]
        for name, members in zip(("with audio", "without audio"), split, strict=True):
            if not any(len(rows) for rows in members):
                raise ConfigError(f"mixing='modality' found no rows {name}; add such a source or set mixing='rows'")
        text_per_audio = (1 - config.audio_share) / config.audio_share
        least = MIN_MODALITY_STEPS / min(1.0, text_per_audio)
        audio, steps = self._scaled(split[0], limits[0], index=0, at_least=least)
        text, _ = self._scaled(split[1], limits[1], index=1, about=steps * text_per_audio)
        return [(audio, limits[0]), (text, limits[1])]

    def _scaled(
        self, members: Sequence[Rows], max_rows: int | None, *, index: int, at_least: float = 0.0, about: float = 0.0
    ) -> tuple[Blend, int]:
        """A blend whose epoch has so many steps, and how many: whole epochs (`at_least`) or a part of one (`about`).

        How many steps some rows fill is known only by filling them, so the scale is tried and corrected.
        """
        scale = 1.0
        for _ in range(12):
            blend = self._blend(members, scale)
            steps = self._batches((blend, max_rows), 0, index).num_steps
            if (steps >= at_least) if at_least else (abs(steps - about) <= max(0.5, 0.002 * about)):
                break
            scale *= (at_least or about) / steps
            scale = math.ceil(scale) if at_least else scale
        return blend, steps

    def _batches(self, pool: tuple[Blend, int | None], epoch: int, index: int) -> EpochPlan:
        """One pool's shuffled batches of an epoch, their number a multiple of G."""
        config, (blend, max_rows) = self.config, pool
        rows, cycles = blend.epoch(epoch)
        lengths = self._lengths[rows]
        order = _longest_first(lengths, config.window).astype(rows.dtype)
        starts = _fill(lengths[order], config, max_rows)
        starts = _split(starts, -(len(starts) - 1) % config.micro_batches)
        shuffled = np.random.default_rng([config.seed, 2, index, epoch]).permutation(len(starts) - 1)
        return EpochPlan(rows[order], cycles[order], starts, shuffled, config.micro_batches)


def _longest_first(lengths: Rows, window: int) -> Rows:
    """Returns the order that sorts each window; rows of one length keep their (random) order."""
    small = lengths.astype(np.int16) if int(lengths.max(initial=0)) < 1 << 15 else lengths  # radix sort: 5x as fast
    orders = [np.argsort(-small[at : at + window], kind="stable") + at for at in range(0, len(lengths), window)]
    return np.concatenate([np.zeros(0, np.int64), *orders])


def _fill(lengths: Rows, config: PlanConfig, max_rows: int | None) -> Rows:
    """Returns where batches start (and the end) in rows sorted longest first inside each window."""
    fits = np.minimum(config.token_budget // np.maximum(lengths, 1), max_rows or len(lengths))
    starts, at, window_end = [], 0, config.window
    while at < len(fits):
        starts.append(at)
        at = min(at + int(fits[at]), window_end, len(fits))
        window_end += config.window if at == window_end else 0
    return np.array([*starts, len(fits)], np.int64)


def _sums(values: Rows, starts: Rows) -> Rows:
    """Returns the sum of each batch, which may be empty."""
    ends = np.cumsum(values)
    return np.diff(np.where(starts > 0, ends[starts - 1], 0))


def _split(starts: Rows, extra: int) -> Rows:
    """Returns `starts` with `extra` more batches, by halving those of most rows: no row is dropped or repeated."""
    for _ in range(extra):
        sizes = np.diff(starts)
        largest = int(sizes.argmax())
        starts = np.insert(starts, largest + 1, starts[largest] + int(sizes[largest]) // 2)
    return starts


def _level(steps: Rows, loads: Rows) -> None:
    """Deals the batches of each of `steps` (steps, G) anew to its G places, which then carry about equal `loads`.

    Over an epoch, that is: the heaviest batch of a step goes to the place that has least of the other steps. Ranks own
    places, so they are level too, and neither what a step holds nor how many ranks there are changes anything.
    """
    carried, dealt = np.zeros(steps.shape[1], np.int64), np.zeros(steps.shape, np.int64)
    for _ in range(2):  # the first round knows the steps before, the second one all others
        for batches, own in zip(steps, dealt, strict=True):
            carried -= own
            heaviest_first = batches[np.argsort(-loads[batches], kind="stable")]
            batches[np.argsort(carried, kind="stable")] = heaviest_first
            own[:] = loads[batches]
            carried += own

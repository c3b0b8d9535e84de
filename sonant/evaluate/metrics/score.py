"""A score with its interval: bootstrap over items, so that a difference can be told from luck."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sonant.chat.messages import Conversation
from sonant.errors import EvaluationError

RESAMPLES = 1000
INTERVAL = (2.5, 97.5)  # percentiles: a 95 % interval
BLOCK = 1 << 22

Reference: TypeAlias = str | Sequence[str]  # the right answer, or several of which any will do
Counts: TypeAlias = NDArray[np.float64]  # (N, 2): count and size of each item
Groups: TypeAlias = NDArray[np.intp]  # (N,) numbers from 0: items of one are drawn together


@dataclass(frozen=True)
class Score:
    """A value in percent points or metric points, its 95 % bootstrap interval, and the number of items behind it."""

    value: float
    low: float
    high: float
    n: int
    signature: str = ""

    def __str__(self) -> str:
        return f"{self.value:.1f} [{self.low:.1f}, {self.high:.1f}]"

    def to_json(self) -> dict[str, Any]:
        """Returns the score as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Estimate:
    """A value with what it would be on other draws of the items.

    The draws depend on the number of items, or of their groups, alone. So estimates on the same items are paired: their
    difference and their mean keep what they share, as a paired bootstrap does.
    """

    value: float
    resampled: NDArray[np.float64] = field(repr=False)  # (RESAMPLES,)
    n: int
    signature: str = ""

    def __sub__(self, other: "Estimate") -> "Estimate":
        return Estimate(self.value - other.value, self.resampled - other.resampled, self.n, self.signature)

    @property
    def score(self) -> Score:
        """The value with its 95 % interval."""
        low, high = np.percentile(self.resampled, INTERVAL)
        return Score(float(self.value), float(low), float(high), n=self.n, signature=self.signature)


def mean(estimates: Sequence[Estimate]) -> Estimate:
    """Returns the mean of estimates on the same items."""
    first = estimates[0]
    value = float(np.mean([e.value for e in estimates]))
    return Estimate(value, np.mean([e.resampled for e in estimates], axis=0), first.n, first.signature)


class Metric(Protocol):
    """Compares hypotheses with references."""

    @property
    def name(self) -> str: ...

    @property
    def higher_is_better(self) -> bool: ...

    def estimate(
        self, hypotheses: Sequence[str], references: Sequence[Reference], groups: Groups | None = None
    ) -> Estimate:
        """Returns the corpus value with its resamples. Raises: EvaluationError on unequal or no items."""
        ...

    def score(self, hypotheses: Sequence[str], references: Sequence[Reference]) -> Score:
        """Returns the corpus score with its interval. Raises: EvaluationError on unequal or no items."""
        ...


@dataclass(frozen=True)
class RatioMetric:
    """100 x the sum of counts over the sum of sizes, e.g. word errors over reference words."""

    name: str
    higher_is_better: bool
    count: Callable[[str, str], tuple[float, float]]  # (hypothesis, reference) -> (count, size)

    def counts(self, hypotheses: Sequence[str], references: Sequence[Reference]) -> Counts:
        """Returns (N, 2): count and size of each item, against the right answer that suits it best."""
        check_pairs(hypotheses, references)
        pairs = zip(hypotheses, references, strict=True)
        return np.array([self._best([self.count(h, r) for r in several(rs)]) for h, rs in pairs], dtype=np.float64)

    def estimate(
        self, hypotheses: Sequence[str], references: Sequence[Reference], groups: Groups | None = None
    ) -> Estimate:
        """Returns the corpus ratio in percent with its resamples."""
        return ratio(self.counts(hypotheses, references), groups)

    def score(self, hypotheses: Sequence[str], references: Sequence[Reference]) -> Score:
        """Returns the corpus ratio in percent."""
        return self.estimate(hypotheses, references).score

    def difference(self, after: Sequence[str], before: Sequence[str], references: Sequence[Reference]) -> Score:
        """Returns after minus before in percent points, both resampled on the same items (paired bootstrap)."""
        return (self.estimate(after, references) - self.estimate(before, references)).score

    def _best(self, counts: Sequence[tuple[float, float]]) -> tuple[float, float]:
        choose = max if self.higher_is_better else min
        return choose(counts, key=lambda pair: pair[0] / max(pair[1], 1))


@dataclass(frozen=True)
class RowMetric:
    """100 x counts over sizes where what is right is more than a text: rows are seen whole, all of a set at once.

    Answers arrive as they were given; each metric says what it forgives.
    """

    name: str
    higher_is_better: bool
    count: Callable[[Sequence[str], Sequence[Conversation]], Sequence[tuple[float, float]]]  # (count, size) of each row

    def counts(self, answers: Sequence[str], rows: Sequence[Conversation]) -> Counts:
        """Returns (N, 2): count and size of each row. Raises: EvaluationError for a row that lacks what it takes."""
        check_pairs(answers, [row.reference for row in rows])
        return np.array(self.count(answers, rows), dtype=np.float64)


AnyMetric: TypeAlias = Metric | RowMetric


def several(reference: Reference) -> tuple[str, ...]:
    """Returns all right answers."""
    return (reference,) if isinstance(reference, str) else tuple(reference)


def ratio(counts: Counts, groups: Groups | None = None) -> Estimate:
    """Returns 100 x the sum of counts over the sum of sizes; counts: (N, 2)."""
    return _estimate(counts.sum(0), resampled_sums(counts, groups), num=num_drawn(len(counts), groups))


def ratios_by_group(counts: Counts, groups: NDArray[np.intp]) -> list[Estimate]:
    """Returns the ratio over each group of items; counts: (N, 2), groups: (N,) numbers from 0.

    All come from the same draws of all items, so that differences between groups are not taken for paired ones.
    """
    num = int(groups.max()) + 1
    member = groups[:, None] == np.arange(num)  # (N, G)
    sums = np.stack([resampled_sums(counts[:, side, None] * member) for side in (0, 1)], axis=2)  # (R, G, 2)
    return [_estimate(counts[groups == g].sum(0), sums[:, g], num=int(member[:, g].sum())) for g in range(num)]


def ratio_score(counts: Counts) -> Score:
    """Returns the ratio of (N, 2) counts and sizes in percent, with its interval."""
    return ratio(counts).score


def check_pairs(hypotheses: Sequence[str], references: Sequence[Reference]) -> None:
    """Raises EvaluationError unless there is one hypothesis a reference, and at least one."""
    if len(hypotheses) != len(references):
        raise EvaluationError(f"{len(hypotheses)} hypotheses for {len(references)} references; give one each")
    if not references:
        raise EvaluationError("nothing to score: no items; check the manifest and the task's name")


def num_drawn(num: int, groups: Groups | None) -> int:
    """Returns how many things a draw chooses among: the items, or their groups."""
    return num if groups is None else int(groups.max()) + 1


def resampled_weights(num: int, groups: Groups | None = None) -> Iterator[NDArray[np.float64]]:
    """Yields (R, num) blocks, RESAMPLES lines in all: how often each item is in a draw; always the same draws.

        groups  0 0 1 1 1      a draw of groups  1 1      weights  0 0 2 2 2

    Items that stand or fall together (of one speaker, in one order) say less than as many apart: with `groups` whole
    groups are drawn. Source: Bisani and Ney (ICASSP 2004), who choose segments, such as speakers, that are independent.
    """
    rng = np.random.default_rng(0)
    drawn = num_drawn(num, groups)
    step = max(1, BLOCK // num)  # a block of draws at a time: a million items must fit too
    for start in range(0, RESAMPLES, step):
        times = rng.multinomial(drawn, np.full(drawn, 1 / drawn), size=min(step, RESAMPLES - start))
        yield (times if groups is None else times[:, groups]).astype(np.float64)


def resampled_sums(values: NDArray[np.float64], groups: Groups | None = None) -> NDArray[np.float64]:
    """Returns (RESAMPLES, C) sums of (N, C) values over items drawn with replacement, the same draws for every N."""
    return np.concatenate([weights @ values for weights in resampled_weights(len(values), groups)])


def _estimate(total: NDArray[np.float64], drawn: NDArray[np.float64], *, num: int) -> Estimate:
    """total: (2,) count and size of all items; drawn: (R, 2) of each draw, which tells nothing where it has none."""
    value = float(_percent(total))
    return Estimate(value, np.where((drawn == 0).all(-1), value, _percent(drawn)), n=num)


def _percent(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    # References without a single word: the ratio is undefined; errors then count as if against one word.
    percent: NDArray[np.float64] = 100 * sums[..., 0] / np.maximum(sums[..., 1], 1)
    return percent

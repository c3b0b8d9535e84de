"""Re-voicing: a text benchmark with 0, 25, 50 and 100 % of its user's sentences spoken.

    share 0      Read the list. Add the numbers. What is the sum?
    share 50     Read the list. ♪Add the numbers.♪ What is the sum?
    share 100    ♪Read the list.♪ ♪Add the numbers.♪ ♪What is the sum?♪

Sentences that are spoken at one share are spoken at every higher one; the answer stays the same. The drop
of a score from share 0 is what hearing costs: everything else is equal, byte for byte.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sonant.chat.messages import Conversation
from sonant.data.manifest import Manifest, write_lines
from sonant.data.respan import is_optional, spoken_where
from sonant.data.shards import Job, row_rng
from sonant.data.sources.base import Dropped
from sonant.errors import ConfigError
from sonant.synth.mixed_modal import Best

SHARES = (0, 25, 50, 100)


@dataclass(frozen=True)
class Revoice:
    """Makes of every row one at each share, with the same id; rows nothing of which can be said are dropped from all.

    Raises: ConfigError for a share that is no percentage, or given twice.
    """

    best: Best
    shares: tuple[int, ...] = SHARES
    name: str = "revoice"

    def __post_init__(self) -> None:
        if not all(0 <= share <= 100 for share in self.shares) or len(set(self.shares)) < len(self.shares):
            raise ConfigError(f"shares are {self.shares}; give different percentages from 0 to 100")

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything that the rows depend on besides the source."""
        return {**self.best.settings, "shares": list(self.shares)}

    def build(self, jobs: Sequence[Job], *, clips: Path) -> Iterator[Conversation | Dropped]:
        """Yields a row for each share, or what was dropped, for each job."""
        for job, made in zip(jobs, self.best.build(jobs, clips=clips), strict=True):
            if isinstance(made, Dropped):
                yield made
            else:
                yield from self._at_shares(job, made)

    def _at_shares(self, job: Job, made: Conversation) -> Iterator[Conversation]:
        # As many as the share says on average over rows, and each row's first ones of one order.
        num = sum(map(is_optional, made.heard_parts))
        (rng,) = row_rng(self.best.config.seed, job.index).spawn(1)  # apart from the draws of the voice
        order, rounding = rng.permutation(num).tolist(), rng.random()
        task = job.row.task or "text"
        for share in self.shares:
            spoken = set(order[: int(share * num / 100 + rounding)])
            note = {"task": task, "share": share, "spoken": len(spoken), "sentences": num}
            row = spoken_where(made, [place in spoken for place in range(num)])
            yield replace(row, task=f"{task}_spoken_{share}", extra={**row.extra, "revoiced": note})


def write_shares(out: Path, name: str, shares: Sequence[int]) -> dict[Path, int]:
    """Returns manifest -> rows, after writing OUT/NAME-SHARE.jsonl for each share from OUT/rows.jsonl."""
    rows = Manifest(out / "rows.jsonl")

    def lines(share: int) -> Iterator[str]:
        for index, row in enumerate(rows):
            if row.extra["revoiced"]["share"] == share:
                yield rows.raw(index).decode().rstrip("\n")

    paths = [(out / f"{name}-{share}.jsonl", share) for share in shares]
    return {path: write_lines(path, lines(share)) for path, share in paths}

"""Which rows an epoch holds: sources blended by their share of tokens, each cycling through whole shuffles.

speech (weight 3, temperature 0.5)          share of a leaf = product of the shares on its way from the root
├── librispeech  900k tokens   √900k        share inside a group ∝ weight · tokens^temperature
└── fleurs       100k tokens   √100k        temperature 0: the weights are the token shares (the default)
text   (weight 1)                           temperature 1: as large as they are
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sonant.chat.messages import Conversation
from sonant.data.manifest import Manifest
from sonant.errors import ConfigError

Rows: TypeAlias = NDArray[np.signedinteger[Any]]  # int32 where that is enough: ten million rows fill memory
MOST_SMALL = np.iinfo(np.int32).max


@dataclass(frozen=True)
class Source:
    """One manifest in a blend. `task` names its rows in logs where a row names none."""

    name: str
    manifest: Manifest
    weight: float = 1.0
    task: str = ""

    def named(self, row: Conversation) -> Conversation:
        """Returns one of its rows with a task."""
        return row if row.task else replace(row, task=self.task or self.name)


@dataclass(frozen=True)
class Group:
    """Sources (or groups of sources) that share one weight; the members divide it by weight · tokens^temperature."""

    name: str
    members: Sequence["Source | Group"]
    weight: float = 1.0
    temperature: float = 0.0


def leaves(node: Source | Group) -> list[Source]:
    """Returns the sources below a node, left to right."""
    return [node] if isinstance(node, Source) else [leaf for member in node.members for leaf in leaves(member)]


class SourceRows(Sequence[Conversation]):
    """The rows of all sources of a blend, numbered through: source i holds rows [firsts[i], firsts[i + 1])."""

    def __init__(self, root: Source | Group) -> None:
        self.sources = leaves(root)
        self.firsts = np.cumsum([0, *(len(source.manifest) for source in self.sources)])

    @property
    def members(self) -> list[Rows]:
        """The numbers of each source's rows."""
        kind = np.int32 if len(self) < MOST_SMALL else np.int64
        return [np.arange(a, b, dtype=kind) for a, b in itertools.pairwise(self.firsts)]

    def __len__(self) -> int:
        return int(self.firsts[-1])

    def __getitem__(self, row: int) -> Conversation:  # type: ignore[override] # no slices: rows are read one by one
        source, index = self._find(row)
        return source.named(source.manifest[index])

    def place(self, row: int) -> str:
        """Returns where a row stands, as `file:line`."""
        source, index = self._find(row)
        return source.manifest.place(index)

    def _find(self, row: int) -> tuple[Source, int]:
        index = int(np.searchsorted(self.firsts, row, side="right")) - 1
        return self.sources[index], row - int(self.firsts[index])


def token_shares(root: Source | Group, num_tokens: Callable[[Source], float]) -> list[float]:
    """Returns the share of all tokens that each leaf of `root` shall have, in the order of `leaves`; they sum to 1.

    Args:
        num_tokens: the size of one leaf; a group is as large as its leaves together. A leaf of size 0 gets share 0.

    Raises: ConfigError for a group without members, two leaves of one name, or a weight that is not above 0.
    """
    names = [leaf.name for leaf in leaves(root)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"two sources are named {twice[0]!r}; names must be unique, because shares are logged by name"
        )
    return _divide(root, 1.0, num_tokens)


def _divide(node: Source | Group, share: float, num_tokens: Callable[[Source], float]) -> list[float]:
    if isinstance(node, Source):
        return [share]
    if not node.members:
        raise ConfigError(f"group {node.name!r} has no members; name at least one source or drop the group")
    parts = []
    for member in node.members:
        if not (0 < member.weight < float("inf")):
            raise ConfigError(
                f"{member.name!r} has weight {member.weight}; weights are above 0 (drop the source instead)"
            )
        size = sum(num_tokens(leaf) for leaf in leaves(member))
        parts.append(member.weight * size**node.temperature if size else 0.0)
    total = sum(parts) or 1.0
    pairs = zip(node.members, parts, strict=True)
    return [leaf for member, part in pairs for leaf in _divide(member, share * part / total, num_tokens)]


class Blend:
    """The endless streams of rows of some sources, cut into epochs.

        source a  | cycle 0: 2 0 1 | cycle 1: 0 2 1 | cycle 2: ...     every cycle is a shuffle of all rows
        epochs    |-- quota 4 -------|-- quota 4 -------|              an epoch takes the next `quota` rows

    An epoch of the blend holds as many tokens as all its sources together (times `scale`), divided by `shares`, to the
    nearest row and at least one row a source. A source whose share is its natural one is seen exactly once an epoch; a
    smaller one more often, a larger one over several epochs, and none ever loses a row, because a cycle goes on where
    the last epoch left it. An epoch starts at `epoch * quota`, so it needs none of the epochs before it.

    Args:
        members: the rows of each source, as indices into `sizes`.
        sizes: (N,) tokens of each row.
        shares: token share of each source; need not sum to 1.
        scale: how many times the tokens of all sources an epoch holds.
    """

    def __init__(
        self, members: Sequence[Rows], sizes: Rows, *, shares: Sequence[float], seed: int, scale: float = 1.0
    ) -> None:
        kept = [i for i, rows in enumerate(members) if len(rows) and shares[i] > 0]
        self.members = [members[i] for i in kept]
        self._ids, self._seed = kept, seed
        tokens = np.array([max(1, int(sizes[rows].sum())) for rows in self.members], np.float64)
        counts = np.array([len(rows) for rows in self.members], np.float64)
        parts = np.array([shares[i] for i in kept], np.float64)
        quotas = scale * tokens.sum() * (parts / parts.sum()) * counts / tokens if kept else counts
        self.quotas = [max(1, round(quota)) for quota in quotas]

    def epoch(self, epoch: int) -> tuple[Rows, Rows]:
        """Returns (rows, cycles) of an epoch in a random order in which every stretch holds every source evenly.

        A row's cycle is how often its source was seen in full before: row and cycle together never come twice.
        """
        if not self.members:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        parts = [self._stretch(index, epoch * quota, quota) for index, quota in enumerate(self.quotas)]
        if len(parts) == 1:
            return parts[0]
        rng = np.random.default_rng([self._seed, 1, epoch])
        keys = np.concatenate([(np.arange(quota) + rng.random(quota)) / quota for quota in self.quotas])
        order = np.argsort(keys, kind="stable")
        del keys
        rows, cycles = zip(*parts, strict=True)
        return np.concatenate(rows)[order], np.concatenate(cycles)[order]

    def _stretch(self, index: int, start: int, length: int) -> tuple[Rows, Rows]:
        rows, stop = self.members[index], start + length
        found, cycles = [], []
        for cycle in range(start // len(rows), (stop - 1) // len(rows) + 1):
            shuffled = np.random.default_rng([self._seed, 0, self._ids[index], cycle]).permutation(rows)
            first = cycle * len(rows)
            piece = shuffled[max(0, start - first) : stop - first]
            found.append(piece)
            cycles.append(np.full(len(piece), cycle, np.int32))
        return np.concatenate(found), np.concatenate(cycles)

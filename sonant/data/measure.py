"""How long rows are: what batches are filled by, and what the weights of a blend are measured in."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sonant.chat.messages import Conversation
from sonant.data.blend import Group, Rows, Source, SourceRows, token_shares
from sonant.data.manifest import clip_duration_s
from sonant.data.plan import Plan, PlanConfig
from sonant.data.respan import as_written
from sonant.errors import ChatError, ManifestError


@dataclass(frozen=True)
class RowSizes:
    """How long a row is. Everything is counted in tokens as the LLM sees them.

    `target_tokens` is what the weights of a blend are measured in; None: the length of the whole row. A row of more
    than `positions` does not fit the LLM; None: it has no limit. The sound of the answer counts `spoken_tokens`, where
    it takes positions of the LLM.
    """

    text_tokens: Callable[[Conversation], int]
    audio_tokens: Callable[[float], int]  # of one clip of so many seconds
    target_tokens: Callable[[Conversation], int] | None = None
    positions: int | None = None
    spoken_tokens: Callable[[float], int] | None = None  # of the spoken answer of so many seconds; None: it takes none

    def length(self, conversation: Conversation) -> int:
        """Returns the tokens of the expanded row, at most: an optional clip counts as text and as audio.

        A recording that cannot be opened counts 0: it is broken later.
        """
        sizes = [(self.audio_tokens, part) for part in conversation.heard_parts]
        if self.spoken_tokens is not None and (spoken := conversation.spoken) is not None:
            sizes.append((self.spoken_tokens, spoken))
        return self.text_tokens(as_written(conversation)) + sum(
            count(seconds) for count, part in sizes if (seconds := clip_duration_s(part)) is not None
        )


@dataclass(frozen=True, eq=False)
class Measured:
    """The sizes of all rows of a blend."""

    rows: SourceRows
    lengths: Rows  # (N,) tokens of the expanded row
    target_sizes: Rows  # (N,)
    has_audio: NDArray[np.bool_]  # (N,)
    tasks: Rows  # (N,) of `task_names`
    task_names: list[str]

    @property
    def by_source(self) -> tuple[Rows, list[str]]:
        """(N,) the source of each row, and the names of the sources."""
        counts = np.diff(self.rows.firsts)
        return np.repeat(np.arange(len(counts)), counts), [source.name for source in self.rows.sources]

    def plan(self, sources: Source | Group, config: PlanConfig) -> Plan:
        """Returns the order of the rows in all epochs. Raises: ConfigError as `Plan` and `token_shares`."""
        members = self.rows.members
        tokens = {
            source.name: float(self.target_sizes[rows].sum())
            for source, rows in zip(self.rows.sources, members, strict=True)
        }
        return Plan(
            members,
            self.lengths,
            shares=token_shares(sources, lambda leaf: tokens[leaf.name]),
            config=config,
            sizes=self.target_sizes,
            has_audio=self.has_audio,
        )


def measure(rows: SourceRows, sizes: RowSizes, *, budget: int) -> Measured:
    """Returns the sizes of all rows; each is read once.

    Raises: ManifestError for a row of more tokens than `budget`, or than the LLM has positions (rows are never cut), or
    one that is no conversation.
    """
    total = len(rows)
    lengths, targets, tasks = (np.zeros(total, np.int64) for _ in range(3))
    measured = Measured(rows, lengths, targets, np.zeros(total, np.bool_), tasks, [])
    names: dict[str, int] = {}
    for row in range(total):
        conversation = rows[row]
        try:
            length = sizes.length(conversation)
            measured.target_sizes[row] = sizes.target_tokens(conversation) if sizes.target_tokens else length
        except ChatError as error:
            raise ManifestError(f"{rows.place(row)}: {error}") from None
        measured.lengths[row] = length
        _refuse_long(rows, row, conversation.id, length, sizes, budget)
        measured.has_audio[row] = bool(conversation.heard_parts)
        measured.tasks[row] = names.setdefault(conversation.task, len(names))
    measured.task_names.extend(names)
    return measured


def _refuse_long(rows: SourceRows, row: int, id: str, length: int, sizes: RowSizes, budget: int) -> None:
    if length > budget:
        raise ManifestError(
            f"{rows.place(row)}: row {id!r} has {length} tokens, token_budget is {budget}; "
            "raise the budget, shorten the row or drop it (rows are never cut)"
        )
    if sizes.positions is not None and length > sizes.positions:
        raise ManifestError(
            f"{rows.place(row)}: row {id!r} has {length} tokens, the LLM holds "
            f"{sizes.positions}; shorten the row or drop it (rows are never cut)"
        )

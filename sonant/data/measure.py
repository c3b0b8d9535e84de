"""How long rows are: what batches are filled by, and what the weights of a blend are measured in.

manifest ─▶ pieces of 65,536 rows ─▶ counted: every text through the tokenizer     (minutes for ten million rows, once)
                               └──▶ or read from `.sonant_sizes/` beside the manifest, by a hash of the piece's bytes

What is kept are tokens of text and seconds of audio: an encoder or a budget may change without a text being counted
again. A clip without `duration_s` is measured by its file at every start, because that may have changed.
"""

import contextlib
import hashlib
import logging
import os
import uuid
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sonant.chat.messages import AudioPart, Conversation
from sonant.data.blend import Group, Rows, Source, SourceRows, token_shares
from sonant.data.manifest import Manifest, clip_duration_s, parse
from sonant.data.plan import Plan, PlanConfig
from sonant.data.respan import as_written
from sonant.errors import ChatError, ManifestError

log = logging.getLogger(__name__)

FOLDER = ".sonant_sizes"
PIECE_ROWS = 1 << 16
MIN_KEPT_ROWS = 20_000  # smaller manifests are counted in a second
_MOST = 1 << 30  # tokens of a row that are told apart: no budget is near
HASHED_TOGETHER = 2  # pieces, while another is put in its place


@dataclass(frozen=True)
class RowSizes:
    """How long a row is. Everything is counted in tokens as the LLM sees them.

    `target_tokens` is what the weights of a blend are measured in; None: the length of the whole row. A row of more
    than `positions` does not fit the LLM; None: it has no limit. The sound of the answer counts `spoken_tokens`, where
    it takes positions of the LLM. What the counts of text depend on is named by `key`, so that those of large manifests
    can be kept (see `measure`); "": they are counted anew at every start.
    """

    text_tokens: Callable[[Conversation], int]
    audio_tokens: Callable[[float], int]  # of one clip of so many seconds
    target_tokens: Callable[[Conversation], int] | None = None
    positions: int | None = None
    spoken_tokens: Callable[[float], int] | None = None  # of the spoken answer of so many seconds; None: it takes none
    key: str = ""

    def clips(self, row: Conversation) -> list[tuple[AudioPart, bool]]:
        """Returns the clips that take positions of the LLM, and whether they are spoken by it."""
        heard = [(part, False) for part in row.heard_parts]
        spoken = row.spoken if self.spoken_tokens is not None else None
        return heard if spoken is None else [*heard, (spoken, True)]

    def length(self, row: Conversation) -> int:
        """Returns the tokens of the expanded row, at most: an optional clip counts as text and as audio.

        A recording that cannot be opened counts 0: it is broken later.
        """
        counts = [self.clip_tokens(clip_duration_s(part), is_spoken=spoken) for part, spoken in self.clips(row)]
        return self.text_tokens(as_written(row)) + sum(counts)

    def clip_tokens(self, duration_s: float | None, *, is_spoken: bool) -> int:
        """Returns the positions that a clip takes; 0 if nobody knows how long it is."""
        count = self.spoken_tokens if is_spoken else self.audio_tokens
        return 0 if duration_s is None or count is None else count(duration_s)


@dataclass(frozen=True, eq=False)
class Measured:
    """The sizes of all rows of a blend."""

    rows: SourceRows
    lengths: NDArray[np.int32]  # (N,) tokens of the expanded row
    target_sizes: NDArray[np.int32]  # (N,)
    loads: NDArray[np.int32]  # (N,) those tokens that are audio
    has_audio: NDArray[np.bool_]  # (N,)
    tasks: NDArray[np.int32]  # (N,) of `task_names`
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
            loads=self.loads if self.loads.any() else None,
        )


def measure(rows: SourceRows, sizes: RowSizes, *, budget: int) -> Measured:
    """Returns the sizes of all rows; a row is read once, or never again if its sizes are kept.

    Raises: ManifestError for a row of more tokens than `budget`, or than the LLM has positions (rows are never cut), or
    one that is no conversation.
    """
    total, names = len(rows), dict[str, int]()
    lengths, targets, loads, tasks = (np.zeros(total, np.int32) for _ in range(4))
    measured = Measured(rows, lengths, targets, loads, np.zeros(total, np.bool_), tasks, [])
    for source, first in zip(rows.sources, rows.firsts.tolist(), strict=False):
        default = source.task or source.name
        for start, kept in _pieces(source.manifest, sizes):
            counted = _counted(source, start, kept, sizes)
            at = slice(first + start, first + start + len(counted.text))
            loads[at] = counted.audio_tokens(sizes, rows, at.start)
            lengths[at] = counted.text + loads[at]
            targets[at] = counted.targets if sizes.target_tokens else lengths[at]
            measured.has_audio[at] = counted.has_audio
            codes = [names.setdefault(name or default, len(names)) for name in counted.task_names.tolist()]
            tasks[at] = np.array(codes, np.int32)[counted.tasks]
            _refuse_long(measured, at, sizes, budget)
    measured.task_names.extend(names)
    return measured


@dataclass(frozen=True, eq=False)
class _Counted:
    """What does not change about n rows that stand together, and their c clips."""

    text: NDArray[np.int32]  # (n,)
    targets: NDArray[np.int32]  # (n,)
    has_audio: NDArray[np.bool_]  # (n,)
    tasks: NDArray[np.int32]  # (n,) of `task_names`
    task_names: NDArray[np.str_]
    owners: NDArray[np.int32]  # (c,) row of each clip that takes positions; they ascend
    durations_s: NDArray[np.float64]  # (c,) NaN: the manifest does not say
    is_spoken: NDArray[np.bool_]  # (c,)

    def audio_tokens(self, sizes: RowSizes, rows: SourceRows, first: int) -> NDArray[np.int32]:
        """Returns (n,) how many positions the clips of each row take; the rows are those of `rows` from `first` on."""
        durations_s = self.durations_s.copy()
        for row in np.unique(self.owners[np.isnan(durations_s)]).tolist():
            for number, (part, _) in enumerate(sizes.clips(rows[first + row]), int(np.searchsorted(self.owners, row))):
                durations_s[number] = np.nan if (duration_s := clip_duration_s(part)) is None else duration_s
        tokens = np.zeros(len(self.text), np.int64)
        for is_spoken in (False, True):
            chosen = np.flatnonzero((self.is_spoken == is_spoken) & ~np.isnan(durations_s))
            different, which = np.unique(durations_s[chosen], return_inverse=True)
            counts = [sizes.clip_tokens(duration_s, is_spoken=is_spoken) for duration_s in different.tolist()]
            np.add.at(tokens, self.owners[chosen], np.array([min(count, _MOST) for count in counts], np.int64)[which])
        return np.minimum(tokens, _MOST).astype(np.int32)


def _pieces(manifest: Manifest, sizes: RowSizes) -> Iterator[tuple[int, Path | None]]:
    """Yields the first row of each piece, and where its sizes are kept, if they are."""
    starts = range(0, len(manifest), PIECE_ROWS)
    if not sizes.key or len(manifest) < MIN_KEPT_ROWS:
        yield from ((start, None) for start in starts)
        return
    with ThreadPoolExecutor(HASHED_TOGETHER, thread_name_prefix="sonant-hash") as pool:
        digests = pool.map(lambda start: manifest.digest(start, _end(manifest, start)), starts)
        yield from zip(starts, (_kept_at(manifest, digest, sizes) for digest in digests), strict=True)


def _end(manifest: Manifest, start: int) -> int:
    return min(start + PIECE_ROWS, len(manifest))


def _kept_at(manifest: Manifest, digest: bytes, sizes: RowSizes) -> Path:
    asked = f"{sizes.key} {sizes.target_tokens is not None} {sizes.spoken_tokens is not None} "
    name = hashlib.sha256(asked.encode() + digest).hexdigest()[:32]
    return manifest.path.absolute().parent / FOLDER / f"{name}.npz"


def _counted(source: Source, start: int, kept: Path | None, sizes: RowSizes) -> _Counted:
    manifest, end = source.manifest, _end(source.manifest, start)
    if kept is not None:
        try:
            with open(kept, "rb") as file, np.load(file, allow_pickle=False) as columns:
                return _Counted(**columns)
        except (FileNotFoundError, NotADirectoryError):
            log.info("%s: counting the tokens of rows %d to %d, once", manifest.path, start + 1, end)
        except (OSError, ValueError, EOFError, TypeError, KeyError, zipfile.BadZipFile) as error:
            log.warning("%s: cannot be read (%s); its rows are counted again", kept, error)
    data = manifest.raw_rows(start, end)
    counted = _count(source, start, data, sizes)
    if kept is not None:  # by a hash of what was counted: the file may have changed since it was hashed
        _keep(_kept_at(manifest, hashlib.sha256(data).digest(), sizes), counted)
    return counted


def _keep(path: Path, counted: _Counted) -> None:
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(exist_ok=True)
        with open(temporary, "wb") as file:
            np.savez(file, **vars(counted))
        os.replace(temporary, path)
    except OSError as error:
        log.info("%s: sizes of rows are not kept (%s)", path.parent, error.strerror)
        with contextlib.suppress(OSError):
            temporary.unlink()


def _count(source: Source, start: int, data: bytes, sizes: RowSizes) -> _Counted:
    manifest, names = source.manifest, dict[str, int]()
    text, targets, tasks, has_audio, clips = [], [], [], [], []
    for number, line in enumerate(data.removesuffix(b"\n").split(b"\n")):
        row = parse(line, manifest.place(start + number))  # where recordings lie makes no text longer
        tasks.append(names.setdefault(row.task, len(names)))
        row = source.named(row)
        try:
            text.append(sizes.text_tokens(as_written(row)))
            targets.append(sizes.target_tokens(row) if sizes.target_tokens else 0)
            clips += [(number, part.duration_s, spoken) for part, spoken in sizes.clips(row)]
        except ChatError as error:
            raise ManifestError(f"{manifest.place(start + number)}: {error}") from None
        has_audio.append(bool(row.heard_parts))
    owners, durations_s, is_spoken = zip(*clips, strict=True) if clips else ((), (), ())
    return _Counted(
        np.array(text, np.int32),
        np.array(targets, np.int32),
        np.array(has_audio, np.bool_),
        np.array(tasks, np.int32),
        np.array(list(names), np.str_),
        np.array(owners, np.int32),
        np.array(durations_s, np.float64),
        np.array(is_spoken, np.bool_),
    )


def _refuse_long(measured: Measured, at: slice, sizes: RowSizes, budget: int) -> None:
    longest = min(budget, budget if sizes.positions is None else sizes.positions)
    too_long = np.flatnonzero(measured.lengths[at] > longest)
    if not len(too_long):
        return
    row = at.start + int(too_long[0])
    place, id, length = measured.rows.place(row), measured.rows[row].id, int(measured.lengths[row])
    if length > budget:
        raise ManifestError(
            f"{place}: row {id!r} has {length} tokens, token_budget is {budget}; "
            "raise the budget, shorten the row or drop it (rows are never cut)"
        )
    raise ManifestError(
        f"{place}: row {id!r} has {length} tokens, the LLM holds "
        f"{sizes.positions}; shorten the row or drop it (rows are never cut)"
    )

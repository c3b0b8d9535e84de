"""What the doctor keeps of rows: columns of numbers, some forty bytes a row, so that ten million fit into memory.

What a column has no number for (an id, a speaker, the name of a recording) is read again from its line where a fault is
to be told.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sonant.chat.messages import Conversation
from sonant.data.check_clean import CleanReader
from sonant.data.manifest import parse
from sonant.errors import ManifestError

Ints: TypeAlias = NDArray[np.int64]
ClipKey: TypeAlias = tuple[str, float, float | None]  # recording, offset and duration in seconds

PIECE = 1 << 20  # values looked up at a time
BLOCK_BYTES = 1 << 22


@dataclass(frozen=True)
class Block:
    """Lines of a manifest that stand together."""

    path: str
    start: int  # bytes
    end: int


def blocks_of(path: str) -> Iterator[Block]:
    """Yields blocks of whole lines; an empty one for an empty file. Raises: ManifestError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            size, start = os.fstat(file.fileno()).st_size, 0
            while start < size or not size:
                file.seek(max(0, min(start + BLOCK_BYTES, size) - 1))
                file.readline()
                yield Block(path, start, file.tell())
                if not size:
                    return
                start = file.tell()
    except OSError as error:
        raise ManifestError(f"{path}: cannot read this manifest ({error.strerror}); check the name") from None


class RowFault(NamedTuple):
    """What is wrong with the row of a number."""

    row: int
    id: str
    code: str
    detail: str


@dataclass(eq=False)
class Columns:
    """What is kept of N rows and their C clips. A hash is 0 where there is nothing to compare.

    Those marked * are empty where nobody asks (see `sonant.data.check_lines.Reading`).
    """

    starts: NDArray[np.uint32]  # (N,) bytes from the start of the block
    ids: Ints  # (N,) hashes
    contents: Ints  # (N,) of the messages; 0: the line is no conversation
    hears: NDArray[np.bool_]  # (N,) has a clip that a model hears
    sentences: Ints  # (N,)* of the answer's words; 0: they are too few to tell it
    speakers: Ints  # (N,)*
    num_text_tokens: NDArray[np.int32]  # (N,)*
    owners: NDArray[np.int32]  # (C,) the row of each clip; they ascend
    clips: Ints  # (C,) of path, offset and duration
    places: Ints  # (C,)* the same, of where the recording really lies
    durations_s: NDArray[np.float64]  # (C,) as written; NaN: up to the end
    is_heard: NDArray[np.bool_]  # (C,) an assistant's clip is not: it says it
    is_missing: NDArray[np.bool_]  # (C,)
    last_clips: NDArray[np.int32]  # (W,) clips of spoken answers of which words are marked
    last_starts_s: NDArray[np.float64]  # (W,) when the last of them starts
    found: list[RowFault] = field(default_factory=list)


class Table:
    """The rows of some manifests, numbered through in the order of their blocks."""

    def __init__(self, blocks: Sequence[Block], columns: Iterable[Columns]) -> None:
        kept: dict[str, list[NDArray[np.generic]]] = {}
        self.found: list[RowFault] = []
        rows, num_clips = [0], 0
        for some in columns:
            self.found += [fault._replace(row=rows[-1] + fault.row) for fault in some.found]
            some.owners += np.int32(rows[-1])
            some.last_clips += np.int32(num_clips)
            rows.append(rows[-1] + len(some.ids))
            num_clips += len(some.clips)
            for name, values in vars(some).items():
                if isinstance(values, np.ndarray):
                    kept.setdefault(name, []).append(values)
        self._blocks, self._firsts, self._clean = blocks, np.array(rows, np.int64), CleanReader()
        # Joined one by one: no two columns are ever held twice.
        self.columns = Columns(**{name: np.concatenate(kept.pop(name)) for name in list(kept)})  # type: ignore[arg-type]
        opening = [first for block, first in zip(blocks, rows, strict=False) if block.start == 0]
        self._manifests = np.array(opening, np.int64)  # (manifests,) first row of each
        self.paths = [block.path for block in blocks if block.start == 0]

    def __len__(self) -> int:
        return int(self._firsts[-1])

    @property
    def num_rows(self) -> dict[str, int]:
        """Manifest -> its rows."""
        counts: Counter[str] = Counter()
        for path, count in zip(self.paths, np.diff(self._manifests, append=len(self)).tolist(), strict=True):
            counts[path] += count
        return dict(counts)

    def manifests(self, rows: Ints) -> Ints:
        """Returns the number (in `paths`) of the manifest of each row."""
        return np.searchsorted(self._manifests, rows, side="right") - 1

    def where(self, row: int) -> tuple[str, int]:
        """Returns manifest and line of a row."""
        number = int(self.manifests(np.array([row]))[0])
        return self.paths[number], row - int(self._manifests[number]) + 1

    def place(self, row: int) -> str:
        """Returns `file:line` of a row."""
        path, line = self.where(row)
        return f"{path}:{line}"

    def fault(self, row: int, code: str, detail: str) -> RowFault:
        """Returns a fault of a row that is a conversation."""
        return RowFault(row, self.conversation(row).id, code, detail)

    def conversation(self, row: int) -> Conversation:
        """Returns a row that is a conversation, read again; its paths are as written."""
        return parse(self._line(row), self.place(row))

    def recording(self, clip: int) -> str:
        """Returns the name of a clip's recording, its path made to start where its manifest does."""
        row = int(self.columns.owners[clip])
        nth = clip - int(np.searchsorted(self.columns.owners, row))
        return self._clip(self._line(row), row, nth, os.path.dirname(self.where(row)[0]))[0][0]

    def clips(self, numbers: Ints) -> Iterator[tuple[ClipKey, bytes | None]]:
        """Yields clips, their paths made to start where their manifests do, and their bytes where no file holds them.

        numbers: (K,) of which rows that are conversations own them. Ascending, a block is read once for all it holds.
        """
        rows = self.columns.owners[numbers]
        nths = (numbers - np.searchsorted(self.columns.owners, rows)).tolist()
        held = (np.searchsorted(self._firsts, rows, side="right") - 1).tolist()
        for number, some in groupby(zip(held, rows.tolist(), nths, strict=True), key=itemgetter(0)):
            block = self._blocks[number]
            folder = os.path.dirname(block.path)
            with open(block.path, "rb") as file:
                file.seek(block.start)
                data = file.read(block.end - block.start)
            for _, row, nth in some:
                start = int(self.columns.starts[row])
                line = data[start : data.find(b"\n", start) + 1 or len(data)]
                yield self._clip(line, row, nth, folder)

    def _line(self, row: int) -> bytes:
        number = int(np.searchsorted(self._firsts, row, side="right")) - 1
        with open(self._blocks[number].path, "rb") as file:
            file.seek(self._blocks[number].start + int(self.columns.starts[row]))
            return file.readline()

    def _clip(self, line: bytes, row: int, nth: int, folder: str) -> tuple[ClipKey, bytes | None]:
        if clean := self._clean.read(line):
            clip = clean.clips[nth]
            return (clip_name(clip.path, folder), clip.offset_s, clip.duration_s), None
        part = parse(line, self.place(row)).audio_parts[nth]
        name = part.name if part.path is None else clip_name(part.path, folder)
        return (name, part.offset_s, part.duration_s), part.data


def clip_name(path: str, folder: str) -> str:
    """Returns a recording's path from where a manifest in `folder` is read: one name, however it is written."""
    return os.path.normpath(os.path.join(folder, path))


def hashes(texts: Sequence[bytes]) -> Ints:
    """Returns (N,) hashes of 63 bits, equal in every process; 0 for an empty text."""
    digests = b"".join([hashlib.blake2b(text, digest_size=8).digest() for text in texts])
    values = np.frombuffer(digests, np.uint64) >> np.uint64(1)
    return np.where(np.fromiter(map(len, texts), np.int64, len(texts)) > 0, values, 0).astype(np.int64)


def hashes_of_stretches(names: Ints, offsets_s: NDArray[np.float64], durations_s: NDArray[np.float64]) -> Ints:
    """Returns (C,) hashes of 63 bits of recordings (given by a hash) and times; NaN is a time like any other."""
    mixed = names.astype(np.uint64)
    for times in (offsets_s + 0.0, np.where(np.isnan(durations_s), -1.0, durations_s)):  # + 0.0: no negative zero
        mixed ^= times.view(np.uint64)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)  # splitmix64
        mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(1)).astype(np.int64)


def num_distinct(values: Ints) -> int:
    """Returns how many different values there are; a sorted copy is all it needs."""
    ordered = np.sort(values)
    return int(np.count_nonzero(ordered[1:] != ordered[:-1])) + bool(len(ordered))


def repeated(values: Ints) -> Ints:
    """Returns which values, but 0, come more than once: their numbers, ascending."""
    ordered = np.sort(values)
    again = np.unique(ordered[1:][(ordered[1:] == ordered[:-1]) & (ordered[1:] != 0)])
    del ordered
    if not len(again):
        return np.zeros(0, np.int64)
    found = []
    for start in range(0, len(values), PIECE):
        piece = values[start : start + PIECE]
        found.append(np.flatnonzero(again[np.minimum(np.searchsorted(again, piece), len(again) - 1)] == piece) + start)
    return np.concatenate(found)

"""What is wrong with rows next to the others: duplicates inside a manifest, and what splits must not share."""

import functools
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sonant.data.check_audio import Clip, ClipKey
from sonant.data.check_lines import Row
from sonant.data.manifest import line_offsets, parse

SPLITS = {
    "train": "train",
    "dev": "dev",
    "valid": "dev",
    "validation": "dev",
    "val": "dev",
    "test": "test",
    "eval": "test",
}
Ints = NDArray[np.int64]


def compare(rows: Sequence[Row], clips: Mapping[ClipKey, Clip]) -> None:
    """Adds to each row what it repeats of an earlier one. Of a million rows only numbers are held at a time."""
    paths = sorted({row.path for row in rows})
    path_ids = np.array([paths.index(row.path) for row in rows], np.int64)
    split_names = [split_of(path) for path in paths]
    splits = np.array([split_names.index(split_names[i]) for i in path_ids], np.int64)
    ids = np.array([_number(row.id) if row.id and row.content else 0 for row in rows], np.int64)
    contents = np.array([row.content for row in rows], np.int64)

    for row, first in _repeated(rows, ids, path_ids, same_group=True):
        row.add(("duplicate-id", f"id {row.id!r} is that of line {first.line}"))
    for row, first in _repeated(rows, contents, path_ids, same_group=True):
        row.add(("duplicate-content", f"the messages are those of line {first.line}"))
    if len(set(split_names)) == 1:
        return
    _leaking_clips(rows, clips, splits)
    silent = np.array([0 if row.heard else row.content for row in rows], np.int64)
    sentences = np.array([row.sentence for row in rows], np.int64)
    for row, first in _repeated(rows, silent, splits):
        row.add(("leak-content", f"the conversation is also in {_place(first)}"))
    offsets = functools.cache(line_offsets)
    for row, first in _repeated(rows, sentences, splits):
        answer = _answer(row, offsets(row.path))
        row.add(("leak-sentence", f"the answer {answer[:60]!r} is also in {_place(first)}"))
    speakers = np.array([_number(row.speaker) for row in rows], np.int64)
    told: set[tuple[str, str]] = set()
    for row, first in _repeated(rows, speakers, splits):
        if (split_of(row.path), row.speaker) not in told:  # once for each speaker, not for each of a thousand rows
            told.add((split_of(row.path), row.speaker))
            row.add(("leak-speaker", f"speaker {row.speaker!r} is also in {_place(first)}"))


@functools.lru_cache(maxsize=256)
def split_of(path: str) -> str:
    """Returns train, dev or test, by the name of the file or else of its folder; the path itself if neither says."""
    absolute = Path(path).absolute()
    names = f"{absolute.stem} {absolute.parent.name}".lower()
    return next((SPLITS[word] for word in re.split(r"[^a-z]+", names) if word in SPLITS), path)


def _repeated(
    rows: Sequence[Row], values: Ints, groups: Ints, *, same_group: bool = False
) -> Iterator[tuple[Row, Row]]:
    """Yields (row, first row with its value) for rows that repeat a value of their group, or else of another group."""
    for index, first in _repeats(values, groups, same_group=same_group):
        yield rows[index], rows[first]


def _repeats(values: Ints, groups: Ints, *, same_group: bool) -> Iterator[tuple[int, int]]:
    known = np.flatnonzero(values)
    if same_group:
        values = values ^ (groups * np.int64(0x1E3779B97F4A7C15))  # the same value of another group is another one
    _, firsts, which = np.unique(values[known], return_index=True, return_inverse=True)
    first = known[firsts[which]]
    again = known != first if same_group else groups[known] != groups[first]
    yield from zip(known[again].tolist(), first[again].tolist(), strict=True)


def _leaking_clips(rows: Sequence[Row], clips: Mapping[ClipKey, Clip], splits: Ints) -> None:
    """A clip leaks by its samples where they were read, else by its file and times.

    One that is heard nowhere does not: two rows may say the same as they may write the same.
    """
    identity: Callable[[ClipKey], int] = functools.cache(lambda key: _number(_identity(key, clips[key])))
    heard = {identity(key) for row in rows for key in row.heard}
    owners = [
        (i, key)
        for i, row in enumerate(rows)
        for key in dict.fromkeys(row.clips)
        if clips[key].duration_s is not None and identity(key) in heard
    ]
    owner = np.array([i for i, _ in owners], np.int64)
    values = np.array([identity(key) for _, key in owners], np.int64)
    for index, first in _repeats(values, splits[owner], same_group=False):
        name = owners[index][1][0]
        rows[owners[index][0]].add(("leak-audio", f"{name} is also in {_place(rows[owners[first][0]])}"))


def _identity(key: ClipKey, clip: Clip) -> str:
    return clip.digest or repr((os.path.realpath(key[0]), *key[1:]))


def _number(text: str) -> int:
    # Only compared inside this process, where the hash of a text is always the same.
    return hash(text) if text else 0


def _place(row: Row) -> str:
    return f"{row.path}:{row.line}"


def _answer(row: Row, offsets: NDArray[np.int64]) -> str:
    with open(row.path, "rb") as file:
        file.seek(offsets[row.line - 1])
        return parse(file.readline(), _place(row)).reference

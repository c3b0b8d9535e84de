"""What is wrong with rows next to the others: duplicates inside a manifest, and what splits must not share."""

import functools
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sonant.data.check_audio import Clips
from sonant.data.check_columns import Ints, RowFault, Table, repeated

SPLITS = {
    "train": "train",
    "dev": "dev",
    "valid": "dev",
    "validation": "dev",
    "val": "dev",
    "test": "test",
    "eval": "test",
}


def compare(table: Table, clips: Clips) -> Iterator[RowFault]:
    """Yields what each row repeats of an earlier one. Only numbers are compared, and few of them held at a time."""
    columns, row_of = table.columns, table.conversation
    names = sorted(set(table.paths))
    files = np.array([names.index(path) for path in table.paths], np.int64)
    for row, first in _repeats(table, columns.ids, files, same=True):
        yield table.fault(row, "duplicate-id", f"id {row_of(row).id!r} is that of line {table.where(first)[1]}")
    for row, first in _repeats(table, columns.contents, files, same=True):
        yield table.fault(row, "duplicate-content", f"the messages are those of line {table.where(first)[1]}")
    split_names = [split_of(path) for path in table.paths]
    if len(set(split_names)) == 1:
        return
    splits = np.array([split_names.index(name) for name in split_names], np.int64)
    yield from _leaking_clips(table, clips, splits)
    for row, first in _repeats(table, np.where(columns.hears, 0, columns.contents), splits):
        yield table.fault(row, "leak-content", f"the conversation is also in {table.place(first)}")
    for row, first in _repeats(table, columns.sentences, splits):
        answer = row_of(row).reference
        yield table.fault(row, "leak-sentence", f"the answer {answer[:60]!r} is also in {table.place(first)}")
    told: set[tuple[str, str | None]] = set()
    for row, first in _repeats(table, columns.speakers, splits):
        speaker, split = row_of(row).speaker, split_of(table.where(row)[0])
        if (split, speaker) not in told:  # once for each speaker, not for each of a thousand rows
            told.add((split, speaker))
            yield table.fault(row, "leak-speaker", f"speaker {speaker!r} is also in {table.place(first)}")


@functools.lru_cache(maxsize=256)
def split_of(path: str) -> str:
    """Returns train, dev or test, by the name of the file or else of its folder; the path itself if neither says."""
    absolute = Path(path).absolute()
    names = f"{absolute.stem} {absolute.parent.name}".lower()
    return next((SPLITS[word] for word in re.split(r"[^a-z]+", names) if word in SPLITS), path)


def _repeats(table: Table, values: Ints, groups: Ints, *, same: bool = False) -> Iterator[tuple[int, int]]:
    """Yields (row, first row with its value) for rows that repeat a value of another group, or else of the same."""
    rows = repeated(values)
    for row, first in _firsts(values[rows], groups[table.manifests(rows)], same=same):
        yield int(rows[row]), int(rows[first])


def _firsts(values: Ints, groups: Ints, *, same: bool) -> Iterator[tuple[int, int]]:
    if same:
        values = values ^ (groups * np.int64(0x1E3779B97F4A7C15))  # the same value of another group is another one
    _, firsts, which = np.unique(values, return_index=True, return_inverse=True)
    first = firsts[which]
    again = np.flatnonzero(first != np.arange(len(first)) if same else groups != groups[first])
    yield from zip(again.tolist(), first[again].tolist(), strict=True)


def _leaking_clips(table: Table, clips: Clips, splits: Ints) -> Iterator[RowFault]:
    """A clip leaks by its samples where they were read, else by its file and times.

    One that is heard nowhere does not: two rows may say the same as they may write the same.
    """
    numbers = repeated(clips.sounds)
    heard = np.unique(clips.sounds[numbers][table.columns.is_heard[numbers]])
    numbers = numbers[np.isin(clips.sounds[numbers], heard) & ~np.isnan(clips.durations_s[numbers])]
    owners, sounds = table.columns.owners[numbers], clips.sounds[numbers]
    told: set[tuple[int, int]] = set()
    for clip, first in _firsts(sounds, splits[table.manifests(owners.astype(np.int64))], same=False):
        row = int(owners[clip])
        if (row, int(sounds[clip])) not in told:
            told.add((row, int(sounds[clip])))
            name = table.recording(int(numbers[clip]))
            yield table.fault(row, "leak-audio", f"{name} is also in {table.place(int(owners[first]))}")

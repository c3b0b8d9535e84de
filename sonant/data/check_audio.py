"""What is wrong with the clips of a manifest: each different clip is opened once, by several threads."""

import functools
import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sonant.audio.io import SEGMENT_SLACK_S, AudioInfo, info, load
from sonant.data.check_columns import ClipKey, Ints, RowFault, Table, hashes, num_distinct
from sonant.data.check_rows import Found
from sonant.errors import AudioError

Depth = Literal["samples", "headers", "metadata"]

MIN_DURATION_S = 0.1
MIN_RATE_HZ = 8_000
SILENT_PEAK = 1e-4  # -80 dB of full scale
CLIPPED_SHARE = 0.01
CLIPS_AT_ONCE = 1000  # in the threads' queue
CLIPS_A_TASK = 10  # a thread that takes one by one does little else


class Clip(NamedTuple):
    """What was found out about a clip."""

    duration_s: float | None  # None: it cannot be opened
    digest: str | None = None  # of its samples; None: not decoded
    found: tuple[Found, ...] = ()


@dataclass(frozen=True, eq=False)
class Clips:
    """What was found out about the C clips of a table."""

    durations_s: NDArray[np.float64]  # (C,) NaN: it cannot be opened
    sounds: Ints  # (C,) or (0,): hashes of the samples where they were read, else of where they lie
    num_distinct: int
    found: list[RowFault] = field(default_factory=list)


def look_at(
    table: Table,
    *,
    depth: Depth = "samples",
    workers: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> Clips:
    """Returns what was found for each clip of a table; each different one is looked at once.

    depth: "samples" reads everything; "headers" finds neither damage nor silence; "metadata" opens no file and believes
        the manifest about durations.
    progress: called with (done, total).
    """
    columns = table.columns
    if depth == "metadata":
        total = num_distinct(columns.clips)
        if progress and total:
            progress(total, total)
        stated_s = np.nan_to_num(columns.durations_s, copy=False)
        stated_s[columns.is_missing] = np.nan
        return Clips(stated_s, columns.places, total)
    _, firsts, which = np.unique(columns.clips, return_index=True, return_inverse=True)
    durations_s, digests, found = np.full(len(firsts), np.nan), {}, {}
    for done, (number, clip) in enumerate(_looked(table, firsts, depth, workers), 1):
        durations_s[number] = np.nan if clip.duration_s is None else clip.duration_s
        if clip.digest is not None:
            digests[number] = clip.digest
        if clip.found:
            found[number] = clip.found
        if progress and done % max(1, len(firsts) // 1000) == 0:
            progress(done, len(firsts))
    sounds = columns.places
    if len(sounds):
        kinds = sounds[firsts]
        kinds[list(digests)] = hashes([digest.encode() for digest in digests.values()])
        sounds = kinds[which]
    return Clips(durations_s[which], sounds, len(firsts), list(_of_rows(table, which, found)))


def _looked(table: Table, firsts: Ints, depth: Depth, workers: int) -> Iterator[tuple[int, Clip]]:
    """Yields (number, clip) of each different clip, in the order in which they first come."""
    looker = _Looker(depth)
    remaining = iter(np.argsort(firsts).tolist())
    with ThreadPoolExecutor(workers) as pool:
        while some := list(itertools.islice(remaining, CLIPS_AT_ONCE)):
            clips = list(table.clips(firsts[some]))
            tasks = [clips[start : start + CLIPS_A_TASK] for start in range(0, len(clips), CLIPS_A_TASK)]
            yield from zip(some, itertools.chain.from_iterable(pool.map(looker.look_at, tasks)), strict=True)


def _of_rows(table: Table, which: Ints, found: Mapping[int, tuple[Found, ...]]) -> Iterator[RowFault]:
    """Yields what was found of clips once for each row that has them."""
    told: set[tuple[int, int]] = set()
    numbers = np.flatnonzero(np.isin(which, list(found)))
    for row, number in zip(table.columns.owners[numbers].tolist(), which[numbers].tolist(), strict=True):
        if (row, number) not in told:
            told.add((row, number))
            yield from (table.fault(row, code, detail) for code, detail in found[number])


class _Looker:
    """Looks at clips; whether a recording is there, and its header, are asked once however many clips it holds."""

    def __init__(self, depth: Depth) -> None:
        self.depth = depth
        self.missing = functools.lru_cache(maxsize=1 << 16)(missing)
        self.header = functools.lru_cache(maxsize=1 << 16)(_header)

    def look_at(self, clips: Sequence[tuple[ClipKey, bytes | None]]) -> list[Clip]:
        return [self._look(key, data) for key, data in clips]

    def _look(self, key: ClipKey, data: bytes | None) -> Clip:
        name, offset_s, duration_s = key
        if data is None and (found := self.missing(name)):
            return Clip(None, None, (found,))
        source = name if data is None else data
        header = self.header(name) if data is None else _header(data)
        if not isinstance(header, AudioInfo):
            return Clip(None, None, (header,))
        rest_s = header.duration_s - offset_s
        if rest_s <= 0 or (duration_s or 0.0) > rest_s + SEGMENT_SLACK_S:
            times = f"{offset_s:g} to {offset_s + (duration_s or 0.0):g} s of {header.duration_s:.3f} s"
            return Clip(duration_s, None, (("beyond-file", f"{name}: the clip is {times}"),))
        clip = Clip(min(rest_s, duration_s or rest_s))
        clip = clip._replace(found=tuple(_header_faults(name, header, clip.duration_s or 0.0)))
        return clip if self.depth == "headers" else _decoded(key, source, header, clip)


def missing(name: str) -> Found | None:
    """Returns what is wrong with a recording that is not there."""
    if os.path.isfile(name):
        return None
    return "audio-missing", f"{name} {'is a folder' if os.path.isdir(name) else 'does not exist'}"


def _header(source: str | bytes) -> AudioInfo | Found:
    try:
        return info(source)
    except AudioError as error:
        empty = "is empty" in str(error) or "holds no samples" in str(error)
        return ("audio-empty" if empty else "audio-corrupt"), str(error)


def _header_faults(name: str, header: AudioInfo, duration_s: float) -> Iterator[Found]:
    if duration_s < MIN_DURATION_S:
        yield "too-short", f"{name}: the clip has {duration_s:.3f} s"
    if header.sample_rate_hz < MIN_RATE_HZ:
        yield "low-sample-rate", f"{name}: {header.sample_rate_hz} Hz"
    if header.num_channels > 1:
        yield "stereo", f"{name}: {header.num_channels} channels"


def _decoded(key: ClipKey, source: str | bytes, header: AudioInfo, clip: Clip) -> Clip:
    name, offset_s, duration_s = key
    try:
        samples = load(
            source,
            sample_rate_hz=header.sample_rate_hz,
            offset_s=offset_s,
            duration_s=duration_s,
            max_duration_s=(clip.duration_s or 0.0) + 1.0,
        )
    except AudioError as error:
        code = "audio-nan" if "NaN" in str(error) else "audio-corrupt"
        return clip._replace(found=(*clip.found, (code, str(error))))
    found = list(clip.found)
    loudness = np.abs(samples)
    if loudness.max() < SILENT_PEAK:
        found.append(("audio-silent", f"{name}: the peak is {loudness.max():.1g} of full scale"))
    elif (clipped := float((loudness >= 32767 / 32768).mean())) > CLIPPED_SHARE:
        found.append(("audio-clipped", f"{name}: {clipped:.1%} of the samples are at full scale"))
    digest = hashlib.blake2b(samples.tobytes(), digest_size=16).hexdigest()
    return Clip(clip.duration_s, f"{header.sample_rate_hz}:{digest}", tuple(found))

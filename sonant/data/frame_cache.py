"""Frames of a frozen encoder on disk, made once and read in every epoch, by any number of manifests.

What lies there, `sonant.data.frame_shards` says. After a kill only the shard in the making is lost, and a later call
adds what further manifests hold in new shards. To make them while training runs, see `sonant.data.growing_cache`.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from sonant.audio.features import FeatureSpec
from sonant.chat.messages import AudioPart
from sonant.data.frame_shards import (
    DTYPES,
    REMEDY,
    Clip,
    Key,
    Place,
    Precision,
    begin,
    index_path,
    key_of,
    read_header,
    read_index,
    read_note,
    remove_faulty,
    size_of,
    stored,
    write_shard,
)
from sonant.data.manifest import Manifest, clip_duration_s
from sonant.data.shards import file_sha256
from sonant.errors import AudioError, ManifestError, SonantError

Encode = Callable[[Sequence[AudioPart]], list[Tensor]]


@dataclass(frozen=True)
class CacheReport:
    """What a call of `write_frame_cache` did."""

    clips: int  # of the manifests, each counted once
    new_clips: int
    frames: int  # of the new clips
    num_bytes: int  # of the new shards
    left_out: dict[str, str]  # recording -> why it has no frames
    mended: list[str]  # what was wrong with shards that had to be made again


class FrameCache:
    """The frames of a folder that `write_frame_cache` made: a `sonant.batch.CachedFrames`.

    Shards are mapped into memory, and each is read whole once, at its first use, to compare its sha256 (`verify`).
    Safe to use from several threads.

    Raises: ManifestError if the folder or its index is missing or damaged.
    """

    def __init__(self, folder: str | os.PathLike[str], *, verify: bool = True) -> None:
        self.folder = Path(folder).absolute()
        self.spec, _ = read_note(self.folder)
        self._places: dict[Key, Place] = {}
        self._indexes: set[Path] = set()
        self._seen_ns = -1  # when the folder had last changed as it was looked at
        self._verify = verify
        self._shards: dict[str, Any] = {}
        self._lock = threading.Lock()
        for fault in self.refresh().values():
            raise ManifestError(f"{fault}; {REMEDY}: what is lost is made again")

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, part: AudioPart) -> bool:
        return key_of(part, self.folder) in self._places

    def __call__(self, part: AudioPart) -> Tensor:
        """Returns the frames (T, dim) float32 of one segment.

        Raises: AudioError if it is not here, its recording has changed, or its shard is damaged.
        """
        frames = self.find(part)
        if frames is None:
            span = f"from {part.offset_s:g} s, " + (
                "to the end" if part.duration_s is None else f"{part.duration_s:g} s"
            )
            raise AudioError(f"{part.name} ({span}): {self.folder} has no frames of it; {REMEDY}")
        return frames

    def find(self, part: AudioPart) -> Tensor | None:
        """Returns the frames (T, dim) float32 of one segment; None if they are not here. Raises as `__call__`."""
        place = self._places.get(key_of(part, self.folder))
        if place is None:
            return None
        if part.path is not None and (size := size_of(part)) not in (-1, place.size):
            raise AudioError(
                f"{part.path}: has {size} bytes, and had {place.size} when its frames were cached; remove "
                f"{self.folder / place.shard}, then {REMEDY}"
            )
        frames: Tensor = self._shard(place.shard)[place.start : place.start + place.frames]
        return frames.float()

    def refresh(self) -> dict[Path, str]:
        """Looks for shards that have come since, by whoever; returns the faults of those that are not whole."""
        with self._lock:
            changed_ns = os.stat(self.folder).st_mtime_ns
            if changed_ns == self._seen_ns:
                return {}
            self._seen_ns = changed_ns
            places, faults = read_index(self.folder, known=self._indexes)
            for index, clips in places.items():
                self._indexes.add(index)
                self._places |= clips
            return faults

    def _shard(self, name: str) -> Any:
        with self._lock:
            if name not in self._shards:
                path = self.folder / name
                try:
                    if self._verify and file_sha256(path) != read_header(index_path(path))["sha256"]:
                        raise AudioError(f"{path}: is damaged (its sha256 differs); remove it, then {REMEDY}")
                    self._shards[name] = safe_open(path, "pt").get_slice("frames")
                except (OSError, SafetensorError) as error:
                    raise AudioError(f"{path}: cannot be read ({error}); remove it, then {REMEDY}") from None
            return self._shards[name]


def write_frame_cache(
    manifests: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    encode: Encode,
    spec: FeatureSpec,
    precision: Precision = "float16",
    shard_bytes: int = 256 << 20,
    batch_s: float = 120.0,
    workers: int = 2,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> CacheReport:
    """Returns what was added to `out`: the frames of every clip heard in the manifests that it does not hold yet.

    encode: parts -> frames (T, dim) of each; called with clips of like length, `batch_s` seconds at most together, by
        `workers` threads at once, so that one loads audio while another computes.
    spec: what `encode` makes; kept in `precision`. A clip that cannot be encoded is left out and reported; a row with
        it is an error later.

    Raises: ManifestError if a manifest cannot be read, or `out` holds frames of another encoder or something else.
    """
    folder = Path(out).absolute()
    begin(folder, spec, precision)
    wanted = {
        key_of(part, folder): part for manifest in manifests for row in Manifest(manifest) for part in row.heard_parts
    }
    places, faults = read_index(folder)
    remove_faulty(faults)
    known = set().union(*places.values())
    todo = [part for key, part in wanted.items() if key not in known]
    left_out: dict[str, str] = {}
    done = new_clips = frames = num_bytes = 0
    shard_s = shard_bytes / (DTYPES[precision].itemsize * spec.dim * spec.frame_rate_hz)
    make = partial(_encode, encode=encode, keep=partial(stored, spec=spec, precision=precision))
    for number, clips in enumerate(_shards(todo, shard_s), start=_next_number(folder)):
        heard: dict[Key, Tensor] = {}
        for part, made in _encoded(_batches(clips, batch_s), make, workers):
            if isinstance(made, str):
                left_out[part.name] = made
            else:
                heard[key_of(part, folder)] = made
            done += 1
            progress(done, len(todo))
        if heard:
            parts = {key_of(part, folder): part for part, _ in clips}
            whole = {key: Clip(size_of(part), heard[key]) for key, part in parts.items() if key in heard}
            num_bytes += write_shard(folder / f"frames-{number:05}.safetensors", whole)
            new_clips += len(heard)
            frames += sum(map(len, heard.values()))
    return CacheReport(len(wanted), new_clips, frames, num_bytes, left_out, list(faults.values()))


def _next_number(folder: Path) -> int:
    """The number of the first shard to write: after all that are done; one without an index is written over."""
    names = [path.stem.removeprefix("frames-") for path in folder.glob("frames-*.jsonl")]
    return max((int(name) + 1 for name in names if name.isdecimal()), default=0)


def _shards(parts: Iterable[AudioPart], limit_s: float) -> Iterator[list[tuple[AudioPart, float]]]:
    """Clips and their seconds, in order, cut where a shard comes to about `limit_s`."""
    clips: list[tuple[AudioPart, float]] = []
    total_s = 0.0
    for part in parts:
        clips.append((part, clip_duration_s(part) or 0.0))
        total_s += clips[-1][1]
        if total_s >= limit_s:
            yield clips
            clips, total_s = [], 0.0
    if clips:
        yield clips


def _batches(clips: Sequence[tuple[AudioPart, float]], batch_s: float) -> list[list[AudioPart]]:
    """Clips of like length side by side: each batch, padded, is `batch_s` seconds at most (or one clip)."""
    batches: list[list[AudioPart]] = []
    for part, duration_s in sorted(clips, key=lambda clip: clip[1]):
        if not batches or (len(batches[-1]) + 1) * duration_s > batch_s:
            batches.append([])
        batches[-1].append(part)
    return batches


def _encoded(
    batches: Sequence[list[AudioPart]], encode: Callable[[list[AudioPart]], list[Tensor | str]], workers: int
) -> Iterator[tuple[AudioPart, Tensor | str]]:
    pool = ThreadPoolExecutor(workers, thread_name_prefix="sonant-encode")
    try:
        for batch, made in zip(batches, pool.map(encode, batches), strict=True):
            yield from zip(batch, made, strict=True)
    finally:
        pool.shutdown(cancel_futures=True)


def _encode(parts: Sequence[AudioPart], *, encode: Encode, keep: Callable[[Tensor], Tensor]) -> list[Tensor | str]:
    """The frames of each part as they are stored, or why it has none: a bad clip does not take its batch along."""
    try:
        return [keep(frames) for frames in encode(parts)]
    except SonantError as error:
        if len(parts) == 1:
            return [str(error)]
        return [made for part in parts for made in _encode([part], encode=encode, keep=keep)]

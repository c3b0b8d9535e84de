"""Frames of a frozen encoder on disk, made once and read in every epoch, by any number of manifests.

    OUT/cache.json                      whose frames these are: a FeatureSpec of kind "encoded"
    OUT/frames-00000.safetensors        frames (N, dim) float16, one clip after another, about 256 MB
    OUT/frames-00000.jsonl              {"clips": 2, "frames": 110, "bytes": 17688, "sha256": "5f.."}
                                        {"path": "../clips/a.flac", "offset_s": 0.0, "duration_s": null, "size": 31044,
                                         "start": 0, "frames": 80}
                                        {"path": "../clips/b.flac", ..., "start": 80, "frames": 30}

A shard is done when its .jsonl is there, which is written last: after a kill only the shard in the making is lost, and
a later call adds what further manifests hold in new shards. One process writes at a time; any number may read.

A clip is known by its recording, offset and duration, as its row states them; a recording by its path from this folder
(as rows know theirs from the manifest's), so that data and cache can be moved together, or by the hash of its bytes.
Beside it stands the size of its file: a recording replaced by another is noticed, one that is gone is not needed.
"""

import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sonant.audio.features import FeatureSpec
from sonant.chat.messages import AudioPart
from sonant.data.manifest import Manifest, clip_duration_s, parse_json, relative_path, write_lines
from sonant.data.shards import file_sha256
from sonant.errors import AudioError, ManifestError, SonantError

FORMAT, VERSION = "sonant-frame-cache", 1
REMEDY = "run 'sonant data cache-features' with the manifest and this folder as --out"

Encode = Callable[[Sequence[AudioPart]], list[Tensor]]
Key = tuple[str, float, float | None]


class _Place(NamedTuple):
    """Where the frames of a clip are, and the size of its recording in bytes (-1: not a file)."""

    shard: str
    start: int
    frames: int
    size: int


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
        self.spec = _read_spec(self.folder)
        self._places, faults = _read_index(self.folder)
        for fault in faults.values():
            raise ManifestError(f"{fault}; {REMEDY}: what is lost is made again")
        self._verify = verify
        self._shards: dict[str, Any] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, part: AudioPart) -> bool:
        return _key(part, self.folder) in self._places

    def __call__(self, part: AudioPart) -> Tensor:
        """Returns the frames (T, dim) float32 of one segment.

        Raises: AudioError if it is not here, its recording has changed, or its shard is damaged.
        """
        place = self._places.get(_key(part, self.folder))
        if place is None:
            span = f"from {part.offset_s:g} s, " + (
                "to the end" if part.duration_s is None else f"{part.duration_s:g} s"
            )
            raise AudioError(f"{part.name} ({span}): {self.folder} has no frames of it; {REMEDY}")
        if part.path is not None and (size := _size(part)) not in (-1, place.size):
            raise AudioError(
                f"{part.path}: has {size} bytes, and had {place.size} when its frames were cached; remove "
                f"{self.folder / place.shard}, then {REMEDY}"
            )
        frames: Tensor = self._shard(place.shard)[place.start : place.start + place.frames]
        return frames.float()

    def _shard(self, name: str) -> Any:
        with self._lock:
            if name not in self._shards:
                path = self.folder / name
                try:
                    if self._verify and file_sha256(path) != _header(_index_path(path))["sha256"]:
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
    shard_bytes: int = 256 << 20,
    batch_s: float = 120.0,
    workers: int = 2,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> CacheReport:
    """Returns what was added to `out`: the frames of every clip heard in the manifests that it does not hold yet.

    encode: parts -> frames (T, dim) of each; called with clips of like length, `batch_s` seconds at most together, by
        `workers` threads at once, so that one loads audio while another computes.
    spec: what `encode` makes. A clip that cannot be encoded is left out and reported; a row with it is an error later.

    Raises: ManifestError if a manifest cannot be read, or `out` holds frames of another encoder or something else.
    """
    folder = Path(out).absolute()
    _begin(folder, spec)
    wanted = {
        _key(part, folder): part for manifest in manifests for row in Manifest(manifest) for part in row.heard_parts
    }
    known, faults = _read_index(folder)
    for index in faults:  # its clips are made again
        index.with_suffix(".safetensors").unlink(missing_ok=True)
        index.unlink()
    todo = [part for key, part in wanted.items() if key not in known]
    left_out: dict[str, str] = {}
    done = new_clips = frames = num_bytes = 0
    for number, clips in enumerate(_shards(todo, spec, shard_bytes), start=_next_number(folder)):
        heard: dict[Key, Tensor] = {}
        for part, made in _encoded(_batches(clips, batch_s), partial(_encode, encode=encode, spec=spec), workers):
            if isinstance(made, str):
                left_out[part.name] = made
            else:
                heard[_key(part, folder)] = made
            done += 1
            progress(done, len(todo))
        if heard:
            num_bytes += _write_shard(folder, number, [part for part, _ in clips], heard)
            new_clips += len(heard)
            frames += sum(map(len, heard.values()))
    return CacheReport(len(wanted), new_clips, frames, num_bytes, left_out, list(faults.values()))


def _key(part: AudioPart, folder: Path) -> Key:
    name = part.name if part.path is None else relative_path(os.path.abspath(part.path), folder)
    return name, part.offset_s, part.duration_s


def _size(part: AudioPart) -> int:
    try:
        return -1 if part.path is None else os.stat(part.path).st_size
    except OSError:
        return -1


def _begin(folder: Path, spec: FeatureSpec) -> None:
    """Notes whose frames the folder holds. Raises: ManifestError if they are another encoder's."""
    if not (folder / "cache.json").exists():
        if folder.exists() and any(folder.iterdir()):
            raise ManifestError(f"{folder}: exists and is no frame cache; choose another folder")
        note = {"format": FORMAT, "version": VERSION, "spec": spec.to_json()}
        write_lines(folder / "cache.json", [json.dumps(note, indent=2)])
    noted = _read_spec(folder)
    if noted != spec:
        raise ManifestError(
            f"{folder}: holds frames of {noted.encoder} at {noted.frame_rate_hz:g} Hz, and this is {spec.encoder} at "
            f"{spec.frame_rate_hz:g} Hz; choose another folder"
        )


def _read_spec(folder: Path) -> FeatureSpec:
    path = folder / "cache.json"
    if not path.exists():
        raise ManifestError(f"{path}: does not exist, so this is no frame cache; {REMEDY}")
    note = parse_json(path.read_bytes(), str(path))
    if not isinstance(note, dict) or (note.get("format"), note.get("version")) != (FORMAT, VERSION):
        raise ManifestError(f"{path}: is not of format {FORMAT!r}, version {VERSION}; make the cache again")
    return FeatureSpec.from_json(note["spec"])


def _index_path(shard: Path) -> Path:
    return shard.with_suffix(".jsonl")


def _header(index: Path) -> dict[str, Any]:
    with open(index, "rb") as file:
        header: dict[str, Any] = parse_json(file.readline(), f"{index}:1")
    return header


def _read_index(folder: Path) -> tuple[dict[Key, _Place], dict[Path, str]]:
    """Clip -> place in the shards that are whole, and index -> fault of the others."""
    places: dict[Key, _Place] = {}
    faults: dict[Path, str] = {}
    for index in sorted(folder.glob("frames-*.jsonl")):
        try:
            places |= _read_clips(index)
        except ManifestError as error:
            faults[index] = str(error)
    return places, faults


def _read_clips(index: Path) -> dict[Key, _Place]:
    shard = index.with_suffix(".safetensors")
    lines = index.read_bytes().splitlines() or [b""]
    header, *clips = (parse_json(line, f"{index}:{number}") for number, line in enumerate(lines, start=1))
    if len(clips) != header["clips"]:
        raise ManifestError(f"{index}: is cut off ({len(clips)} of {header['clips']} clips)")
    if not shard.exists():
        raise ManifestError(f"{shard}: is missing")
    if shard.stat().st_size != header["bytes"]:
        raise ManifestError(f"{shard}: is cut off ({shard.stat().st_size} of {header['bytes']} bytes)")
    return {
        (clip["path"], clip["offset_s"], clip["duration_s"]): _Place(
            shard.name, clip["start"], clip["frames"], clip["size"]
        )
        for clip in clips
    }


def _next_number(folder: Path) -> int:
    """The number of the first shard to write: after all that are done; one without an index is written over."""
    return max((int(path.stem.removeprefix("frames-")) + 1 for path in folder.glob("frames-*.jsonl")), default=0)


def _shards(parts: Iterable[AudioPart], spec: FeatureSpec, shard_bytes: int) -> Iterator[list[tuple[AudioPart, float]]]:
    """Clips and their seconds, in order, cut where the frames of a shard come to about `shard_bytes`."""
    clips: list[tuple[AudioPart, float]] = []
    total_s = 0.0
    limit_s = shard_bytes / (2 * spec.dim * spec.frame_rate_hz)
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


def _encode(parts: Sequence[AudioPart], *, encode: Encode, spec: FeatureSpec) -> list[Tensor | str]:
    """The frames of each part as they are stored, or why it has none: a bad clip does not take its batch along."""
    try:
        return [_checked(frames, spec) for frames in encode(parts)]
    except SonantError as error:
        if len(parts) == 1:
            return [str(error)]
        return [made for part in parts for made in _encode([part], encode=encode, spec=spec)]


def _checked(frames: Tensor, spec: FeatureSpec) -> Tensor:
    half = frames.detach().to("cpu", torch.float16)
    assert half.shape[1:] == (spec.dim,), f"frames of shape {tuple(half.shape)}, but {spec}"
    if not bool(torch.isfinite(half).all()):
        raise AudioError("its frames are no numbers that 16 bits can hold; look at the recording, or leave it out")
    return half


def _write_shard(folder: Path, number: int, parts: Sequence[AudioPart], heard: dict[Key, Tensor]) -> int:
    """Writes a shard, then its index; returns the bytes of both."""
    path = folder / f"frames-{number:05}.safetensors"
    kept = [(key, part) for part in parts if (key := _key(part, folder)) in heard]
    lines, start = [], 0
    for key, part in kept:
        clip = dict(zip(("path", "offset_s", "duration_s"), key, strict=True)) | {"size": _size(part)}
        lines.append(json.dumps(clip | {"start": start, "frames": len(heard[key])}, ensure_ascii=False))
        start += len(heard[key])
    temporary = path.with_name(f".{path.name}.tmp")
    save_file({"frames": torch.cat([heard[key] for key, _ in kept])}, temporary)
    num_bytes = temporary.stat().st_size
    header = {"clips": len(lines), "frames": start, "bytes": num_bytes, "sha256": file_sha256(temporary)}
    os.replace(temporary, path)
    write_lines(_index_path(path), [json.dumps(header), *lines])
    return num_bytes + _index_path(path).stat().st_size

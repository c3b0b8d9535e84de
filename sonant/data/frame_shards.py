"""How frames of a frozen encoder lie on disk: shards that appear whole, written by any number of processes.

    OUT/cache.json                      whose frames these are: a FeatureSpec of kind "encoded", and their precision
    OUT/frames-00000.safetensors        frames (N, dim) float16 or float32, one clip after another
    OUT/frames-00000.jsonl              {"clips": 2, "frames": 110, "bytes": 17688, "sha256": "5f.."}
                                        {"path": "../clips/a.flac", "offset_s": 0.0, "duration_s": null, "size": 31044,
                                         "start": 0, "frames": 80}
                                        {"path": "../clips/b.flac", ..., "start": 80, "frames": 30}

A shard is done when its .jsonl is there, which is written last. Numbers name the shards of `write_frame_cache`, random
letters those of training (`sonant.data.growing_cache`), where many processes write at a time.

A clip is known by its recording, offset and duration, as its row states them; a recording by its path from this folder
(as rows know theirs from the manifest's), so that data and cache can be moved together, or by the hash of its bytes.
Beside it stands the size of its file: a recording replaced by another is noticed, one that is gone is not needed.
"""

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from sonant.audio.features import FeatureSpec
from sonant.chat.messages import AudioPart
from sonant.data.manifest import parse_json, relative_path, write_lines
from sonant.data.shards import file_sha256
from sonant.errors import AudioError, ManifestError

FORMAT, VERSION = "sonant-frame-cache", 1
REMEDY = "run 'sonant data cache-features' with the manifest and this folder as --out"

Key = tuple[str, float, float | None]
Precision = Literal["float16", "float32"]
DTYPES: Mapping[Precision, torch.dtype] = {"float16": torch.float16, "float32": torch.float32}


class Place(NamedTuple):
    """Where the frames of a clip are, and the size of its recording in bytes (-1: not a file)."""

    shard: str
    start: int
    frames: int
    size: int


class Clip(NamedTuple):
    """What a shard is told of a clip: the size of its recording in bytes (-1: not a file), its frames (T, dim)."""

    size: int
    frames: Tensor


def key_of(part: AudioPart, folder: Path) -> Key:
    """Returns what a clip is called in the cache in `folder` (absolute)."""
    name = part.name if part.path is None else relative_path(os.path.abspath(part.path), folder)
    return name, part.offset_s, part.duration_s


def size_of(part: AudioPart) -> int:
    """Returns the bytes of the clip's recording; -1 if it is no file, or gone."""
    try:
        return -1 if part.path is None else os.stat(part.path).st_size
    except (OSError, ValueError):  # a name with a NUL
        return -1


def stored(frames: Tensor, spec: FeatureSpec, precision: Precision) -> Tensor:
    """Returns frames (T, dim) as a shard holds them. Raises: AudioError if they are no numbers of that precision."""
    kept = frames.detach().to("cpu", DTYPES[precision])
    assert kept.shape[1:] == (spec.dim,), f"frames of shape {tuple(kept.shape)}, but {spec}"
    if not bool(torch.isfinite(kept).all()):
        bits = 8 * kept.element_size()
        raise AudioError(f"its frames are no numbers that {bits} bits can hold; look at the recording, or leave it out")
    return kept


def begin(folder: Path, spec: FeatureSpec, precision: Precision) -> None:
    """Notes whose frames the folder holds. Raises: ManifestError if they are another encoder's, or of other precision.

    Several processes may begin at once.
    """
    if not (folder / "cache.json").exists():
        if folder.exists() and any(not name.startswith((".cache.json.", "cache.json")) for name in os.listdir(folder)):
            raise ManifestError(f"{folder}: exists and is no frame cache; choose another folder")
        note = {"format": FORMAT, "version": VERSION, "spec": spec.to_json(), "precision": precision}
        write_lines(folder / "cache.json", [json.dumps(note, indent=2)])
    noted, noted_precision = read_note(folder)
    if noted != spec:
        raise ManifestError(
            f"{folder}: holds frames of {noted.encoder} at {noted.frame_rate_hz:g} Hz, and this is {spec.encoder} at "
            f"{spec.frame_rate_hz:g} Hz; choose another folder"
        )
    if noted_precision != precision:
        raise ManifestError(f"{folder}: holds {noted_precision}, and {precision} is asked for; choose another folder")


def read_note(folder: Path) -> tuple[FeatureSpec, Precision]:
    """Returns whose frames the folder holds, and how precisely. Raises: ManifestError if it is no frame cache."""
    path = folder / "cache.json"
    if not path.exists():
        raise ManifestError(f"{path}: does not exist, so this is no frame cache; {REMEDY}")
    note = parse_json(path.read_bytes(), str(path))
    if not isinstance(note, dict) or (note.get("format"), note.get("version")) != (FORMAT, VERSION):
        raise ManifestError(f"{path}: is not of format {FORMAT!r}, version {VERSION}; make the cache again")
    return FeatureSpec.from_json(note["spec"]), note.get("precision", "float16")


def index_path(shard: Path) -> Path:
    """Returns where the index of a shard is."""
    return shard.with_suffix(".jsonl")


def read_header(index: Path) -> dict[str, Any]:
    """Returns the first line of an index."""
    with open(index, "rb") as file:
        header: dict[str, Any] = parse_json(file.readline(), f"{index}:1")
    return header


def read_index(folder: Path, *, known: Collection[Path] = ()) -> tuple[dict[Path, dict[Key, Place]], dict[Path, str]]:
    """Returns the clips of each shard that is whole, and the fault of each other, by index; not of those `known`."""
    places: dict[Path, dict[Key, Place]] = {}
    faults: dict[Path, str] = {}
    for index in sorted(folder.glob("frames-*.jsonl")):
        if index in known:
            continue
        try:
            places[index] = _read_clips(index)
        except ManifestError as error:
            faults[index] = str(error)
        except FileNotFoundError:  # another process has just removed it
            continue
    return places, faults


def remove_faulty(faults: Mapping[Path, str]) -> None:
    """Removes shards that are not whole: their clips are made again."""
    for index in faults:
        index.with_suffix(".safetensors").unlink(missing_ok=True)
        index.unlink(missing_ok=True)


def write_shard(path: Path, clips: Mapping[Key, Clip]) -> int:
    """Writes a shard, then its index; returns the bytes of both."""
    lines, start = [], 0
    for key, clip in clips.items():
        line = dict(zip(("path", "offset_s", "duration_s"), key, strict=True)) | {"size": clip.size}
        lines.append(json.dumps(line | {"start": start, "frames": len(clip.frames)}, ensure_ascii=False))
        start += len(clip.frames)
    temporary = path.with_name(f".{path.name}.tmp")
    save_file({"frames": torch.cat([clip.frames for clip in clips.values()])}, temporary)
    num_bytes = temporary.stat().st_size
    header = {"clips": len(lines), "frames": start, "bytes": num_bytes, "sha256": file_sha256(temporary)}
    os.replace(temporary, path)
    write_lines(index_path(path), [json.dumps(header), *lines])
    return num_bytes + index_path(path).stat().st_size


def _read_clips(index: Path) -> dict[Key, Place]:
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
        (clip["path"], clip["offset_s"], clip["duration_s"]): Place(
            shard.name, clip["start"], clip["frames"], clip["size"]
        )
        for clip in clips
    }

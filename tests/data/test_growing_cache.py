"""A cache that fills while it is used gives the same frames whenever, by whomever and however often it is asked."""

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from small_cache import SPEC, Ear, build, frames_of, manifest

from sonant.chat.messages import AudioPart
from sonant.data import growing_cache
from sonant.data.frame_cache import FrameCache
from sonant.data.frame_shards import Precision
from sonant.data.growing_cache import GrowingFrameCache
from sonant.data.manifest import Manifest
from sonant.errors import AudioError, ManifestError

NAMES = ["a.wav", "b.wav", "c.wav"]


def parts_of(root: Path, names: list[str] = NAMES) -> list[AudioPart]:
    return [part for row in Manifest(manifest(root, names)) for part in row.audio_parts]


def growing(root: Path, ear: Ear | None = None, **options: object) -> GrowingFrameCache:
    return GrowingFrameCache(root / "cache", SPEC, lambda: ear or Ear(), **options)  # type: ignore[arg-type]


def never() -> Ear:
    raise AssertionError("the encoder was loaded")


@pytest.mark.parametrize("precision", ["float16", "float32"])
def test_each_clip_is_encoded_once_and_is_the_same_before_and_after_it_is_written(
    tmp_path: Path, precision: Precision
) -> None:
    parts, ear = parts_of(tmp_path), Ear()
    cache = growing(tmp_path, ear, precision=precision)
    first = [cache(part) for part in parts]
    again = [cache(part) for part in parts]
    cache.flush()
    written = [cache(part) for part in parts]
    assert len(ear.heard) == cache.num_encoded == len(cache) == 3
    later = GrowingFrameCache(tmp_path / "cache", SPEC, never, precision=precision)  # another run: nothing to encode
    for part, *found in zip(parts, first, again, written, map(later, parts), strict=True):
        assert all(frames.dtype == torch.float32 and torch.equal(frames, found[0]) for frames in found)
        torch.testing.assert_close(found[0], frames_of(part), rtol=2**-11 if precision == "float16" else 0, atol=0)
        assert torch.equal(FrameCache(tmp_path / "cache")(part), found[0])


def test_it_goes_on_where_a_command_or_a_killed_run_has_stopped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parts = parts_of(tmp_path, [*NAMES, "d.wav", "e.wav"])
    build(manifest(tmp_path, NAMES, name="some"), out=tmp_path / "cache")  # shards of a, b and of c
    (tmp_path / "cache/.frames-0abc.safetensors.tmp").write_bytes(b"half a shard")
    (tmp_path / "cache/frames-0abc.safetensors").write_bytes(b"a shard without its index")
    hurt = tmp_path / "cache/frames-00001.safetensors"
    hurt.write_bytes(hurt.read_bytes()[:-1])
    ear = Ear()
    with caplog.at_level(logging.WARNING):
        cache = growing(tmp_path, ear)
    assert "is cut off" in caplog.text
    assert all(torch.equal(cache(part), frames_of(part).half().float()) for part in parts)
    assert sorted(Path(name).name for name in ear.heard) == ["c.wav", "d.wav", "e.wav"]
    cache.flush()
    assert build(tmp_path / "train.jsonl", out=tmp_path / "cache", ear=(after := Ear())).new_clips == 0
    assert not after.heard


def test_processes_that_share_a_folder_find_what_the_others_wrote(tmp_path: Path) -> None:
    parts, ears = parts_of(tmp_path), [Ear(), Ear()]
    one, other = (growing(tmp_path, ear) for ear in ears)
    one(parts[0])
    other(parts[1])
    one.flush()
    other.flush()
    assert [torch.equal(one(part), other(part)) for part in parts[:2]] == [True, True]
    assert [len(ear.heard) for ear in ears] == [1, 1]
    one(parts[2])  # both encode what neither has written: the frames are alike, and stand there twice
    other(parts[2])
    one.flush()
    other.flush()
    assert torch.equal(FrameCache(tmp_path / "cache")(parts[2]), one(parts[2]))


def test_threads_get_the_same_frames(tmp_path: Path) -> None:
    parts = parts_of(tmp_path) * 20
    cache = growing(tmp_path, shard_bytes=100)  # writes at every other call
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(cache, parts))
    assert all(torch.equal(f, frames_of(p).half().float()) for f, p in zip(found, parts, strict=True))
    cache.flush()
    assert len(FrameCache(tmp_path / "cache")) == len(cache) == 3


def test_shards_are_written_when_they_are_large_or_old_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def shards() -> int:
        return len(list((tmp_path / "cache").glob("frames-*.jsonl")))

    parts = parts_of(tmp_path, [*NAMES, "d.wav"])
    cache = growing(tmp_path, shard_bytes=2 * 10 * 4 * 2)
    counts = []
    for part in parts:
        cache(part)
        counts.append(shards())
    assert counts == [0, 1, 1, 2]
    now = time.monotonic()
    cache = growing(tmp_path)
    cache(AudioPart(str(tmp_path / "clips/a.wav"), duration_s=0.2))
    assert shards() == 2
    monkeypatch.setattr("sonant.data.growing_cache.time.monotonic", lambda: now + 60)
    cache(parts[0])
    assert shards() == 3


def test_a_clip_that_cannot_be_encoded_or_kept_is_an_error_of_its_row(tmp_path: Path) -> None:
    (part,) = parts_of(tmp_path, ["bad.wav"])
    with pytest.raises(AudioError, match="is noise"):
        growing(tmp_path)(part)
    cache = GrowingFrameCache(tmp_path / "cache", SPEC, lambda: lambda parts: [torch.full((2, 4), 1e6)])
    with pytest.raises(AudioError, match=r"bad.wav: its frames are no numbers that 16 bits can hold"):
        cache(part)


def test_a_full_disk_is_told_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, clips: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(growing_cache, "write_shard", full)
    parts, cache = parts_of(tmp_path), growing(tmp_path, shard_bytes=1)
    with caplog.at_level(logging.WARNING):
        assert all(torch.equal(cache(part), frames_of(part).half().float()) for part in parts)
    assert "frames cannot be written" in caplog.text
    assert len(cache) == 0


def test_another_encoder_or_precision_needs_another_folder(tmp_path: Path) -> None:
    parts_of(tmp_path)
    growing(tmp_path)
    with pytest.raises(ManifestError, match="holds float16, and float32 is asked for; choose another folder"):
        growing(tmp_path, precision="float32")
    with pytest.raises(ManifestError, match="exists and is no frame cache"):
        GrowingFrameCache(tmp_path / "clips", SPEC, never)

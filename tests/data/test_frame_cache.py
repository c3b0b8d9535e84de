"""A cache holds every clip once, survives kills and damage, and gives what the encoder gave."""

import json
import multiprocessing
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from small_cache import SPEC, Ear, Interrupted, Killed, build, frames_of, manifest
from torch import Tensor

from sonant.audio.features import FeatureSpec
from sonant.audio.io import save
from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.data.frame_cache import FrameCache, write_frame_cache
from sonant.data.manifest import Manifest, write
from sonant.errors import AudioError, ManifestError
from sonant.testing import tone


def parts_of(path: Path) -> list[AudioPart]:
    return [part for row in Manifest(path) for part in row.audio_parts]


NAMES = ["a.wav", "b.wav", "c.wav", "d.wav", "e.wav"]


def test_what_is_read_is_what_was_heard(tmp_path: Path) -> None:
    path = manifest(tmp_path, NAMES)
    report = build(path, out=tmp_path / "cache")
    cache = FrameCache(tmp_path / "cache")
    assert (report.clips, report.new_clips, report.frames, len(cache)) == (5, 5, 50, 5)
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 3
    for part in parts_of(path):
        found = cache(part)
        assert found.dtype == torch.float32
        assert torch.equal(found, frames_of(part).half().float())
    assert cache.spec == SPEC


def test_a_recording_in_many_rows_and_manifests_is_encoded_once(tmp_path: Path) -> None:
    ear = Ear()
    one = manifest(tmp_path, ["a.wav", "b.wav", "a.wav"])
    other = manifest(tmp_path, ["b.wav", "c.wav"], name="dev")
    report = build(one, other, out=tmp_path / "cache", ear=ear)
    assert sorted(Path(name).name for name in ear.heard) == ["a.wav", "b.wav", "c.wav"]
    assert (report.clips, report.new_clips) == (3, 3)


def test_a_later_call_adds_what_is_missing_and_keeps_the_rest(tmp_path: Path) -> None:
    build(manifest(tmp_path, ["a.wav", "b.wav"]), out=tmp_path / "cache")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    ear = Ear()
    both = manifest(tmp_path, ["b.wav", "c.wav"], name="dev")
    report = build(both, out=tmp_path / "cache", ear=ear)
    assert [Path(name).name for name in ear.heard] == ["c.wav"]
    assert (report.clips, report.new_clips) == (2, 1)
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    cache = FrameCache(tmp_path / "cache")
    assert all(part in cache for part in parts_of(both))


def test_segments_of_one_recording_are_told_apart_and_bytes_are_known_by_their_hash(tmp_path: Path) -> None:
    manifest(tmp_path, ["a.wav"])
    data = (tmp_path / "clips/a.wav").read_bytes()
    parts = [
        AudioPart("clips/a.wav", 0.0, 0.2),
        AudioPart("clips/a.wav", 0.2, 0.12),
        AudioPart("clips/a.wav", 0.2),
        AudioPart(data=data),
    ]
    write(tmp_path / "parts.jsonl", [Conversation((user(*parts), assistant("yes")))])
    build(tmp_path / "parts.jsonl", out=tmp_path / "cache")
    cache = FrameCache(tmp_path / "cache")
    assert [len(cache(part)) for part in parts_of(tmp_path / "parts.jsonl")] == [5, 3, 10, 10]
    with pytest.raises(
        AudioError, match=r"a.wav \(from 0.2 s, 0.15 s\): .*has no frames of it; run 'sonant data cache"
    ):
        cache(AudioPart(str(tmp_path / "clips/a.wav"), 0.2, 0.15))


def test_data_and_cache_are_moved_together(tmp_path: Path) -> None:
    build(manifest(tmp_path / "here", NAMES), out=tmp_path / "here/cache")
    (tmp_path / "here").rename(tmp_path / "there")
    cache = FrameCache(tmp_path / "there/cache")
    assert [len(cache(part)) for part in parts_of(tmp_path / "there/train.jsonl")] == [10] * 5


def test_audio_may_be_gone_but_not_replaced(tmp_path: Path) -> None:
    path = manifest(tmp_path, ["a.wav", "b.wav"])
    build(path, out=tmp_path / "cache")
    first, second = parts_of(path)
    (tmp_path / "clips/a.wav").unlink()
    save(tmp_path / "clips/b.wav", tone(0.5), sample_rate_hz=16_000)
    cache = FrameCache(tmp_path / "cache")
    assert len(cache(first)) == 10
    with pytest.raises(AudioError, match=r"b.wav: has 16044 bytes, and had 12844 when its frames were cached; remove"):
        cache(second)


def test_frames_of_another_encoder_do_not_mix_in(tmp_path: Path) -> None:
    path = manifest(tmp_path, ["a.wav"])
    build(path, out=tmp_path / "cache")
    other = FeatureSpec.encoded("ear-1", 4, 25.0)
    with pytest.raises(ManifestError, match=r"holds frames of ear-0 at 25 Hz, and this is ear-1 .*another folder"):
        write_frame_cache([path], tmp_path / "cache", encode=Ear(), spec=other)
    with pytest.raises(ManifestError, match="exists and is no frame cache; choose another folder"):
        write_frame_cache([path], tmp_path / "clips", encode=Ear(), spec=SPEC)
    with pytest.raises(ManifestError, match="does not exist, so this is no frame cache; run 'sonant data cache"):
        FrameCache(tmp_path)


def test_a_bad_clip_is_left_out_and_told_and_does_not_take_its_batch_along(tmp_path: Path) -> None:
    path = manifest(tmp_path, ["a.wav", "bad.wav", "c.wav"])
    report = build(path, out=tmp_path / "cache", shard_clips=5)
    assert (report.new_clips, len(report.left_out)) == (2, 1)
    assert "is noise" in next(iter(report.left_out.values()))
    assert [part in FrameCache(tmp_path / "cache") for part in parts_of(path)] == [True, False, True]


def test_numbers_that_16_bits_cannot_hold_are_left_out(tmp_path: Path) -> None:
    path = manifest(tmp_path, ["a.wav"])
    report = write_frame_cache([path], tmp_path / "cache", encode=lambda parts: [torch.full((2, 4), 1e6)], spec=SPEC)
    assert "no numbers that 16 bits can hold" in next(iter(report.left_out.values()))


DAMAGES = {
    "frames cut off": ("safetensors", lambda data: data[:-3], r"safetensors: is cut off"),
    "index cut off": ("jsonl", lambda data: data[:-30], r"jsonl:3: not JSON"),
    "index cut off at a line": ("jsonl", lambda data: data.rsplit(b"\n", 2)[0], r"jsonl: is cut off \(1 of 2 clips\)"),
    "index empty": ("jsonl", lambda data: b"", r"jsonl:1: not JSON"),
    "frames missing": ("safetensors", None, r"safetensors: is missing"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_named_with_a_remedy_and_made_again(tmp_path: Path, damage: str) -> None:
    path = manifest(tmp_path, NAMES)
    build(path, out=tmp_path / "cache")
    suffix, spoil, message = DAMAGES[damage]
    hurt = tmp_path / f"cache/frames-00000.{suffix}"
    if spoil is None:
        hurt.unlink()
    else:
        hurt.write_bytes(spoil(hurt.read_bytes()))
    with pytest.raises(ManifestError, match=message + r".*; run 'sonant data cache-features'.* made again"):
        FrameCache(tmp_path / "cache")
    report = build(path, out=tmp_path / "cache")
    assert (report.new_clips, len(report.mended)) == (2, 1)
    cache = FrameCache(tmp_path / "cache")
    assert all(torch.equal(cache(part), frames_of(part).half().float()) for part in parts_of(path))


def test_a_flipped_bit_is_noticed_at_first_use(tmp_path: Path) -> None:
    path = manifest(tmp_path, NAMES)
    build(path, out=tmp_path / "cache")
    hurt = tmp_path / "cache/frames-00001.safetensors"
    data = bytearray(hurt.read_bytes())
    data[-1] ^= 1
    hurt.write_bytes(data)
    cache, parts = FrameCache(tmp_path / "cache"), parts_of(path)
    assert len(cache(parts[0])) == 10  # another shard
    with pytest.raises(AudioError, match=r"frames-00001.safetensors: is damaged .* remove it, then run 'sonant data"):
        cache(parts[2])
    assert len(FrameCache(tmp_path / "cache", verify=False)(parts[2])) == 10
    hurt.unlink()
    build(path, out=tmp_path / "cache")
    assert len(FrameCache(tmp_path / "cache")(parts[2])) == 10


def assert_only_the_second_shard_is_made(path: Path, cache: Path) -> None:
    ear = Ear()
    build(path, out=cache, ear=ear)
    assert [Path(name).name for name in ear.heard] == ["c.wav", "d.wav", "e.wav"]
    whole = FrameCache(cache)
    assert all(torch.equal(whole(part), frames_of(part).half().float()) for part in parts_of(path))
    assert not list(cache.glob(".*"))


def test_after_an_interruption_only_the_shard_in_the_making_is_made_again(tmp_path: Path) -> None:
    path, cache = manifest(tmp_path, NAMES), tmp_path / "cache"
    with pytest.raises(KeyboardInterrupt):
        build(path, out=cache, ear=Interrupted())
    (cache / ".frames-00001.safetensors.tmp").write_bytes(b"half a shard")  # as if while writing
    shutil.copy(cache / "frames-00000.safetensors", cache / "frames-00001.safetensors")  # or just before its index
    assert_only_the_second_shard_is_made(path, cache)


@pytest.mark.recipe  # starts a process
def test_after_kill_9_only_the_shard_in_the_making_is_made_again(tmp_path: Path) -> None:
    path, cache = manifest(tmp_path, NAMES), tmp_path / "cache"
    process = multiprocessing.get_context("spawn").Process(
        target=build, args=(path,), kwargs={"out": cache, "ear": Killed()}
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert_only_the_second_shard_is_made(path, cache)


def test_the_index_is_readable_lines_of_json(tmp_path: Path) -> None:
    build(manifest(tmp_path, ["a.wav", "b.wav"]), out=tmp_path / "cache")
    header, first, second = map(json.loads, (tmp_path / "cache/frames-00000.jsonl").read_text().splitlines())
    assert (header["clips"], header["frames"]) == (2, 20)
    assert first == {
        "path": "../clips/a.wav",
        "offset_s": 0,
        "duration_s": None,
        "size": 12844,
        "start": 0,
        "frames": 10,
    }
    assert second["start"] == 10


def test_what_assistants_say_is_not_encoded(tmp_path: Path) -> None:
    manifest(tmp_path, ["a.wav", "b.wav"])
    spoken = Conversation((user(AudioPart("clips/a.wav")), assistant("yes", AudioPart("clips/b.wav"))))
    write(tmp_path / "spoken.jsonl", [spoken])
    assert build(tmp_path / "spoken.jsonl", out=tmp_path / "cache", ear=(ear := Ear())).clips == 1
    assert [Path(name).name for name in ear.heard] == ["a.wav"]


def test_clips_of_like_length_are_encoded_together(tmp_path: Path) -> None:
    batches: list[list[float]] = []

    def encode(parts: Sequence[AudioPart]) -> list[Tensor]:
        batches.append([part.duration_s or 0 for part in parts])
        return [frames_of(part) for part in parts]

    manifest(tmp_path, ["a.wav"])
    lengths = [0.08, 0.4, 0.12, 0.36, 0.04, 0.2]
    rows = [Conversation((user(AudioPart("clips/a.wav", duration_s=s)), assistant("yes"))) for s in lengths]
    write(tmp_path / "lengths.jsonl", rows)
    write_frame_cache(
        [tmp_path / "lengths.jsonl"], tmp_path / "cache", encode=encode, spec=SPEC, batch_s=0.5, workers=1
    )
    assert batches == [[0.04, 0.08, 0.12], [0.2], [0.36], [0.4]]

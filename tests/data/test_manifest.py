import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.data import manifest as module
from sonant.data.manifest import Manifest, clip_duration_s, line_offsets, write, write_lines
from sonant.errors import ManifestError


def conversation(number: int) -> Conversation:
    return Conversation((user(AudioPart(f"clips/{number}.wav")), assistant(f"answer {number} ü")), id=f"row-{number}")


def test_rows_read_back_equal_with_paths_at_the_manifest(tmp_path: Path) -> None:
    assert write(tmp_path / "m.jsonl", map(conversation, range(5))) == 5
    manifest = Manifest(tmp_path / "m.jsonl")
    assert len(manifest) == 5
    assert manifest[3] == conversation(3).with_root(tmp_path)
    assert manifest[-1].id == "row-4"
    assert [row.id for row in manifest] == [f"row-{i}" for i in range(5)]
    assert manifest.place(3) == f"{tmp_path / 'm.jsonl'}:4"
    with pytest.raises(IndexError):
        manifest[5]


def test_written_paths_below_the_manifest_become_relative_and_unknown_keys_stay(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": [{"type": "audio", "path": "a.wav", "snr_db": 3}]}], "origin": "x"}
    kept = Conversation.from_json(row)
    outside = Conversation((user(AudioPart("/elsewhere/b.wav")),))
    write(tmp_path / "m.jsonl", [kept.with_root(tmp_path), outside])
    lines = (tmp_path / "m.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0]) == row
    assert "/elsewhere/b.wav" in lines[1]


def test_rows_of_a_manifest_named_relatively_keep_their_clips_in_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # They were written as train/a.wav below runs/sqa, where no recording is.
    monkeypatch.chdir(tmp_path)
    write("train/rows.jsonl", [Conversation((user(AudioPart("a.wav")), assistant("ok")))])
    write("runs/sqa/rows.jsonl", Manifest("train/rows.jsonl"))
    assert '"path": "../../train/a.wav"' in Path("runs/sqa/rows.jsonl").read_text()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "not JSON"),
        (b'{"messages": [], "x": NaN}', "NaN is no JSON value"),
        (b"\xff\xfe", "byte 1 is not UTF-8"),
        (b"[1]", "allowed is an object"),
        (b'{"id": "a"}', "messages: is missing"),
        (b'{"messages": [{"role": "robot", "content": "x"}]}', "role: is 'robot'"),
        (b'{"messages": [{"role": "user", "content": 3}]}', "content: is int 3"),
        (b"   ", "not JSON"),
        (
            b'{"messages": [{"role": "user", "content": [{"type": "audio", "path": "a", "duration_s": 1'
            + b"0" * 400
            + b"}]}]}",
            "duration_s: has 401 digits",
        ),
        (b'{"messages": [{"role": "user", "content": "\\uD800"}]}', "half of a surrogate pair"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_bad_row_is_refused_with_file_and_line(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"messages": [{"role": "user", "content": "fine"}]}\r\n' + line + b"\n")
    manifest = Manifest(path)
    assert manifest[0].messages[0].text == "fine"
    with pytest.raises(ManifestError) as caught:
        manifest[1]
    assert str(caught.value).startswith(f"{path}:2: ")
    assert message in str(caught.value)


def test_files_without_rows_or_with_empty_lines_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    with pytest.raises(ManifestError, match=r"cannot read this manifest \(No such file"):
        Manifest(path)
    path.write_text("")
    with pytest.raises(ManifestError, match="holds no rows"):
        Manifest(path)
    path.write_text('{"messages": []}\n\n{"messages": []}\n')
    with pytest.raises(ManifestError, match=r"m\.jsonl:2: empty line; delete it"):
        Manifest(path)


@pytest.mark.parametrize("block", [3, 1 << 20])
def test_the_hash_of_some_rows_is_that_of_their_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"one\ntwo\nthree")
    manifest = Manifest(tmp_path / "a.jsonl")
    monkeypatch.setattr(module, "BLOCK_BYTES", block)
    for first, end in ((0, 3), (1, 3), (1, 2), (2, 2)):
        assert manifest.digest(first, end) == hashlib.sha256(manifest.raw_rows(first, end)).digest()


def test_line_offsets_do_not_depend_on_blocks_or_a_last_newline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"ab\nc\n\nlong line")
    (tmp_path / "b").write_bytes(b"ab\nc\n\nlong line\n")
    for block in (1, 2, 3, 5, 1000):
        monkeypatch.setattr(module, "BLOCK_BYTES", block)
        assert line_offsets(tmp_path / "a").tolist() == [0, 3, 5, 6, 15]
        assert line_offsets(tmp_path / "b").tolist() == [0, 3, 5, 6, 16]


def test_a_write_that_fails_leaves_the_old_manifest_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text("old")

    def lines() -> Iterator[str]:
        yield "new"
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_lines(path, lines())
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["m.jsonl"]
    with pytest.raises(ManifestError, match="cannot be written"):
        write_lines(tmp_path / "m.jsonl" / "below.jsonl", ["x"])


def test_threads_read_rows_side_by_side(tmp_path: Path) -> None:
    write(tmp_path / "m.jsonl", map(conversation, range(200)))
    manifest = Manifest(tmp_path / "m.jsonl")
    with ThreadPoolExecutor(4) as pool:
        assert [row.id for row in pool.map(lambda i: manifest[i], range(200))] == [f"row-{i}" for i in range(200)]


def test_the_length_of_a_clip_is_as_written_or_that_of_its_file(tmp_path: Path) -> None:
    assert clip_duration_s(AudioPart("none.wav", duration_s=2.5)) == 2.5
    assert clip_duration_s(AudioPart("none.wav")) is None


def test_a_manifest_in_a_linked_folder_finds_its_recordings(tmp_path: Path) -> None:
    """`..` leads out of the folder that a symbolic link points to, not of the one that holds the link."""
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "linked").symlink_to(tmp_path / "far" / "away")
    recording = tmp_path / "a.wav"
    recording.write_bytes(b"")
    path = tmp_path / "linked" / "m.jsonl"
    write(path, [Conversation((user(AudioPart(str(recording))), assistant("blue")), id="1")])
    assert os.path.samefile(Manifest(path)[0].audio_parts[0].name, recording)


def test_a_number_that_nobody_could_read_again_is_not_written(tmp_path: Path) -> None:
    # 1e999 is JSON, is read as infinity, and was written as Infinity, which is none.
    (tmp_path / "a.jsonl").write_text('{"id": "r1", "messages": [{"role": "user", "content": "x"}], "score": 1e999}\n')
    with pytest.raises(ManifestError, match="row 'r1': holds NaN or an infinite number"):
        write(tmp_path / "b.jsonl", Manifest(tmp_path / "a.jsonl"))
    assert not (tmp_path / "b.jsonl").exists()

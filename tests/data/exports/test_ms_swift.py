import json
from pathlib import Path

import numpy as np

from sonant.audio.io import load
from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.data.exports import ms_swift
from sonant.data.importer import import_corpus
from sonant.data.manifest import Manifest, write


def test_clips_become_tags_and_parts_of_recordings_files_of_their_own(recordings: Path, tmp_path: Path) -> None:
    whole, part = AudioPart(str(recordings / "a.wav")), AudioPart(str(recordings / "b.flac"), 0.25, 0.5)
    rows = [
        Conversation((user("Compare ", whole, " and ", part), assistant("no")), id="1", task="compare"),
        Conversation((user("text\n"), assistant("only")), id="2"),
        Conversation((user("What is <image>?"), assistant("a tag")), id="3"),
        Conversation((user("<aud", whole, "io>"), assistant("no tag")), id="4"),
        Conversation((user("<aud", "io>"), assistant("a tag after all")), id="5"),
    ]
    write(tmp_path / "m.jsonl", rows)
    report = ms_swift.write(Manifest(tmp_path / "m.jsonl"), tmp_path / "out")
    assert (report.rows, report.dropped) == (3, {"text holds a tag": 2})
    one, two, four = (json.loads(line) for line in (tmp_path / "out" / "data.jsonl").read_text().splitlines())
    assert one["messages"] == [
        {"role": "user", "content": "Compare <audio> and <audio>"},
        {"role": "assistant", "content": "no"},
    ]
    assert (one["id"], one["task"], "language" in one) == ("1", "compare", False)
    assert (one["audios"][0], Path(one["audios"][1]).parent) == (whole.path, tmp_path / "out" / "clips")
    expected = load(recordings / "b.flac", offset_s=0.25, duration_s=0.5)
    np.testing.assert_array_equal(load(one["audios"][1]), expected)
    assert ("audios" in two, two["messages"][0]["content"]) == (False, "text\n")
    assert four["messages"][0]["content"] == "<aud<audio>io>"


def test_what_an_answer_sounds_like_is_no_input_and_comes_back(recordings: Path, tmp_path: Path) -> None:
    heard, said = AudioPart(str(recordings / "a.wav")), AudioPart(str(recordings / "b.flac"), 0.25, 0.5)
    row = Conversation((user(heard, "?"), assistant("a tone", said)), id="1")
    write(tmp_path / "m.jsonl", [row])
    ms_swift.write(Manifest(tmp_path / "m.jsonl"), tmp_path / "out")
    (line,) = map(json.loads, (tmp_path / "out" / "data.jsonl").read_text().splitlines())
    assert [message["content"] for message in line["messages"]] == ["<audio>?", "a tone"]
    assert line["audios"] == [heard.path]
    import_corpus("ms-swift", tmp_path / "out", tmp_path / "again.jsonl")
    assert list(Manifest(tmp_path / "again.jsonl")) == list(Manifest(tmp_path / "m.jsonl"))

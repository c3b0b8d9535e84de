import json
from pathlib import Path

import numpy as np
import pytest

from sonant.audio.io import save
from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.data.manifest import Manifest, write
from sonant.data.stats import stats


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    save(tmp_path / "a.wav", np.zeros(24_000, np.float32), sample_rate_hz=16_000)
    clip = AudioPart("a.wav")
    rows = [
        Conversation((user(clip), assistant("two words")), task="asr", language="en", speaker="anna"),
        Conversation((user(AudioPart("x.wav", duration_s=4.5), clip), assistant("one")), task="asr", language="de"),
        Conversation((user("q"), assistant("a b"), user("q"), assistant("c")), task="chat"),
        Conversation((user(AudioPart("missing.wav")), assistant("d"))),
    ]
    write(tmp_path / "m.jsonl", rows)
    return Manifest(tmp_path / "m.jsonl")


def test_rows_hours_and_words_are_counted_by_label(manifest: Manifest) -> None:
    found = stats([manifest], text_tokens=lambda c: len(c.messages))
    assert (found.total.rows, found.total.clips, found.turns, found.tokens) == (4, 4, 5, 10)
    assert found.total.duration_s == pytest.approx(1.5 + 4.5 + 1.5)
    assert found.text_only_share == 0.25
    assert found.unreadable_clips == 1
    assert found.by["task"]["asr"].words == 3
    assert found.table("task") == [
        ("asr", "2", "3", "0.00", "3"),
        ("-", "1", "1", "0.00", "1"),
        ("chat", "1", "0", "0.00", "3"),
    ]
    assert found.by["speaker"]["anna"].rows == 1


def test_durations_are_described_by_percentiles_and_a_histogram(manifest: Manifest) -> None:
    found = stats([manifest])
    assert found.duration_percentiles_s["50"] == pytest.approx(1.5)
    assert found.duration_percentiles_s["100"] == pytest.approx(4.5)
    assert found.duration_histogram == {"0-1 s": 1, "1-2 s": 2, "2-5 s": 1}
    assert json.loads(json.dumps(found.to_json()))["total"]["rows"] == 4
    assert found.tokens is None


def test_text_alone_has_no_durations(tmp_path: Path) -> None:
    write(tmp_path / "t.jsonl", [Conversation((user("q"), assistant("a")))])
    found = stats([Manifest(tmp_path / "t.jsonl")])
    assert (found.duration_percentiles_s, found.text_only_share) == ({}, 1.0)

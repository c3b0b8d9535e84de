"""Pairs of clips: who they are of, and that a second run writes the same."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sonant.data.manifest import Manifest
from sonant.errors import SynthesisError
from sonant.synth.tts import SpeechRequest, clip_path
from sonant.synth.world import voice_pairs
from sonant.synth.world.speakers import speakers
from sonant.synth.world.voice_pairs import write_pairs


@pytest.fixture
def unspoken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips are named, not spoken."""

    def named(engine: Any, requests: Sequence[SpeechRequest], *, folder: Path) -> list[Path]:
        return [clip_path(folder, engine.name, request) for request in requests]

    monkeypatch.setattr(voice_pairs, "speak", named)


@pytest.mark.usefixtures("unspoken")
def test_pairs_are_one_speaker_or_two_that_differ_saying_other_words(tmp_path: Path) -> None:
    path = write_pairs(tmp_path, "dev", num_clips=400, num_pairs=80)
    rows = list(Manifest(path))
    people = {speaker.voice: speaker for speaker in speakers("dev")}
    assert [row.reference for row in rows] == ["yes", "no"] * 40
    assert {row.task for row in rows} == {"verification", "verification_manners"}
    for row in rows:
        first, second = (people[voice] for voice in row.extra["speakers"])
        assert (first == second) if row.reference == "yes" else first.differs(second)
        assert row.extra["throats"] == [first.throat, second.throat]
        assert (len(set(row.extra["manners"])) == 1) == (row.task == "verification")
        said = {part.transcript for part in row.audio_parts}
        assert len(said) == 2
        assert all(3 <= len(str(text).split()) <= 8 for text in said)
    text = path.read_text()
    assert write_pairs(tmp_path, "dev", num_clips=400, num_pairs=80).read_text() == text


@pytest.mark.usefixtures("unspoken")
def test_too_few_clips_for_a_pair_of_one_speaker_in_one_manner_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SynthesisError, match="at least 384"):
        write_pairs(tmp_path, "dev", num_clips=383, num_pairs=10)

"""Clips in all manners: what is said, by whom, and that a second run makes the same."""

import re
from pathlib import Path
from typing import Literal

import pytest
from engines import Hum, errors_in

from sonant.audio.io import info
from sonant.data.manifest import Manifest
from sonant.synth.tts import SpeechRequest
from sonant.synth.world import scenes
from sonant.synth.world.manners import write_manners
from sonant.synth.world.speakers import SHAPES, speakers
from sonant.synth.world.text import in_split, speech_texts

NUM = 300


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[SpeechRequest]:
    """What would have been spoken: nothing is."""
    requests: list[SpeechRequest] = []

    def noted(recorder: scenes.Recorder) -> int:
        requests.extend(recorder.requests)
        return len(requests)

    monkeypatch.setattr(scenes.Recorder, "record", noted)
    return requests


def test_transcripts_say_what_was_spoken_orders_beginnings_and_joins_included(tmp_path: Path) -> None:
    rows = list(Manifest(write_manners(tmp_path, "dev", NUM, Hum())))
    assert len({row.id for row in rows}) == len(rows) == NUM
    ordered, joined = 0, 0
    for before, row in zip([None, *rows], rows, strict=False):
        (part,) = row.audio_parts
        assert row.reference == part.transcript
        ordered += row.reference.startswith((*scenes.SAY_AGAIN, *scenes.SAY_GERMAN))
        assert part.path is not None
        if info(part.path).duration_s > 0.1:  # a hum, a pause of 0.2 s or more, a hum
            joined += 1
            assert before is not None
            assert info(part.path).duration_s >= 0.4
            assert row.reference.split()[0] in before.reference.split()
    assert 0.1 * NUM < ordered < 0.3 * NUM
    assert 0.1 * NUM < joined < 0.3 * NUM
    assert not errors_in(tmp_path)


def test_every_speaker_of_the_split_is_heard_and_some_are_slow_or_excited(
    tmp_path: Path, asked: list[SpeechRequest]
) -> None:
    write_manners(tmp_path, "train", 4000, Hum())
    assert {request.voice for request in asked} == {speaker.voice for speaker in speakers("train")}
    rates = [request.rate for request in asked]
    assert min(rates) < 0.7 * max(shape.rate for shape in SHAPES.values())
    assert max(rates) > 1.4


def test_a_second_run_speaks_nothing_and_writes_the_same(tmp_path: Path) -> None:
    engine = Hum()
    first = write_manners(tmp_path, "dev", 40, engine).read_text()
    spoken = engine.num_clips
    assert write_manners(tmp_path, "dev", 40, engine).read_text() == first
    assert engine.num_clips == spoken


@pytest.mark.parametrize("split", ["train", "dev"])
def test_what_is_left_of_a_sentence_that_breaks_off_belongs_to_its_split(
    split: Literal["train", "dev"], tmp_path: Path, asked: list[SpeechRequest]
) -> None:
    """Four texts of WavLLM's test, "rosa is a" among them, were beginnings of training sentences once."""
    write_manners(tmp_path, split, 2000, Hum())
    orders = re.compile(f"^({'|'.join((*scenes.SAY_AGAIN, *scenes.SAY_GERMAN))}) ")
    texts = [orders.sub("", request.text) for request in asked]
    assert len(texts) == 2000
    assert [text for text in texts if not in_split(text, split)] == []
    whole = set(speech_texts(split, 2000, seed=99))
    assert 20 < sum(text not in whole for text in texts) < 300

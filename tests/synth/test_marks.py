import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from engines import Hum

from sonant.audio.io import load
from sonant.errors import EngineError, SynthesisError
from sonant.synth.marks import Marks, WordEvent, word_marks
from sonant.synth.tts import SpeechRequest, load_synthesizer, marks_of, marks_path, speak


def events(*places_and_starts: tuple[int, float]) -> list[WordEvent]:
    return [WordEvent(place, start_s) for place, start_s in places_and_starts]


def test_every_word_takes_the_event_that_points_at_it() -> None:
    assert word_marks("the cat", events((0, 0.0), (4, 0.2))) == (("the", 0.0), ("cat", 0.2))
    assert word_marks('"the" cat.', events((1, 0.0), (5, 0.2))) == (('"the"', 0.0), ("cat.", 0.2))  # 5: the space


def test_words_said_as_one_are_parted_at_a_phoneme_by_their_letters() -> None:
    # "in the barn" as espeak 1.51 tells it: I n D @2, b 'A@ n. 2 of 5 letters are 1.6 of 4 phonemes.
    told = [WordEvent(0, 0.683, (0.683, 0.736, 0.794, 0.841)), WordEvent(7, 0.886, (0.886, 0.991, 1.27))]
    assert word_marks("in the barn", told) == (("in", 0.683), ("the", 0.794), ("barn", 0.886))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("at 42", events((0, 0.0), (3, 0.2), (4, 0.5))),  # "forty" "two": not what is written
        ("this & that", events((0, 0.0), (5, 0.2), (7, 0.5))),  # "and"
        ("the cat", events((4, 0.2))),  # nobody says "the"
        ("the cat", events((0, 0.0))),  # nobody says "cat"
        ("the cat", events((0, 0.3), (4, 0.2))),
        ("", []),
    ],
)
def test_where_what_is_said_is_not_what_is_written_there_are_no_marks(text: str, told: Sequence[WordEvent]) -> None:
    assert word_marks(text, told) is None


def spoken(folder: Path, text: str, voice: str = "en-us") -> tuple[Path, Marks | None]:
    pytest.importorskip("espeakng_loader")
    (clip,) = speak(load_synthesizer("espeak"), [SpeechRequest(text, voice)], folder=folder, marks=True)
    return clip, marks_of(clip)


def test_espeak_tells_when_each_word_begins(tmp_path: Path) -> None:
    clip, marks = spoken(tmp_path, "stop, the bear lives in the barn")
    assert marks is not None
    assert [word for word, _ in marks] == ["stop,", "the", "bear", "lives", "in", "the", "barn"]
    starts = [start_s for _, start_s in marks]
    assert starts == sorted(set(starts))
    # Independently: the comma's pause ends where "the" begins.
    loud = np.abs(load(clip)) > 0.01
    (gap,) = (pair for pair in zip(np.flatnonzero(loud), np.flatnonzero(loud)[1:], strict=False) if np.ptp(pair) > 1600)
    assert gap[1] / 16_000 == pytest.approx(starts[1], abs=0.03)


def test_marks_of_letters_beyond_ascii_count_letters_not_bytes(tmp_path: Path) -> None:
    _, marks = spoken(tmp_path, "der bär lebt über dem haus", "de")
    assert marks is not None
    assert [word for word, _ in marks] == ["der", "bär", "lebt", "über", "dem", "haus"]


def test_espeak_has_no_marks_for_numbers_but_a_clip(tmp_path: Path) -> None:
    clip, marks = spoken(tmp_path, "there are 123 cats")
    assert marks is None
    assert clip.exists()
    assert marks_path(clip).read_text() == "null"


def test_marks_change_neither_the_name_nor_the_bytes_of_a_clip(tmp_path: Path) -> None:
    engine, request = load_synthesizer("espeak"), SpeechRequest("the red cat sleeps", "en+f3", 1.1, 0.8)
    (plain,) = speak(engine, [request], folder=tmp_path / "plain")
    (marked,) = speak(engine, [request], folder=tmp_path / "marked", marks=True)
    assert plain.name == marked.name
    assert plain.read_bytes() == marked.read_bytes()
    assert [path.name for path in plain.parent.iterdir()] == [plain.name]
    with pytest.raises(SynthesisError, match="without word marks"):
        marks_of(plain)
    speak(engine, [request], folder=tmp_path / "plain", marks=True)  # spoken again for its marks
    assert marks_of(plain) == marks_of(marked) == tuple(map(tuple, json.loads(marks_path(marked).read_text())))


def test_an_engine_that_cannot_tell_words_is_refused_with_another_way(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="sonant data mark-words"):
        speak(Hum(), [SpeechRequest("one", "v")], folder=tmp_path, marks=True)  # type: ignore[arg-type]

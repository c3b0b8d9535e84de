"""Measures of spoken answers, by hand: listeners and voices that hear what they are told."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sonant.audio.io import save
from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.evaluate.metrics.text import EXACT
from sonant.evaluate.speech.listeners import Listener
from sonant.evaluate.speech.measure import BySpeech, SpeechTest, Truth, measure, truth_of
from sonant.evaluate.speech.spoken import Said
from sonant.evaluate.tasks import Task

HOW = Task((EXACT,))


class Hears:
    """Writes down what files are called: "the_bear-2.wav" says "the bear"."""

    def transcribe(self, clips: Sequence[AudioPart], *, progress: Any = None) -> list[str]:
        return [Path(str(clip.path)).stem.partition("-")[0].replace("_", " ") for clip in clips]


def rms_tone(duration_s: float, frequency_hz: float = 300.0) -> NDArray[np.float32]:
    time_s = np.arange(round(16_000 * duration_s)) / 16_000
    return (0.3 * np.sin(2 * np.pi * frequency_hz * time_s) * (1 + np.sin(40 * time_s)) / 2).astype(np.float32)


def clip(folder: Path, name: str, duration_s: float = 1.0, frequency_hz: float = 300.0) -> AudioPart:
    path = folder / f"{name}.wav"
    save(path, rms_tone(duration_s, frequency_hz), sample_rate_hz=16_000)
    return AudioPart(str(path), transcript=name.partition("-")[0].replace("_", " "))


def row(question: AudioPart, answer: AudioPart, *, speaker: str = "ann") -> Conversation:
    return Conversation((user(question), assistant(str(answer.transcript), answer)), id="1", speaker=speaker)


def said(folder: Path, name: str, text: str = "", *, duration_s: float = 1.0, finished: bool = True) -> Said:
    heard = clip(folder, f"{name}-said", duration_s)
    return Said(heard.path, text, text, True, finished, duration_s, seconds=0.5, streamed_s=0.25, first_sound_s=0.1)


def values(scores: BySpeech, metric: str, by: str = "") -> dict[str, tuple[float, int]]:
    return {arm: (round(score.value, 3), score.n) for arm, score in scores[metric][by].items()}


TEST = SpeechTest((Listener("ears", Hears(), {"version": 1}),))


def test_what_is_heard_is_held_to_the_right_text_to_the_written_one_and_to_real_speech(tmp_path: Path) -> None:
    """Three rows of two words: heard as written and right; written wrongly and heard so; written rightly, misheard."""
    question = clip(tmp_path, "who")
    rows = [row(question, clip(tmp_path, "a_bear")) for _ in range(3)]
    spoken = [
        said(tmp_path, "a_bear", "a bear"), said(tmp_path, "a_goat", "a goat"), said(tmp_path, "a_boar", "a bear"),
    ]  # fmt: skip
    marks = measure(rows, spoken, HOW, TEST)
    third = round(100 * 2 / 6, 3)
    assert values(marks.scores, "wer", "ears") == {
        "spoken": (third, 3), "real": (0.0, 3), "spoken minus real": (third, 3),
    }  # fmt: skip
    assert values(marks.scores, "wer_of_written", "ears")["spoken"] == (round(100 / 6, 3), 3)
    assert values(marks.scores, "agreement", "ears")["spoken"] == (66.667, 3)
    assert values(marks.scores, "exact_match", "ears") == {
        "spoken": (33.333, 3), "written": (66.667, 3), "spoken minus written": (-33.333, 3),
    }  # fmt: skip
    assert marks.pins["listeners"] == {"ears": {"version": 1}}
    assert marks.item(1, tmp_path)["heard"] == {"ears": "a goat"}
    assert marks.item(1, tmp_path)["path"] == "a_goat-said.wav"


def test_length_and_distance_are_of_the_same_words_only(tmp_path: Path) -> None:
    rows = [row(clip(tmp_path, "who"), clip(tmp_path, "a_bear")) for _ in range(2)]
    spoken = [said(tmp_path, "a_bear", "A bear.", duration_s=1.0), said(tmp_path, "a_goat", "a goat", duration_s=3.0)]
    scores = measure(rows, spoken, HOW, TEST).scores
    assert values(scores, "length_ratio") == {"spoken": (1.0, 1)}
    assert values(scores, "log_mel_dtw") == {"spoken": (0.0, 1)}
    assert values(scores, "movement_ratio")["spoken"][1] == 2


@pytest.mark.parametrize(
    ("text", "duration_s", "finished", "stops"),
    [
        ("a bear", 1.4, True, 100),  # the real recording lasts 1 s
        ("a bear", 1.6, True, 0),
        ("a bear", 0.4, True, 0),
        ("a bear", 1.0, False, 0),  # cut off
        ("a bear a bear", 2.2, True, 100),  # 13 letters instead of 6: 2.17 s
    ],
)
def test_a_voice_stops_within_half_a_second_of_where_it_should(
    tmp_path: Path, text: str, duration_s: float, finished: bool, stops: float
) -> None:
    rows = [row(clip(tmp_path, "who"), clip(tmp_path, "a_bear"))]
    spoken = [said(tmp_path, "a_bear", text, duration_s=duration_s, finished=finished)]
    scores = measure(rows, spoken, HOW, TEST).scores
    assert values(scores, "stop") == {"spoken": (stops, 1)}
    assert values(scores, "cut_off")["spoken"][0] == 100 * (not finished)
    assert values(scores, "real_time_factor")["alone"][0] == round(0.25 / duration_s, 3)
    assert values(scores, "first_sound_s") == {"alone": (0.1, 1)}


def test_an_answer_without_sound_is_counted_and_heard_as_nothing(tmp_path: Path) -> None:
    rows = [row(clip(tmp_path, "who"), clip(tmp_path, "a_bear"))]
    silent = Said(None, "", "", True, True, 0.0, seconds=0.5)
    scores = measure(rows, [silent], HOW, TEST).scores
    assert values(scores, "silent") == {"spoken": (100.0, 1)}
    assert values(scores, "wer", "ears")["spoken"] == (100.0, 1)
    assert "movement_ratio" not in scores
    assert "spoken" not in scores["movement"][""]


def test_without_real_speech_there_is_no_ratio_but_movement_stays(tmp_path: Path) -> None:
    asked = Conversation((user(clip(tmp_path, "who")), assistant("a bear")), id="1")
    scores = measure([asked], [said(tmp_path, "a_bear", "a bear")], HOW, TEST).scores
    assert values(scores, "wer", "ears") == {"spoken": (0.0, 1)}
    assert scores["movement"][""].keys() == {"spoken", "prompt"}
    assert "movement_ratio" not in scores
    assert "stop" not in scores


def test_a_continuation_whose_words_are_not_known_is_not_held_to_a_text(tmp_path: Path) -> None:
    asked = Conversation((user(clip(tmp_path, "who")), assistant("who is it")), id="1")
    truths = [Truth(clip(tmp_path, "is_it"), None)]
    scores = measure([asked], [said(tmp_path, "is_he", "is he")], HOW, TEST, truths=truths).scores
    assert "wer" not in scores
    assert "exact_match" not in scores
    assert values(scores, "wer_of_written", "ears") == {"spoken": (0.0, 1)}
    assert "movement_ratio" in scores


def test_only_the_spoken_end_of_an_answer_is_what_speech_is_held_to(tmp_path: Path) -> None:
    whole = Conversation((user(clip(tmp_path, "who")), assistant("who it is", clip(tmp_path, "it_is"))), id="1")
    assert truth_of(whole).text == "it is"
    marks = measure([whole], [said(tmp_path, "it_is", "it is")], HOW, TEST)
    assert values(marks.scores, "exact_match", "ears")["spoken"] == (100.0, 1)


class Pitches:
    """A voice is its pitch: a unit vector by the name of the file."""

    def __call__(self, clips: Sequence[AudioPart]) -> NDArray[np.float64]:
        angles = [{"ann": 0.0, "bob": 1.5}[Path(str(c.path)).stem.split("-")[1]] for c in clips]
        return np.array([[np.cos(angle), np.sin(angle)] for angle in angles])


def test_a_voice_is_kept_if_it_is_nearer_to_its_own_than_to_all_others(tmp_path: Path) -> None:
    rows, spoken = [], []
    for speaker, voice in (("ann", "ann"), ("bob", "ann")):  # bob is answered in ann's voice
        rows.append(row(clip(tmp_path, f"who-{speaker}"), clip(tmp_path, f"x-{speaker}"), speaker=speaker))
        spoken.append(Said(clip(tmp_path, f"said-{voice}").path, "x", "x", True, True, 1.0, seconds=0.1))
    scores = measure(rows, spoken, HOW, SpeechTest(voices=("pitch", Pitches()))).scores
    assert values(scores, "own_voice", "pitch") == {"spoken": (50.0, 2), "real": (100.0, 2)}
    assert values(scores, "similarity", "pitch")["spoken"] == (round((1 + np.cos(1.5)) / 2, 3), 2)


def test_log_perplexity_is_of_the_first_listener_s_transcripts_with_their_length(tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []

    def likelihood(texts: Sequence[str], contexts: Sequence[str]) -> list[tuple[float, int]]:
        asked.extend(zip(texts, contexts, strict=True))
        return [(2.0 * len(text.split()), len(text.split())) for text in texts]

    rows = [row(clip(tmp_path, "who"), clip(tmp_path, "a_bear"))]
    test = SpeechTest(TEST.listeners, likelihood=("lm", likelihood))
    scores = measure(rows, [said(tmp_path, "a_small_goat", "a goat")], HOW, test).scores
    assert values(scores, "log_perplexity", "lm, ears") == {"spoken": (2.0, 1), "written": (2.0, 1), "real": (2.0, 1)}
    assert values(scores, "length", "lm, ears") == {"spoken": (3.0, 1), "written": (2.0, 1), "real": (2.0, 1)}
    assert asked == [("a small goat", "who"), ("a goat", "who"), ("a bear", "who")]

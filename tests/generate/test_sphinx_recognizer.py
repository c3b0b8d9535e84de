"""A second engine that judges speech; what it hears is spoken by espeak."""

from pathlib import Path

import numpy as np
import pytest

from sonant.audio.io import resample, save
from sonant.chat.messages import AudioPart
from sonant.errors import ModelError
from sonant.generate.sphinx_recognizer import SphinxRecognizer
from sonant.synth.espeak import EspeakSynthesizer
from sonant.synth.tts import SpeechRequest

pytest.importorskip("pocketsphinx")
pytest.importorskip("espeakng_loader")

SENTENCES = ("the bear lives in the barn", "the goat likes red cheese", "where is the green kite")


@pytest.fixture(scope="module")
def recognizer() -> SphinxRecognizer:
    return SphinxRecognizer([*SENTENCES, "the bear likes sonant"])


def test_it_hears_which_sentence_is_spoken_and_nothing_in_silence(tmp_path: Path, recognizer: SphinxRecognizer) -> None:
    clips = []
    for number, clip in enumerate(EspeakSynthesizer(num_workers=1).synthesize([SpeechRequest(SENTENCES[1], "en-us")])):
        assert isinstance(clip, tuple)
        path = tmp_path / f"{number}.wav"
        save(path, resample(clip[0], from_hz=clip[1], to_hz=16_000), sample_rate_hz=16_000)
        clips.append(AudioPart(str(path)))
    save(tmp_path / "silence.wav", np.zeros(4000, np.float32), sample_rate_hz=16_000)
    heard = recognizer.transcribe([*clips, AudioPart(str(tmp_path / "silence.wav"))])
    assert heard[0] == SENTENCES[1]
    assert len(heard[1].split()) <= 1


def test_words_that_it_cannot_hear_are_named(recognizer: SphinxRecognizer) -> None:
    assert recognizer.unknown == ("sonant",)


def test_without_a_word_it_knows_it_refuses() -> None:
    with pytest.raises(ModelError, match="knows none of the 2 words"):
        SphinxRecognizer(["xqz zzxq"])

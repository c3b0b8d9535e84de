"""A run that lets a model speak: recordings are kept, and results say how they sound."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sonant.audio.io import load, save
from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.evaluate.arms import Examinee
from sonant.evaluate.metrics.text import EXACT
from sonant.evaluate.run import EvalSet, run_sets
from sonant.evaluate.speech.listeners import Listener, load_listener
from sonant.evaluate.speech.measure import SpeechTest
from sonant.evaluate.tasks import Task
from sonant.generate.reply import Reply, SpokenReply, TextPiece
from sonant.testing import tone


class Talker:
    """Answers "blue", in a tone of half a second."""

    def __init__(self) -> None:
        self.spoke = 0

    def replies(self, prompts: Sequence[Conversation], *, progress: Any, **_: Any) -> list[Reply]:
        progress(len(prompts))
        return [Reply("blue", (), True) for _ in prompts]

    def speak_all(self, prompts: Sequence[Conversation], *, progress: Any, **_: Any) -> list[SpokenReply]:
        progress(len(prompts))
        self.spoke += len(prompts)
        return [self.spoken(prompt) for prompt in prompts]

    def stream_speech(self, prompt: Conversation, **_: Any) -> Iterator[TextPiece | SpokenReply]:
        yield TextPiece("blue")
        yield self.spoken(prompt)

    def spoken(self, prompt: Conversation) -> SpokenReply:
        samples = 2.5 * tone(0.5) if prompt.id != "mute" else np.zeros(0, np.float32)  # louder than a file may be
        return SpokenReply("blue", "blue", (), True, True, samples, 16_000, np.zeros((0, 8), np.float32), 0.1, 0.05)


class Ears:
    def transcribe(self, clips: Sequence[AudioPart], *, progress: Any = None) -> list[str]:
        return ["blue" for _ in clips]


@pytest.fixture
def colours(tmp_path: Path) -> EvalSet:
    save(tmp_path / "a.wav", tone(0.5), sample_rate_hz=16_000)
    clip = AudioPart(str(tmp_path / "a.wav"), transcript="blue")
    rows = tuple(Conversation((user(clip), assistant("blue", clip)), id=id) for id in ("1", "mute"))
    return EvalSet("tiny/colours", rows, Task((EXACT,)), speak=True)


TEST = SpeechTest((Listener("ears", Ears()),))


def run(each: EvalSet, talker: Talker, out: Path) -> dict[str, Any]:
    examinee = Examinee(talker, pins={"model": "1"})  # type: ignore[arg-type]
    run_sets([each], examinee, out, speech=TEST)
    result: dict[str, Any] = json.loads((out / "results.json").read_text())["tiny/colours"]
    return result


def test_answers_are_spoken_kept_and_measured(tmp_path: Path, colours: EvalSet) -> None:
    result = run(colours, Talker(), tmp_path / "out")
    assert result["speech"]["wer"]["ears"]["spoken"]["value"] == 50.0  # one says nothing
    assert result["speech"]["silent"][""]["spoken"]["value"] == 50.0
    assert result["pins"]["speech"] == {"listeners": {"ears": {}}}
    first, mute = (json.loads(line)["speech"] for line in (tmp_path / "out/items.jsonl").read_text().splitlines())
    assert mute["path"] is None
    assert mute["heard"] == {"ears": ""}
    assert first["real"]["path"] == "../a.wav"
    samples = load(tmp_path / "out" / first["path"], sample_rate_hz=16_000)
    assert len(samples) == 8000
    assert np.abs(samples).max() <= 1


def test_started_again_it_speaks_only_where_a_recording_is_missing(tmp_path: Path, colours: EvalSet) -> None:
    talker = Talker()
    first = run(colours, talker, tmp_path / "out")
    assert run(colours, talker, tmp_path / "out") == first
    assert talker.spoke == 2
    next((tmp_path / "out/speech").rglob("*.wav")).unlink()
    assert run(colours, talker, tmp_path / "out") == first
    assert talker.spoke == 4


def test_a_set_without_spoken_answers_is_not_spoken(tmp_path: Path, colours: EvalSet) -> None:
    talker = Talker()
    result = run(EvalSet(colours.name, colours.rows, colours.how), talker, tmp_path / "out")
    assert talker.spoke == 0
    assert "speech" not in result


def test_a_listener_is_pinned_with_what_it_was_told() -> None:
    pytest.importorskip("pocketsphinx")
    listener = load_listener("pocketsphinx", ["the bear sleeps", "the bear sleeps", "the sonant sleeps"])
    assert listener.pins["sentences"] == 2
    assert listener.pins["unknown_words"] == ["sonant"]
    assert load_listener("tiny/encoder", []).pins["sha256"]

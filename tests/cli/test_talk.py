import io
import json
import signal
import subprocess
import sys
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
import soundfile

from sonant.audio import device
from sonant.audio.device import Heard
from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.cli import talk
from sonant.errors import AudioError, RequestError
from sonant.generate.assistant import Assistant
from sonant.generate.reply import TextPiece
from sonant.serve import running
from sonant.testing import tone

Run = Callable[..., Any]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What would be served and opened; nothing is."""
    seen = SimpleNamespace(opened=[], settings=None)

    def load_service(folder: Path, settings: Any, *, device: str) -> str:
        seen.settings = settings
        return "the service"

    def run(service: str, *, on_ready: Callable[[str], None]) -> None:
        on_ready("http://127.0.0.1:8000")

    monkeypatch.setattr(running, "load_service", load_service)
    monkeypatch.setattr(running, "run", run)
    monkeypatch.setattr(webbrowser, "open", lambda address: seen.opened.append(address) or True)
    return seen


@pytest.fixture
def microphone(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A machine that hears the same tone each time; returns what its loudspeaker plays."""
    played: list[Any] = []

    @contextmanager
    def recording() -> Iterator[Heard]:
        yield Heard(16_000, [tone(0.5)[:, None]])

    @contextmanager
    def loudspeaker(*, sample_rate_hz: int) -> Iterator[Any]:
        yield SimpleNamespace(write=played.append)

    monkeypatch.setattr(device, "check_device", lambda kind: None)
    monkeypatch.setattr(device, "recording", recording)
    monkeypatch.setattr(device, "loudspeaker", loudspeaker)
    return played


def test_the_page_is_opened_with_a_key_that_nobody_else_has(sonant: Run, served: SimpleNamespace) -> None:
    first = sonant("talk", "model", "--open")
    sonant("talk", "model", "--open")
    keys = [address.removeprefix("http://127.0.0.1:8000/#key=") for address in served.opened]
    assert len(set(keys)) == 2
    assert min(map(len, keys)) >= 32
    assert served.settings.key.get_secret_value() == keys[1]
    assert served.settings.is_loopback
    assert served.opened[0] in first.out


def test_the_address_alone_is_printed_where_no_browser_is_wanted(sonant: Run, served: SimpleNamespace) -> None:
    shown = sonant("talk", "model", "--no-open", "--port", 0)
    assert "/#key=" in shown.out
    assert served.opened == []
    assert served.settings.port == 0


def test_a_machine_without_screen_and_microphone_is_told_both_ways_out(
    sonant: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(kind: str) -> None:
        raise AudioError("plug one in")

    monkeypatch.setattr(talk, "_has_browser", lambda: False)
    monkeypatch.setattr(device, "check_device", absent)
    complaint = sonant("talk", "model").complaint
    assert "--no-open" in complaint
    assert "plug one in" in complaint


def test_what_is_spoken_and_typed_in_a_terminal_becomes_one_conversation(
    sonant: Run, model: Path, microphone: list[Any]
) -> None:
    shown = sonant("talk", model, "--terminal", stdin="\n\nwho?\n")
    wav = io.BytesIO()
    soundfile.write(wav, tone(0.5), 16_000, format="WAV", subtype="PCM_16")
    talker = Assistant.from_folder(model)
    asked = Conversation((user(AudioPart(data=wav.getvalue())),))
    first = talker.reply(asked).text
    second = talker.reply(Conversation((*asked.messages, assistant(first), user("who?")))).text
    assert shown.status == 0
    said = shown.out.split("listening ... ")[1]
    assert said.startswith(first)
    assert second in said[len(first) :]
    assert not microphone


def test_a_model_with_a_voice_is_heard(sonant: Run, speaking_model: Path, microphone: list[Any]) -> None:
    sonant("talk", speaking_model, "--terminal", stdin="a\n")
    samples = np.concatenate(microphone)
    assert samples.shape[1] == 1
    assert len(samples) > 0


def test_without_a_loudspeaker_answers_are_written(
    sonant: Run, speaking_model: Path, microphone: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was opened before the first word, so that every turn was refused and forgotten."""

    def check_device(kind: str) -> None:
        if kind == "output":
            raise AudioError("this machine has no loudspeaker.")

    monkeypatch.setattr(device, "check_device", check_device)
    shown = sonant("talk", speaking_model, "--terminal", stdin="a\n")
    assert "no loudspeaker. Answers are only written." in shown.err
    assert Assistant.from_folder(speaking_model).reply(Conversation((user("a"),))).text in shown.out
    assert not microphone


def test_what_was_written_ends_its_line_where_it_cannot_be_said(
    sonant: Run, speaking_model: Path, microphone: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next answer would go on in the same line."""

    def stream_speech(self: Assistant, asked: Conversation) -> Iterator[TextPiece]:
        yield TextPiece("written")
        raise RequestError("no room to say it")

    monkeypatch.setattr(Assistant, "stream_speech", stream_speech)
    shown = sonant("talk", speaking_model, "--terminal", stdin="a\n")
    assert "written\n" in shown.out
    assert "no room to say it" in shown.err


def test_a_conversation_that_fills_the_model_goes_on_without_its_oldest_turns(
    sonant: Run, model: Path, microphone: list[Any]
) -> None:
    """Every turn was refused from then on, and told to be shorter."""
    turns = [letter * 700 for letter in "abcd"]
    shown = sonant("talk", model, "--terminal", stdin="\n".join(turns) + "\n")
    assert not shown.err
    assert "answers are forgotten)" in shown.out
    assert "of 3 answers" in shown.out or "of 2 answers" in shown.out


def test_silence_is_not_sent(sonant: Run, model: Path, microphone: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def recording() -> Iterator[Heard]:
        yield Heard(16_000, [np.zeros((16_000, 1), np.float32)])

    monkeypatch.setattr(device, "recording", recording)
    assert "Nothing was heard" in sonant("talk", model, "--terminal", stdin="\n\n").out


def test_a_question_that_cannot_be_answered_is_told_and_forgotten(
    sonant: Run, model: Path, microphone: list[Any]
) -> None:
    shown = sonant("talk", model, "--terminal", stdin=f"{'a' * 3000}\nwho?\n")
    assert shown.status == 0
    assert "shorten" in shown.err
    assert Assistant.from_folder(model).reply(Conversation((user("who?"),))).text in shown.out


@pytest.mark.recipe
def test_the_command_serves_the_page_to_whoever_has_its_address_and_ends_in_peace(model: Path) -> None:
    command = [sys.executable, "-m", "sonant", "talk", str(model), "--no-open", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url, key = process.stdout.readline().split()[-1].split("/#key=")
        assert b"<title>Sonant</title>" in urlopen(url).read()
        with pytest.raises(HTTPError, match="401"):
            urlopen(f"{url}/v1/models")
        with urlopen(Request(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"})) as models:
            assert json.load(models)["data"][0]["id"] == model.name
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0

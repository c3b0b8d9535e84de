"""Texts are read aloud, where the model has a voice."""

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import soundfile
from openai import OpenAI
from serving import Scripted, said, scripted_service, serving, wav
from starlette.testclient import TestClient

from sonant.audio.io import load
from sonant.chat.messages import AudioPart
from sonant.serve.app import create_app
from sonant.testing import tone

SOUND = 0.5 * tone(0.5, 300)
WANTED = 0.5 * tone(0.5, 300, 24_000)
INNER = slice(200, 11_800)  # a resampler does not know what lies beyond the ends


@pytest.fixture(scope="module")
def told() -> Scripted:
    return Scripted(lambda question: said("hello there", SOUND[:1000], SOUND[1000:])[1:])


@pytest.fixture(scope="module")
def openai_client(told: Scripted) -> Iterator[OpenAI]:
    service = scripted_service(told, has_voice=True)
    object.__setattr__(service, "voices", {"default": None, "anna": AudioPart(data=wav(0.2))})
    with serving(service) as url, OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def speak(client: TestClient, **fields: Any) -> Any:
    asked = {"model": "tiny", "input": "hello there", "voice": "default", **fields}
    return client.post("/v1/audio/speech", json=asked)


@pytest.mark.parametrize("format", ["wav", "flac", "mp3", "opus"])
def test_a_text_comes_as_a_file_at_24_khz(openai_client: OpenAI, format: Any) -> None:
    sound = openai_client.audio.speech.create(
        model="tiny", voice="default", input="hello there", response_format=format
    )
    samples, rate_hz = soundfile.read(io.BytesIO(sound.content))
    assert rate_hz == 24_000
    assert len(samples) / rate_hz == pytest.approx(0.5, abs=0.1)
    if format in ("wav", "flac"):
        np.testing.assert_allclose(samples[INNER], WANTED[INNER], atol=2e-3)


def test_the_text_is_what_the_model_is_to_say(openai_client: OpenAI, told: Scripted) -> None:
    openai_client.audio.speech.create(model="tiny", voice="anna", input="hello there", response_format="wav")
    question = told.questions[-1]
    assert (question.answer, question.spoken) == ("hello there", True)
    voice, wording = question.conversation.messages[0].parts
    assert isinstance(voice, AudioPart)
    np.testing.assert_array_equal(load(voice.source), load(wav(0.2)))
    assert wording.text == "read aloud: hello there"  # type: ignore[union-attr]


def test_pcm_streams_as_it_is_made(openai_client: OpenAI) -> None:
    with openai_client.audio.speech.with_streaming_response.create(
        model="tiny", voice="default", input="hello there", response_format="pcm"
    ) as response:
        pcm = b"".join(response.iter_bytes())
        assert response.headers["content-type"] == "audio/pcm"
    np.testing.assert_allclose((np.frombuffer(pcm, "<i2") / 32_767)[INNER], WANTED[INNER], atol=2e-3)


def test_events_carry_the_same_pcm(openai_client: OpenAI) -> None:
    with openai_client.audio.speech.with_streaming_response.create(
        model="tiny", voice="default", input="hello there", response_format="pcm", stream_format="sse"
    ) as response:
        events = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    *deltas, done = [json.loads(event) for event in events]
    pcm = b"".join(base64.b64decode(delta["audio"]) for delta in deltas)
    np.testing.assert_allclose((np.frombuffer(pcm, "<i2") / 32_767)[INNER], WANTED[INNER], atol=2e-3)
    assert done == {
        "type": "speech.audio.done",
        "usage": {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10},
    }


def test_what_is_too_loud_is_clipped_and_not_wrapped_around(speaking_client: TestClient, scripted: Scripted) -> None:
    scripted.told = lambda question: said("loud", np.full(1600, 1.5, np.float32))[1:]
    samples = np.frombuffer(speak(speaking_client, response_format="pcm").content, "<i2")
    assert samples[100:-100].min() == 32_767


def test_sentences_are_said_one_by_one_and_heard_as_one(speaking_client: TestClient, scripted: Scripted) -> None:
    scripted.told = lambda question: said(question.answer, np.full(1600, 0.1 * len(scripted.questions), np.float32))[1:]
    sound = speak(speaking_client, input="One. Two!  Three ... 4; five", response_format="wav").content
    assert [question.answer for question in scripted.questions] == ["One.", "Two!", "Three ...", "4;", "five"]
    samples, rate_hz = soundfile.read(io.BytesIO(sound))
    assert len(samples) == 5 * rate_hz // 10
    middles = samples[rate_hz // 20 :: rate_hz // 10]
    np.testing.assert_allclose(middles, [0.0, 0.1, 0.2, 0.3, 0.4], atol=1e-3)


@pytest.mark.parametrize("stream_format", ["audio", "sse"])
def test_sound_that_was_cut_off_is_no_answer(
    speaking_client: TestClient, scripted: Scripted, stream_format: str
) -> None:
    scripted.told = lambda question: said("long", tone(0.1), cut_off=True)[1:]
    format = "pcm" if stream_format == "sse" else "wav"
    answer = speak(speaking_client, response_format=format, stream_format=stream_format)
    body = answer.text.split("data: ")[-1]
    assert json.loads(body)["error"]["code"] == "cut_off"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"speed": 1.5}, "speed"),
        ({"instructions": "cheerfully"}, "instructions"),
        ({"voice": "alloy"}, "voice"),
        ({"response_format": "aac"}, "response_format"),
        ({"stream_format": "sse"}, "response_format"),
        ({"input": ""}, "input"),
        ({"input": " "}, "input"),
        ({"input": "a" * 4097}, "input"),
        ({"path": "/etc/passwd"}, "path"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    speaking_client: TestClient, fields: dict[str, Any], param: str
) -> None:
    answer = speak(speaking_client, **fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_a_text_without_letters_is_refused(speaking_client: TestClient, scripted: Scripted) -> None:
    scripted.told = lambda question: said("...")[1:]
    assert "no letter" in speak(speaking_client, input="...", response_format="wav").json()["error"]["message"]


def test_words_that_the_model_would_leave_unsaid_are_refused() -> None:
    service = scripted_service(has_voice=True)
    object.__setattr__(service, "spoken_after", " | ")
    with TestClient(create_app(service), base_url="http://localhost") as client:
        assert "says only what follows" in speak(client, input="a | b").json()["error"]["message"]


def test_a_model_without_a_voice_says_so(client: TestClient) -> None:
    answer = speak(client)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "no_voice")

"""Chat completions as the openai client meets them, and what is refused."""

import asyncio
import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest
import soundfile
from openai import AsyncOpenAI, OpenAI
from serving import Scripted, said, scripted_service, serving, wav, written
from starlette.testclient import TestClient

from sonant.audio.io import load
from sonant.chat.messages import AudioPart, TextPart
from sonant.errors import BusyError, RequestError
from sonant.serve.app import create_app
from sonant.testing import tone

HELLO = [{"role": "user", "content": "hello"}]
ALOUD = {"modalities": ["text", "audio"], "audio": {"voice": "default", "format": "wav"}}


@pytest.fixture(scope="module")
def told() -> Scripted:
    return Scripted()


@pytest.fixture(scope="module")
def base_url(told: Scripted) -> Iterator[str]:
    with serving(scripted_service(told, has_voice=True)) as url:
        yield f"{url}/v1"


@pytest.fixture
def answerer(told: Scripted) -> Scripted:
    told.__init__()  # type: ignore[misc]
    return told


@pytest.fixture(scope="module")
def openai_client(base_url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
        yield client


def part(data: bytes, format: str = "wav") -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": format}}


def ask(client: TestClient, **fields: Any) -> Any:
    return client.post("/v1/chat/completions", json={"model": "tiny", "messages": HELLO, **fields})


def refusal(client: TestClient, **fields: Any) -> tuple[str, str]:
    """The field and the message of a 400."""
    answer = ask(client, **fields)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    return error["param"], error["message"]


def test_words_and_recordings_reach_the_model_in_their_order(openai_client: OpenAI, answerer: Scripted) -> None:
    url = "data:audio/wav;base64," + base64.b64encode(wav(0.2)).decode()
    messages: Any = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "who is "}, part(wav(0.3))]},
        {"role": "assistant", "content": "peter"},
        {"role": "user", "content": [{"type": "audio_url", "audio_url": {"url": url}}, {"type": "text", "text": "?"}]},
    ]
    openai_client.chat.completions.create(model="tiny", messages=messages)
    (question,) = answerer.questions
    turns = question.conversation.messages
    assert [turn.role for turn in turns] == ["system", "user", "assistant", "user"]
    kinds = [[type(p) for p in turn.parts] for turn in turns]
    assert kinds == [[TextPart], [TextPart, AudioPart], [TextPart], [AudioPart, TextPart]]
    first, second = question.conversation.heard_parts
    np.testing.assert_array_equal(load(first.source), load(wav(0.3)))
    np.testing.assert_array_equal(load(second.source), load(wav(0.2)))


@pytest.mark.parametrize("format", ["WAV", "FLAC", "MP3", "OGG"])
def test_whatever_decodes_is_heard_whatever_it_is_called(client: TestClient, scripted: Scripted, format: str) -> None:
    data = wav(0.3, format=format)
    assert ask(client, messages=[{"role": "user", "content": [part(data, "mp3")]}]).status_code == 200
    (heard,) = scripted.questions[0].conversation.heard_parts
    np.testing.assert_array_equal(load(heard.source), load(data))


def test_a_whole_answer_is_a_chat_completion(openai_client: OpenAI, answerer: Scripted) -> None:
    completion = openai_client.chat.completions.create(model="tiny", messages=HELLO)  # type: ignore[arg-type]
    (choice,) = completion.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "an answer", "stop")
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.total_tokens) == (7, 10)
    assert completion.model == "tiny"


def test_settings_of_drawing_reach_the_model(openai_client: OpenAI, answerer: Scripted) -> None:
    answerer.told = lambda question: written("an answer", scored=True)
    completion = openai_client.chat.completions.create(
        model="tiny",
        messages=HELLO,  # type: ignore[arg-type]
        seed=5,
        n=2,
        temperature=0.7,
        top_p=0.9,
        max_completion_tokens=9,
        stop=["a", "b"],
        logprobs=True,
        top_logprobs=2,
        extra_body={"top_k": 3},
    )
    first, second = answerer.questions
    assert (first.config.seed, second.config.seed) == (5, 6)
    assert first.conversation == second.conversation
    config = first.config
    assert (config.temperature, config.top_p, config.top_k, config.max_new_tokens) == (0.7, 0.9, 3, 9)
    assert (first.stop, first.top_logprobs, first.fit) == (("a", "b"), 2, False)
    assert [choice.index for choice in completion.choices] == [0, 1]
    scores = completion.choices[1].logprobs
    assert scores is not None
    assert scores.content is not None
    (score,) = scores.content
    assert (score.token, score.bytes, score.logprob) == ("an answer", list(b"an answer"), -0.25)
    assert [top.token for top in score.top_logprobs] == ["an answer", "other"]


def test_without_settings_an_answer_is_greedy_and_as_long_as_fits(client: TestClient, scripted: Scripted) -> None:
    ask(client)
    (question,) = scripted.questions
    assert (question.config.temperature, question.fit, question.top_logprobs) == (0.0, True, None)


def test_a_stream_tells_the_answer_piece_by_piece(openai_client: OpenAI, answerer: Scripted) -> None:
    stream = openai_client.chat.completions.create(
        model="tiny", messages=HELLO, stream=True, stream_options={"include_usage": True}, n=2  # type: ignore[call-overload]
    )  # fmt: skip
    *chunks, last = list(stream)
    texts = {0: "", 1: ""}
    for chunk in chunks:
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
    assert texts == {0: "an answer", 1: "an answer"}
    assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason] == ["stop", "stop"]
    assert last.choices == []
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (7, 6)


def test_the_asynchronous_client_is_served_alike(base_url: str, answerer: Scripted) -> None:
    async def work() -> str:
        async with AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
            stream = await client.chat.completions.create(model="tiny", messages=HELLO, stream=True)  # type: ignore[call-overload]
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert asyncio.run(work()) == "an answer"


def test_a_fault_before_the_first_word_has_a_status(openai_client: OpenAI, answerer: Scripted) -> None:
    def too_long(question: Any) -> Any:
        raise RequestError("the prompt is too long; shorten it")

    answerer.told = too_long
    with pytest.raises(openai.BadRequestError, match="too long"):
        openai_client.chat.completions.create(model="tiny", messages=HELLO, stream=True)  # type: ignore[call-overload]


def test_a_fault_in_the_midst_of_a_stream_is_its_last_event(openai_client: OpenAI, answerer: Scripted) -> None:
    answerer.told = lambda question: [*written("an ")[:-1], ValueError("at 0x7f, in /home")]  # type: ignore[list-item]
    stream = openai_client.chat.completions.create(model="tiny", messages=HELLO, stream=True)  # type: ignore[call-overload]
    with pytest.raises(openai.APIError, match="no fault of the request") as told:
        list(stream)
    assert "0x7f" not in str(told.value.body)


def test_a_full_queue_is_429_with_retry_after_and_leaves_nothing_behind(client: TestClient, scripted: Scripted) -> None:
    def second_is_too_many(question: Any) -> Any:
        return BusyError("4 questions wait", retry_after_s=2.3) if scripted.questions else written("a")[:-1]

    scripted.told = second_is_too_many
    answer = ask(client, n=2)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")
    assert answer.json()["error"]["type"] == "rate_limit_error"
    assert [asked.cancelled for asked in scripted.answers] == [True]


def test_an_answer_is_said_where_the_model_has_a_voice(openai_client: OpenAI, answerer: Scripted) -> None:
    sound = 0.5 * tone(0.5, 300)
    answerer.told = lambda question: said("an answer", sound[:4000], sound[4000:])
    completion = openai_client.chat.completions.create(model="tiny", messages=HELLO, **ALOUD)  # type: ignore[call-overload]
    message = completion.choices[0].message
    assert (message.content, message.audio.transcript) == ("an answer", "an answer")
    samples, rate_hz = soundfile.read(io.BytesIO(base64.b64decode(message.audio.data)))
    assert (rate_hz, len(samples)) == (24_000, 12_000)
    np.testing.assert_allclose(samples[200:-200], 0.5 * tone(0.5, 300, 24_000)[200:-200], atol=2e-3)
    assert answerer.questions[0].spoken


def test_a_spoken_answer_streams_as_pcm_without_seams(openai_client: OpenAI, answerer: Scripted) -> None:
    sound = 0.5 * tone(0.5, 300)
    answerer.told = lambda question: said("an answer", *np.split(sound, [1000, 1003, 5000]))
    stream = openai_client.chat.completions.create(
        model="tiny", messages=HELLO, stream=True, **ALOUD | {"audio": {"voice": "default", "format": "pcm16"}}
    )  # type: ignore[call-overload]
    deltas = [chunk.choices[0].delta for chunk in stream]
    audio = [delta.audio for delta in deltas if delta.audio is not None]
    pcm = b"".join(base64.b64decode(each.data) for each in audio)
    samples = np.frombuffer(pcm, "<i2") / 32_767
    np.testing.assert_allclose(samples[200:11_800], 0.5 * tone(0.5, 300, 24_000)[200:11_800], atol=2e-3)
    assert "".join(delta.content or "" for delta in deltas) == "an answer"
    assert audio[-1].transcript == "an answer"
    assert len({each.id for each in audio}) == 1


def test_an_answer_whose_sound_was_cut_off_is_not_whole(speaking_client: TestClient, scripted: Scripted) -> None:
    scripted.told = lambda question: said("an answer", tone(0.1), cut_off=True)
    assert ask(speaking_client, **ALOUD).json()["choices"][0]["finish_reason"] == "length"


def test_an_earlier_spoken_answer_is_known_by_its_id(speaking_client: TestClient, scripted: Scripted) -> None:
    scripted.told = lambda question: said("an answer", tone(0.1)) if question.spoken else written("well")
    first = ask(speaking_client, **ALOUD).json()["choices"][0]["message"]
    earlier = {"role": "assistant", "audio": {"id": first["audio"]["id"]}}
    assert ask(speaking_client, messages=[*HELLO, earlier, *HELLO]).status_code == 200
    assert scripted.questions[1].conversation.messages[1].text == "an answer"
    unknown = {"role": "assistant", "audio": {"id": "audio-none"}}
    assert refusal(speaking_client, messages=[*HELLO, unknown, *HELLO])[0] == "messages.1.audio.id"


def test_our_own_answer_can_be_sent_back_as_it_is(openai_client: OpenAI, answerer: Scripted) -> None:
    message = openai_client.chat.completions.create(model="tiny", messages=HELLO).choices[0].message  # type: ignore[arg-type]
    messages: Any = [*HELLO, message, *HELLO]
    openai_client.chat.completions.create(model="tiny", messages=messages)
    assert answerer.questions[1].conversation.messages[1].text == "an answer"


def test_a_model_without_a_voice_says_so(client: TestClient) -> None:
    param, message = refusal(client, **ALOUD)
    assert param == "modalities"
    assert "has no voice" in message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"chat_template": "{{ 1 }}"}, "chat_template"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"functions": []}, "functions"),
        ({"response_format": {"type": "json_object"}}, "response_format.type"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"store": True}, "store"),
        ({"n": 9}, "n"),
        ({"n": 0}, "n"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"seed": 2**63}, "seed"),
        ({"max_tokens": 5000}, "max_tokens"),
        ({"max_tokens": 2, "max_completion_tokens": 3}, "max_tokens"),
        ({"stop": list("abcde")}, "stop"),
        ({"stop": ""}, "stop"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"audio": ALOUD["audio"]}, "audio"),
        ({"messages": []}, "messages"),
        ({"messages": [*HELLO, {"role": "assistant", "content": "hi"}]}, "messages.1.role"),
        ({"messages": [{"role": "user", "content": "hi", "name": "eve"}]}, "messages.0.user.name"),
        ({"messages": [{"role": "tool", "content": "hi"}]}, "messages.0"),
        ({"messages": [{"role": "user", "content": [part(wav()) for _ in range(17)]}]}, "messages.0.content.16"),
        ({"messages": HELLO * 257}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 65}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": "a" * 100_001}]}, "messages"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_not_supported_is_refused_by_name(client: TestClient, fields: dict[str, Any], param: str) -> None:
    assert refusal(client, **fields)[0] == param


def test_openais_fields_at_their_defaults_are_taken(client: TestClient) -> None:
    defaults = {
        **{"frequency_penalty": 0, "presence_penalty": 0.0, "response_format": {"type": "text"}, "n": 1, "stop": None},
        **{"logprobs": False, "store": False, "tools": None, "tool_choice": "none", "service_tier": "auto"},
        **{"user": "somebody", "metadata": {"a": "b"}, "modalities": ["text"], "audio": None, "stream": False},
    }
    assert ask(client, **defaults).status_code == 200


def test_seconds_of_all_clips_together_are_bounded() -> None:
    app = create_app(scripted_service(max_audio_s=0.5))
    with TestClient(app, base_url="http://localhost") as client:
        parts = [part(wav(0.3)), part(wav(0.3))]
        _, message = refusal(client, messages=[{"role": "user", "content": parts}])
        assert "longer than 0.2 s" in message
        assert ask(client, messages=[{"role": "user", "content": parts[:1]}]).status_code == 200


def test_a_recording_that_is_none_is_refused(client: TestClient) -> None:
    _, message = refusal(client, messages=[{"role": "user", "content": [part(b"not audio at all")]}])
    assert "cannot be read as audio" in message
    broken = {"type": "input_audio", "input_audio": {"data": "a", "format": "wav"}}
    assert (
        refusal(client, messages=[{"role": "user", "content": [broken]}])[0] == "messages.0.content.0.input_audio.data"
    )


def test_another_model_is_not_found(client: TestClient) -> None:
    answer = ask(client, model="gpt-4o")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"


def test_what_is_no_json_or_no_text_is_refused(client: TestClient) -> None:
    half = b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}'
    for body in (b"{", b"[" * 100_000, b"\xff\xfe", b"{}", half):
        answer = client.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 400, body[:20]
        assert json.loads(answer.text)["error"]["message"]

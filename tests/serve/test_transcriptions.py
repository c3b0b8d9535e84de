"""Recordings become text, subtitles and events; long ones are cut at silences."""

import io
import itertools
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest
import soundfile
from openai import OpenAI
from serving import Scripted, scripted_service, serving, wav, written
from starlette.testclient import TestClient

from sonant.audio.io import load
from sonant.chat.messages import AudioPart, TextPart
from sonant.errors import BusyError
from sonant.serve.answering.questions import Event, Finished, Question, TextDelta, TokenScore
from sonant.serve.app import create_app
from sonant.serve.pieces import pieces_of

RATE_HZ = 16_000


def spoken(*bursts: tuple[float, float], total_s: float) -> bytes:
    """A FLAC of noise that comes and goes like syllables, between the given seconds; the rest is nearly silent."""
    rng = np.random.default_rng(0)
    samples = 1e-4 * rng.standard_normal(round(total_s * RATE_HZ))
    for start_s, stop_s in bursts:
        index = np.arange(round(start_s * RATE_HZ), round(stop_s * RATE_HZ))
        samples[index] += 0.1 * (1 + np.sin(2 * np.pi * 4 * index / RATE_HZ)) * rng.standard_normal(len(index))
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(samples, -1, 1), RATE_HZ, format="FLAC")
    return buffer.getvalue()


TWO_BURSTS = spoken((0.5, 1.5), (3.0, 4.2), total_s=5.0)


def numbered(answerer: Scripted) -> Any:
    return lambda question: written(f"piece {len(answerer.questions)}", scored=True)


@pytest.fixture(scope="module")
def told() -> Scripted:
    return Scripted()


@pytest.fixture(scope="module")
def openai_client(told: Scripted) -> Iterator[OpenAI]:
    service = scripted_service(told, segment_s=4.0, wordings={"transcription": "in short: {audio} please"})
    with serving(service) as url, OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def answerer(told: Scripted) -> Scripted:
    told.__init__()  # type: ignore[misc]
    told.told = numbered(told)
    return told


def post(client: TestClient, data: bytes | None = None, **fields: Any) -> Any:
    files = {"file": ("a.wav", wav() if data is None else data)}
    return client.post("/v1/audio/transcriptions", data={"model": "tiny", **fields}, files=files)


def test_a_recording_is_asked_about_in_the_servers_words(openai_client: OpenAI, answerer: Scripted) -> None:
    heard = openai_client.audio.transcriptions.create(model="tiny", file=("a.wav", wav()))
    assert heard.text == "piece 0"
    before, audio, after = answerer.questions[0].conversation.messages[0].parts
    assert (before, after) == (TextPart("in short: "), TextPart(" please"))
    assert isinstance(audio, AudioPart)
    np.testing.assert_array_equal(load(audio.source), load(wav()))


def test_a_prompt_takes_the_place_of_the_servers_words(client: TestClient, scripted: Scripted) -> None:
    assert post(client, prompt="say again:").json()["text"] == "an answer"
    text, audio = scripted.questions[0].conversation.messages[0].parts
    assert text == TextPart("say again:")
    assert isinstance(audio, AudioPart)


def test_what_fits_is_heard_in_one_piece_and_what_does_not_is_cut_in_the_pause(
    openai_client: OpenAI, answerer: Scripted
) -> None:
    heard = openai_client.audio.transcriptions.create(model="tiny", file=("a.flac", TWO_BURSTS))  # 5 s of 4
    assert heard.text == "piece 0 piece 1"
    answerer.told = lambda question: written("whole")
    short = spoken((0.5, 1.5), (2.2, 3.2), total_s=3.9)
    assert openai_client.audio.transcriptions.create(model="tiny", file=("a.flac", short)).text == "whole"


def test_verbose_json_tells_when_what_was_said(openai_client: OpenAI, answerer: Scripted) -> None:
    heard = openai_client.audio.transcriptions.create(
        model="tiny", file=("a.flac", TWO_BURSTS), response_format="verbose_json", timestamp_granularities=["segment"]
    )
    assert (heard.text, heard.language, heard.duration) == ("piece 0 piece 1", "en", 5.0)
    assert heard.segments is not None
    assert [segment.text for segment in heard.segments] == ["piece 0", "piece 1"]
    times = [(segment.start, segment.end) for segment in heard.segments]
    assert times == [pytest.approx((0.3, 1.7), abs=0.15), pytest.approx((2.8, 4.4), abs=0.15)]
    assert heard.segments[0].avg_logprob == -0.25


def test_subtitles_have_a_block_for_each_piece(openai_client: OpenAI, answerer: Scripted) -> None:
    for format, arrow in (("srt", ","), ("vtt", ".")):
        answerer.questions.clear()
        subtitles = openai_client.audio.transcriptions.create(
            model="tiny", file=("a.flac", TWO_BURSTS), response_format=format  # type: ignore[call-overload]
        )  # fmt: skip
        assert subtitles.count("-->") == 2
        assert f"00:00:00{arrow}" in subtitles
        assert "piece 1" in subtitles


def test_text_is_text(client: TestClient) -> None:
    answer = post(client, response_format="text")
    assert (answer.text, answer.headers["content-type"]) == ("an answer\n", "text/plain; charset=utf-8")


def test_a_stream_tells_all_pieces_in_order(openai_client: OpenAI, answerer: Scripted) -> None:
    events = list(
        openai_client.audio.transcriptions.create(
            model="tiny", file=("a.flac", TWO_BURSTS), stream=True, include=["logprobs"]
        )
    )
    *deltas, done = events
    assert [event.type for event in deltas] == ["transcript.text.delta"] * 2
    assert "".join(event.delta for event in deltas) == done.text == "piece 0 piece 1"  # type: ignore[union-attr]
    assert done.logprobs is not None  # type: ignore[union-attr]
    assert [score.token for score in done.logprobs] == ["piece 0", "piece 1"]  # type: ignore[union-attr]
    assert done.usage.input_tokens == 14  # type: ignore[union-attr]


def test_a_piece_that_says_nothing_leaves_no_gap_in_a_stream(openai_client: OpenAI, answerer: Scripted) -> None:
    def silent_first(question: Question) -> list[Event]:
        text = "" if len(answerer.questions) == 1 else f"piece {len(answerer.questions)}"
        return [TextDelta(text, (TokenScore(text or " ", b" ", -1.0),)), Finished(text, "stop", 7, 2)]

    answerer.told = silent_first
    three = ("a.flac", spoken((0.5, 1.5), (4.0, 5.0), (7.5, 8.5), total_s=9.5))
    whole = openai_client.audio.transcriptions.create(model="tiny", file=three).text
    answerer.questions.clear()
    *_, done = openai_client.audio.transcriptions.create(model="tiny", file=three, stream=True, include=["logprobs"])
    assert done.text == whole == "piece 0 piece 2"  # type: ignore[union-attr]


def test_silences_are_looked_for_outside_of_the_loop_that_serves_everybody(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []

    def watched(*args: Any, **kwargs: Any) -> Any:
        threads.append(threading.current_thread().name)
        return pieces_of(*args, **kwargs)

    monkeypatch.setattr("sonant.serve.transcriptions.pieces_of", watched)
    assert post(client, response_format="srt").status_code == 200
    assert [name.startswith("asyncio_") for name in threads] == [True]


def test_a_long_recording_without_speech_has_no_words(openai_client: OpenAI, answerer: Scripted) -> None:
    silence = spoken(total_s=6.0)
    assert openai_client.audio.transcriptions.create(model="tiny", file=("a.flac", silence)).text == ""
    stream = openai_client.audio.transcriptions.create(model="tiny", file=("a.flac", silence), stream=True)
    assert [event.type for event in stream] == ["transcript.text.done"]
    assert answerer.questions == []


def test_a_full_queue_refuses_the_first_piece_and_lets_later_ones_wait(
    openai_client: OpenAI, answerer: Scripted
) -> None:
    refusals = iter([False, True, True, False])

    def sometimes_full(question: Any) -> Any:
        return BusyError("full", retry_after_s=0.01) if next(refusals) else written("piece")

    answerer.told = sometimes_full
    assert openai_client.audio.transcriptions.create(model="tiny", file=("a.flac", TWO_BURSTS)).text == "piece piece"
    answerer.told = lambda question: BusyError("full", retry_after_s=1)
    with pytest.raises(openai.RateLimitError):
        openai_client.audio.transcriptions.create(model="tiny", file=("a.flac", TWO_BURSTS))


def test_a_translation_is_asked_for_in_its_own_words(client: TestClient, scripted: Scripted) -> None:
    form = {"model": "tiny", "response_format": "verbose_json"}
    told = client.post("/v1/audio/translations", data=form, files={"file": ("a.wav", wav())}).json()
    assert (told["task"], told["language"], told["text"]) == ("translate", "en", "an answer")
    assert scripted.questions[0].conversation.messages[0].text == "translate to english:"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "diarized_json"}, "response_format"),
        ({"language": "xx"}, "language"),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities.0"),
        ({"known_speaker_names[]": "eve"}, "known_speaker_names"),
        ({"stream": "true", "response_format": "text"}, "stream"),
        ({"temperature": "nan"}, "temperature"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"chat_template": "{{ 1 }}"}, "chat_template"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(client: TestClient, fields: dict[str, Any], param: str) -> None:
    answer = post(client, **fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_a_form_has_one_file_and_few_fields(client: TestClient) -> None:
    assert client.post("/v1/audio/transcriptions", data={"model": "tiny"}).status_code == 400
    two = [("file", ("a.wav", wav())), ("file", ("b.wav", wav()))]
    assert client.post("/v1/audio/transcriptions", data={"model": "tiny"}, files=two).status_code == 400
    assert post(client, **{f"field{i}": "a" for i in range(40)}).status_code == 400
    assert post(client, prompt="a" * 70_000).status_code == 400
    assert post(client, b"not audio").status_code == 400
    assert post(client).status_code == 200


def test_too_long_a_recording_is_refused() -> None:
    with TestClient(create_app(scripted_service(max_audio_s=0.2)), base_url="http://localhost") as client:
        answer = post(client)
        assert answer.status_code == 400
        assert "longer than 0.2 s" in answer.json()["error"]["message"]


def test_pieces_lie_in_order_and_none_is_too_long() -> None:
    samples = load(spoken((0.2, 9.0), (10.0, 10.8), total_s=11.0))
    pieces = pieces_of(samples, most_s=3.0, cut=False)
    assert all(piece.end_s - piece.start_s <= 3.0 + 1e-6 for piece in pieces)
    assert all(one.end_s <= other.start_s for one, other in itertools.pairwise(pieces))
    covered = sum(piece.end_s - piece.start_s for piece in pieces)
    assert covered >= 8.8 + 0.8

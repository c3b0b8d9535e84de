"""The realtime session as OpenAI's own client meets it, over a real socket."""

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from openai import AsyncOpenAI, OpenAI
from openai.resources.realtime.realtime import RealtimeConnection
from scripted_session import RATE_HZ, pcm, room, samples_of, syllables
from serving import Scripted, said, serving

from bench.browsing import spoken
from sonant.audio.io import resample
from sonant.serve.answering.questions import TextDelta
from sonant.serve.realtime.coding import as_pcm
from sonant.serve.service import Service
from sonant.synth.world.facts import facts

# The client opens sockets in a way that websockets 17.1 calls old.
pytestmark = pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning")

TRANSCRIBED = "conversation.item.input_audio_transcription.completed"
SOUND = syllables(0.5, rate_hz=16_000)
QUESTION = np.concatenate([room(0.5), syllables(1.0), room(0.8)])


@pytest.fixture
def connection(url: str) -> Iterator[RealtimeConnection]:
    """A session with a model that speaks and says what the test told it to."""
    client = OpenAI(base_url=f"{url}/v1", api_key="none")
    with client, client.realtime.connect(model="tiny") as connection:
        assert connection.recv().type == "session.created"
        yield connection


def speak(connection: RealtimeConnection, samples: NDArray[np.float32]) -> None:
    for start in range(0, len(samples), RATE_HZ // 10):
        connection.input_audio_buffer.append(audio=pcm(samples[start : start + RATE_HZ // 10]))


def until(connection: RealtimeConnection, *types: str) -> list[Any]:
    """Events up to where all of these types have come."""
    events: list[Any] = []
    while not set(types) <= {event.type for event in events}:
        events.append(connection.recv())
    return events


def test_a_written_question_is_answered_aloud(connection: RealtimeConnection, scripted: Scripted) -> None:
    scripted.told = lambda question: said("It is Bob.", SOUND[:3000], SOUND[3000:])
    connection.conversation.item.create(
        item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Who is it?"}]}
    )
    connection.response.create()
    events = until(connection, "response.done")
    sound = [samples_of(event.delta) for event in events if event.type == "response.output_audio.delta"]
    whole = as_pcm(resample(SOUND, from_hz=16_000, to_hz=RATE_HZ))
    assert np.abs(np.concatenate(sound).astype(int) - whole).max() <= 1
    done = events[-1].response
    assert done.status == "completed"
    assert done.output[0].content[0].transcript == "It is Bob."
    assert done.usage.total_tokens == 10


def test_speech_interrupts_an_answer_and_what_was_not_heard_is_forgotten(
    connection: RealtimeConnection, scripted: Scripted
) -> None:
    scripted.told = lambda question: said("one two four six", SOUND)
    speak(connection, QUESTION)
    answer = until(connection, "response.done")[-1].response.output[0]
    scripted.told = lambda question: [TextDelta("it never ends")]
    speak(connection, QUESTION)
    until(connection, "response.output_audio_transcript.delta")
    connection.conversation.item.truncate(item_id=answer.id, content_index=0, audio_end_ms=250)
    assert until(connection, "conversation.item.truncated")[-1].audio_end_ms == 250
    speak(connection, QUESTION)
    events = until(connection, "response.created")
    kinds = [event.type for event in events]
    assert kinds.index("input_audio_buffer.speech_started") < kinds.index("response.done")
    (done,) = (event for event in events if event.type == "response.done")
    assert done.response.status_details.reason == "turn_detected"
    until(connection, "response.output_audio_transcript.delta")  # a response is created before its question is asked
    asked = [message.text for message in scripted.questions[-1].conversation.messages]
    assert asked == ["", "one two", "", "it never ends", ""]
    assert scripted.answers[1].cancelled


def test_a_fault_is_an_event_and_the_session_goes_on(connection: RealtimeConnection, scripted: Scripted) -> None:
    connection.session.update(session={"type": "realtime", "audio": {"output": {"voice": "alloy"}}})
    fault = connection.recv()
    assert fault.type == "error"
    assert fault.error.param == "session.audio.output.voice"
    connection.session.update(session={"type": "realtime", "output_modalities": ["text"]})
    assert connection.recv().type == "session.updated"
    speak(connection, QUESTION)
    done = until(connection, "response.done")[-1].response
    assert done.output[0].content[0].text == "an answer"


def test_the_asynchronous_client_talks_too(url: str) -> None:
    async def talk() -> str:
        client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none")
        async with client, client.realtime.connect(model="tiny") as connection:
            await connection.session.update(session={"type": "realtime", "output_modalities": ["text"]})
            await connection.conversation.item.create(
                item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Who?"}]}
            )
            await connection.response.create()
            deltas = []
            async for event in connection:
                if event.type == "response.output_text.delta":
                    deltas.append(event.delta)
                if event.type == "response.done":
                    return "".join(deltas)
        raise AssertionError("the session ended without an answer")

    assert asyncio.run(talk()) == "an answer"


@pytest.fixture
def cascade_connection(service: Service) -> Iterator[RealtimeConnection]:
    """A session with a model that answers spoken questions of the tiny world."""
    with (
        serving(service) as url,
        OpenAI(base_url=f"{url}/v1", api_key="none") as client,
        client.realtime.connect(model="cascade") as connection,
    ):
        yield connection


@pytest.mark.recipe
def test_spoken_questions_are_answered_rightly_hands_free(cascade_connection: RealtimeConnection) -> None:
    connection = cascade_connection
    connection.session.update(session={"type": "realtime", "audio": {"input": {"transcription": {}}}})
    for fact in [fact for fact in facts() if fact.entity == "elephant"][:2]:
        question = resample(spoken(fact.questions[0]), from_hz=16_000, to_hz=RATE_HZ)
        speak(connection, np.concatenate([room(0.5), question, room(1.0)]))
        events = {event.type: event for event in until(connection, "response.done", TRANSCRIBED)}
        response = events["response.done"].response
        assert response.output[0].content[0].text == fact.statement
        assert response.usage.input_tokens > 10
        assert events[TRANSCRIBED].transcript == fact.questions[0]
        # The tiny world knows single questions alone: the next one must not see this.
        connection.conversation.item.delete(item_id=events[TRANSCRIBED].item_id)
        connection.conversation.item.delete(item_id=response.output[0].id)


@pytest.mark.recipe
def test_a_question_is_heard_alike_in_an_item_and_from_a_microphone(cascade_connection: RealtimeConnection) -> None:
    connection, fact = cascade_connection, next(fact for fact in facts() if fact.entity == "elephant")
    samples = np.concatenate([room(0.2), resample(spoken(fact.questions[0]), from_hz=16_000, to_hz=RATE_HZ)])
    connection.session.update(session={"type": "realtime", "audio": {"input": {"turn_detection": None}}})
    connection.conversation.item.create(
        item={"type": "message", "role": "user", "content": [{"type": "input_audio", "audio": pcm(samples)}]}
    )
    connection.response.create()
    by_item = until(connection, "response.done")[-1].response.output[0]
    speak(connection, samples)
    connection.input_audio_buffer.commit()
    id = until(connection, "input_audio_buffer.committed")[-1].item_id
    connection.response.create(response={"conversation": "none", "input": [{"type": "item_reference", "id": id}]})
    by_microphone = until(connection, "response.done")[-1].response.output[0]
    assert by_item.content[0].text == by_microphone.content[0].text == fact.statement

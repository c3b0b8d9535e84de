"""Whatever comes in whatever order: the session answers in OpenAI's shapes, and what it begins it ends."""

import json
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_session import Talk, counter, finished, pcm, room, service_of, spoken, syllables

from sonant.errors import RequestError
from sonant.serve.answering.questions import SoundDelta, TextDelta
from sonant.serve.realtime.session import Session

SPEECH, QUIET = pcm(syllables(0.6)), pcm(room(0.7))
SOUND = np.zeros(1600, np.float32)
VAD = {"type": "server_vad"}
ITEM = st.sampled_from([f"item_{number}" for number in range(1, 6)])
CLIENT = st.one_of(
    st.sampled_from(
        [
            {"type": "input_audio_buffer.append", "audio": SPEECH},
            {"type": "input_audio_buffer.append", "audio": QUIET},
            {"type": "input_audio_buffer.commit"},
            {"type": "input_audio_buffer.clear"},
            {"type": "response.create"},
            {"type": "response.create", "response": {"conversation": "none"}},
            {"type": "response.create", "response": {"output_modalities": ["text"]}},
            {"type": "response.cancel"},
            {"type": "session.update", "session": {"audio": {"input": {"turn_detection": None}}}},
            {"type": "session.update", "session": {"audio": {"input": {"turn_detection": VAD, "transcription": {}}}}},
            {"type": "nonsense"},
        ]
    ),
    st.builds(lambda id: {"type": "conversation.item.delete", "item_id": id}, ITEM),
    st.builds(lambda id: {"type": "conversation.item.retrieve", "item_id": id}, ITEM),
    st.builds(
        lambda id, ms: {
            "type": "conversation.item.truncate",
            "item_id": id,
            "content_index": 0,
            "audio_end_ms": ms,
        },
        ITEM,
        st.integers(0, 300),
    ),
)
ANSWER = st.tuples(
    st.integers(0, 3),  # whose
    st.sampled_from(
        [
            TextDelta("it is "),
            SoundDelta(SOUND, 16_000),
            finished("it is", spoken=spoken("it is", SOUND)),
            finished("it is", reason="length"),
            RequestError("too long"),
        ]
    ),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(CLIENT | ANSWER, max_size=25))
def test_every_answer_that_begins_ends_once_and_every_item_that_comes_is_done(steps: list[object]) -> None:
    talk = Talk(Session(service_of(has_voice=True), name=counter()))
    for step in steps:
        if isinstance(step, dict):
            talk.say(**step)
        elif talk.questions:
            assert isinstance(step, tuple)
            whose, news = step
            id = list(talk.questions)[whose % len(talk.questions)]
            talk.fail(id, news) if isinstance(news, Exception) else talk.answer(id, news)
        running = Counter(
            event["type"]
            for event in talk.events
            if event["type"] in ("response.created", "response.done") and event["response"]["conversation_id"]
        )
        assert running["response.created"] - running["response.done"] in (0, 1)
    for id in talk.questions:
        talk.answer(id, finished("it is"))
    begun = [event["response"]["id"] for event in talk.events if event["type"] == "response.created"]
    ended = [event["response"]["id"] for event in talk.events if event["type"] == "response.done"]
    assert Counter(begun) == Counter(ended)
    added = Counter(event["item"]["id"] for event in talk.events if event["type"] == "conversation.item.added")
    done = Counter(event["item"]["id"] for event in talk.events if event["type"] == "conversation.item.done")
    assert added == done
    assert max(added.values(), default=1) == 1


@settings(max_examples=30, deadline=None)
@given(
    st.text() | st.recursive(st.none() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
def test_any_message_is_answered_with_an_error_and_nothing_else(message: object) -> None:
    talk = Talk(Session(service_of(), name=counter()))
    text = message if isinstance(message, str) else json.dumps({"type": "session.update", "session": {"x": message}})
    (event,) = talk.send(text)
    assert event["type"] == "error"

"""Hands-free: the server hears when the user speaks, answers, and is interrupted."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scripted_session import Talk, finished, room, said, syllables, types, written

from sonant.errors import RequestError
from sonant.serve.answering.questions import SoundDelta, TextDelta

Begin = Callable[..., Talk]
QUESTION = np.concatenate([room(0.5), syllables(1.0), room(0.8)])
SOUND = syllables(0.5, rate_hz=16_000)


def test_who_stops_speaking_is_answered(begin: Begin) -> None:
    talk = begin()
    events = talk.speak(QUESTION)
    assert types(events) == [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        "response.created",
    ]
    started, stopped, committed = events[:3]
    assert started["audio_start_ms"] == pytest.approx(200, abs=30)  # 300 ms of padding before 500
    assert stopped["audio_end_ms"] == pytest.approx(1875, abs=50)
    assert started["item_id"] == stopped["item_id"] == committed["item_id"] == events[3]["item"]["id"]
    (part,) = talk.questions[talk.asked].conversation.heard_parts
    assert part.data is not None
    assert len(part.data) - 44 == pytest.approx((stopped["audio_end_ms"] - started["audio_start_ms"]) * 48, abs=48)


def test_who_speaks_interrupts_the_answer(begin: Begin) -> None:
    talk = begin(has_voice=True)
    talk.speak(QUESTION)
    id = talk.asked
    talk.answer(id, TextDelta("It is Bob, who"), SoundDelta(SOUND, 16_000))
    events = talk.speak(QUESTION)
    assert types(events)[0] == "input_audio_buffer.speech_started"
    assert talk.dropped == [id]
    (done,) = (event for event in events if event["type"] == "response.done")
    assert done["response"]["id"] == id
    assert done["response"]["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
    assert types(events)[-1] == "response.created"
    assert talk.asked != id


def test_what_was_not_heard_of_an_interrupted_answer_is_no_part_of_the_next_question(begin: Begin) -> None:
    talk = begin(has_voice=True)
    talk.speak(QUESTION)
    answered = talk.answer(talk.asked, *said("one two four six", SOUND))
    talk.speak(np.concatenate([room(0.5), syllables(1.0)]))  # the user speaks while the client still plays
    item = answered[0]["item"]["id"]
    talk.say("conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=250)
    talk.speak(room(1.0))
    asked = talk.questions[talk.asked].conversation
    assert [message.text for message in asked.messages] == ["", "one two", ""]


def test_without_interrupt_response_the_answer_goes_on_and_the_turn_waits(begin: Begin) -> None:
    talk = begin()
    talk.set(audio={"input": {"turn_detection": {"type": "server_vad", "interrupt_response": False}}})
    talk.speak(QUESTION)
    id = talk.asked
    events = talk.speak(QUESTION)
    assert "response.done" not in types(events)
    assert events[-1]["error"]["code"] == "conversation_already_has_active_response"
    assert talk.answer(id, *written("Bob."))[-1]["response"]["status"] == "completed"


def test_without_create_response_the_client_asks(begin: Begin) -> None:
    talk = begin()
    talk.set(audio={"input": {"turn_detection": {"type": "server_vad", "create_response": False}}})
    assert types(talk.speak(QUESTION))[-1] == "conversation.item.done"
    assert types(talk.say("response.create")) == ["response.created"]


def test_without_turn_detection_nobody_listens(begin: Begin) -> None:
    talk = begin()
    talk.set(audio={"input": {"turn_detection": None}})
    assert talk.speak(QUESTION) == []
    talk.set(audio={"input": {"turn_detection": {"type": "server_vad"}}})
    assert types(talk.speak(QUESTION))[:2] == ["input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped"]


def test_a_turn_that_cannot_be_kept_is_told_and_the_session_goes_on(begin: Begin) -> None:
    talk = begin(max_messages=1)
    talk.write("one")
    events = talk.speak(QUESTION)
    assert types(events) == [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "error",
    ]
    assert events[-1]["error"]["code"] == "conversation_too_long"
    talk.say("conversation.item.delete", item_id="item_1")
    assert types(talk.speak(QUESTION))[-1] == "response.created"


def test_two_turns_in_one_message_are_two_turns(begin: Begin) -> None:
    talk = begin()
    events = talk.speak(np.concatenate([QUESTION, QUESTION]), chunk_s=10.0)
    assert types(events).count("input_audio_buffer.committed") == 2
    first, second = talk.questions
    assert talk.dropped == [first]
    assert second == talk.asked


def test_what_the_user_says_is_written_down_if_asked_for(begin: Begin) -> None:
    talk = begin()
    talk.set(audio={"input": {"transcription": {"language": "en"}}})
    events = talk.speak(QUESTION)
    item = events[2]["item_id"]
    transcript, response = talk.questions
    (message,) = talk.questions[transcript].conversation.messages
    assert message.text == "transcribe:"
    assert len(message.heard) == 1
    talk.answer(response, *written("Bob."))
    told = talk.answer(transcript, *written("who is it"))
    prefix = "conversation.item.input_audio_transcription"
    assert types(told) == [f"{prefix}.delta"] * 3 + [f"{prefix}.completed"]
    assert told[-1]["transcript"] == "who is it"
    assert told[-1]["item_id"] == item
    (shown,) = talk.say("conversation.item.retrieve", item_id=item)
    assert shown["item"]["content"][0]["transcript"] == "who is it"
    asked: dict[str, Any] = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "?"}]}
    talk.say("conversation.item.create", item=asked)
    talk.say("response.create")
    assert "who is it" not in str(talk.questions[talk.asked].conversation)  # the model hears, it does not read that


def test_a_transcript_that_fails_is_told_and_stops_no_answer(begin: Begin) -> None:
    talk = begin()
    talk.set(audio={"input": {"transcription": {}}})
    talk.speak(QUESTION)
    transcript, response = talk.questions
    (told,) = talk.fail(transcript, RequestError("too long"))
    assert told["type"] == "conversation.item.input_audio_transcription.failed"
    assert told["error"]["message"] == "too long"
    assert talk.answer(response, finished("Bob."))[-1]["response"]["status"] == "completed"

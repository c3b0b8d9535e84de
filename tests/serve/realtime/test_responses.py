"""Answers on their way: what the answerer says becomes what the client is told."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scripted_session import RATE_HZ, Talk, finished, said, samples_of, spoken, syllables, types, written

from sonant.audio.io import resample
from sonant.errors import BusyError, ChatError, RequestError
from sonant.serve.answering.questions import SoundDelta, TextDelta
from sonant.serve.realtime.coding import CODINGS, as_pcm

Begin = Callable[..., Talk]
SOUND = syllables(0.5, rate_hz=16_000)


def ask(talk: Talk, text: str = "Who?", **params: Any) -> str:
    """Writes and asks; returns the id of the response."""
    talk.write(text)
    talk.say("response.create", **({"response": params} if params else {}))
    return talk.asked


def done(talk: Talk) -> dict[str, Any]:
    response: dict[str, Any] = talk.events[-1]["response"]
    assert talk.events[-1]["type"] == "response.done"
    return response


def test_a_written_answer_streams_in_the_order_of_the_protocol(talk: Talk) -> None:
    events = talk.answer(ask(talk), *written("It is Bob."))
    assert types(events) == [
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.done",
    ]
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert "".join(deltas) == "It is Bob."
    response = done(talk)
    assert response["status"] == "completed"
    assert response["usage"] == {"total_tokens": 10, "input_tokens": 7, "output_tokens": 3}
    assert response["output"][0]["content"] == [{"type": "output_text", "text": "It is Bob."}]
    assert len({event["event_id"] for event in talk.events}) == len(talk.events)


def test_a_spoken_answer_is_the_sound_at_24_khz_and_its_transcript(aloud: Talk) -> None:
    events = aloud.answer(ask(aloud), *said("It is Bob.", SOUND, chunk=777))
    sound = [samples_of(e["delta"]) for e in events if e["type"] == "response.output_audio.delta"]
    whole = as_pcm(resample(SOUND, from_hz=16_000, to_hz=RATE_HZ))
    assert len(sound) > 5
    assert np.abs(np.concatenate(sound).astype(int) - whole).max() <= 1
    transcript = [e["delta"] for e in events if e["type"] == "response.output_audio_transcript.delta"]
    assert "".join(transcript) == "It is Bob."
    assert types(events)[-6:] == [
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.done",
    ]
    assert done(aloud)["output"][0]["content"] == [{"type": "output_audio", "transcript": "It is Bob."}]


@pytest.mark.parametrize("text", ["who is it | It is Bob.", "It is Bob."])
def test_of_an_answer_that_is_said_in_part_only_that_is_the_transcript(begin: Begin, text: str) -> None:
    talk = begin(has_voice=True, spoken_after=" | ")
    events = talk.answer(ask(talk), *said(text, SOUND, spoken_text="It is Bob."))
    transcript = [e["delta"] for e in events if e["type"] == "response.output_audio_transcript.delta"]
    assert "".join(transcript) == "It is Bob."
    first_sound = types(events).index("response.output_audio.delta")
    assert "response.output_audio_transcript.delta" not in types(events)[first_sound:]
    talk.write("Sure?")
    talk.say("response.create")
    assert talk.questions[talk.asked].conversation.messages[1].text == text  # what the model wrote is what it reads


def test_an_answer_with_nothing_to_say_has_no_sound(aloud: Talk) -> None:
    events = aloud.answer(ask(aloud), *said("...", SOUND[:0], spoken_text="..."))
    assert "response.output_audio.delta" not in types(events)
    assert done(aloud)["output"][0]["content"] == [{"type": "output_audio", "transcript": "..."}]


def test_telephones_hear_8_khz(aloud: Talk) -> None:
    aloud.set(audio={"output": {"format": {"type": "audio/pcmu"}}})
    events = aloud.answer(ask(aloud), *said("Yes.", SOUND))
    coding = CODINGS["audio/pcmu"]
    sound = [coding.decode(e["delta"], param="") for e in events if e["type"] == "response.output_audio.delta"]
    assert sum(map(len, sound)) == 4_000
    whole = as_pcm(resample(SOUND, from_hz=16_000, to_hz=8_000))
    assert np.corrcoef(np.concatenate(sound), whole)[0, 1] > 0.999


def test_one_response_may_differ_from_its_session(aloud: Talk) -> None:
    aloud.set(instructions="Be brief.", temperature=0.5)
    id = ask(aloud, output_modalities=["text"], instructions="Be long.", max_output_tokens=5, metadata={"k": "v"})
    question = aloud.questions[id]
    assert not question.spoken
    assert not question.fit
    assert (question.config.max_new_tokens, question.config.temperature) == (5, 0.5)
    assert question.conversation.messages[0].text == "Be long."
    assert aloud.events[-1]["response"]["metadata"] == {"k": "v"}
    aloud.answer(id, *written("Yes."))
    following = aloud.questions[ask(aloud)]
    assert following.spoken
    assert following.fit
    assert following.conversation.messages[0].text == "Be brief."


def test_an_answer_that_was_cut_at_its_limit_is_incomplete(talk: Talk) -> None:
    talk.answer(ask(talk), TextDelta("It"), finished("It", reason="length"))
    assert done(talk)["status"] == "incomplete"
    assert done(talk)["status_details"] == {"type": "incomplete", "reason": "max_output_tokens"}


def test_an_answer_without_a_word_is_an_item_without_a_word(talk: Talk) -> None:
    talk.answer(ask(talk), finished(""))
    assert done(talk)["output"][0]["content"] == [{"type": "output_text", "text": ""}]


def test_a_conversation_has_one_answer_on_its_way(talk: Talk) -> None:
    first = ask(talk)
    (error,) = talk.say("response.create")
    assert error["error"]["code"] == "conversation_already_has_active_response"
    talk.answer(first, *written("Yes."))
    talk.write("And?")
    assert types(talk.say("response.create")) == ["response.created"]


def test_without_a_question_nothing_is_answered(talk: Talk) -> None:
    (error,) = talk.say("response.create")
    assert "nothing to answer" in error["error"]["message"]
    talk.answer(ask(talk), *written("Yes."))
    (error,) = talk.say("response.create")
    assert "nothing to answer" in error["error"]["message"]


def test_cancel_stops_the_answer_and_keeps_what_was_said(talk: Talk) -> None:
    id = ask(talk)
    talk.answer(id, TextDelta("It "), TextDelta("is"))
    events = talk.say("response.cancel")
    assert types(events)[-1] == "response.done"
    assert talk.dropped == [id]
    assert done(talk)["status"] == "cancelled"
    assert done(talk)["status_details"] == {"type": "cancelled", "reason": "client_cancelled"}
    assert done(talk)["output"][0]["status"] == "incomplete"
    assert talk.answer(id, *written("late")) == []  # what was on its way is of use to nobody
    asked = talk.questions[ask(talk, "Go on.")].conversation
    assert [message.text for message in asked.messages] == ["Who?", "It is", "Go on."]


def test_an_answer_cancelled_before_its_first_piece_leaves_no_item(talk: Talk) -> None:
    ask(talk)
    assert types(talk.say("response.cancel")) == ["response.done"]
    assert done(talk)["output"] == []
    (error,) = talk.say("response.cancel")
    assert error["error"]["code"] == "response_cancel_not_active"


def test_an_answer_is_cancelled_by_its_id(talk: Talk) -> None:
    id = ask(talk)
    (error,) = talk.say("response.cancel", response_id="resp_of_another")
    assert error["error"]["code"] == "response_cancel_not_active"
    talk.say("response.cancel", response_id=id)
    assert done(talk)["id"] == id


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (BusyError("64 questions wait", retry_after_s=2), "rate_limit_error", "busy"),
        (RequestError("the prompt is too long"), "invalid_request_error", None),
        (ChatError("the chat template refuses the roles"), "invalid_request_error", None),
    ],
)
def test_an_answer_that_fails_says_why(talk: Talk, error: Exception, kind: str, code: str | None) -> None:
    talk.fail(ask(talk), error)
    details = done(talk)["status_details"]
    assert details == {"type": "failed", "error": {"type": kind, "code": code, "message": str(error)}}
    assert done(talk)["output"] == []
    talk.write("Again?")
    assert types(talk.say("response.create")) == ["response.created"]


def test_an_answer_that_fails_in_its_midst_closes_what_it_opened(talk: Talk) -> None:
    id = ask(talk)
    talk.answer(id, TextDelta("It is"))
    assert types(talk.fail(id, RequestError("no")))[:2] == ["response.output_text.done", "response.content_part.done"]
    assert done(talk)["output"][0]["status"] == "incomplete"


def test_an_answer_beside_the_conversation_leaves_no_trace_in_it(talk: Talk) -> None:
    main = ask(talk, "Who?")
    talk.say("response.create", response={"conversation": "none", "instructions": "Name the topic."})
    aside = talk.asked
    assert aside != main
    assert talk.questions[aside].conversation.messages[0].text == "Name the topic."
    events = talk.answer(aside, *written("People."))
    assert not any(event["type"].startswith("conversation.") for event in events)
    assert done(talk)["conversation_id"] is None
    talk.answer(main, *written("Bob."))
    asked = talk.questions[ask(talk, "Sure?")].conversation
    assert [message.text for message in asked.messages] == ["Who?", "Bob.", "Sure?"]


def test_a_response_may_answer_other_items_than_the_conversation(talk: Talk) -> None:
    talk.write("one")
    talk.write("two")
    text = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "three"}]}
    talk.say("response.create", response={"input": [{"type": "item_reference", "id": "item_1"}, text]})
    assert talk.questions[talk.asked].conversation.messages[0].text == "one\nthree"
    (error,) = talk.say(
        "response.create", response={"conversation": "none", "input": [{"type": "item_reference", "id": "no"}]}
    )
    assert error["error"]["code"] == "item_not_found"


def test_a_session_asks_for_a_few_answers_at_a_time(talk: Talk) -> None:
    talk.write("Who?")
    for _ in range(4):
        assert types(talk.say("response.create", response={"conversation": "none"})) == ["response.created"]
    (error,) = talk.say("response.create", response={"conversation": "none"})
    assert "4 answers are on their way" in error["error"]["message"]


def test_truncation_forgets_what_was_not_heard(aloud: Talk) -> None:
    id = ask(aloud)
    item = aloud.answer(id, *said("one two four six", SOUND))[0]["item"]["id"]
    (event,) = aloud.say("conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=250)
    assert (event["type"], event["audio_end_ms"]) == ("conversation.item.truncated", 250)
    (shown,) = aloud.say("conversation.item.retrieve", item_id=item)
    assert shown["item"]["content"] == [{"type": "output_audio", "transcript": "one two"}]
    asked = aloud.questions[ask(aloud, "Go on.")].conversation
    assert [message.text for message in asked.messages] == ["Who?", "one two", "Go on."]


def test_truncation_asks_for_a_spoken_answer_that_is_over_and_long_enough(aloud: Talk) -> None:
    def truncated(item_id: str, end_ms: int) -> str:
        fields = {"item_id": item_id, "content_index": 0, "audio_end_ms": end_ms}
        (event,) = aloud.say("conversation.item.truncate", **fields)
        message: str = event["error"]["message"]
        return message

    id = ask(aloud)
    item = aloud.answer(id, TextDelta("Yes."), SoundDelta(SOUND, 16_000))[0]["item"]["id"]
    assert "cancel the response first" in truncated(item, 100)
    (error,) = aloud.say("conversation.item.delete", item_id=item)
    assert "cancel the response first" in error["error"]["message"]
    aloud.answer(id, finished("Yes.", spoken=spoken("Yes.", SOUND)))
    assert "500 ms of sound" in truncated(item, 501)
    assert "only a spoken answer" in truncated("item_1", 0)


def test_an_answer_cut_while_it_was_said_is_truncated_too(aloud: Talk) -> None:
    id = ask(aloud)
    events = aloud.answer(id, TextDelta("one two four six"), SoundDelta(SOUND, 16_000))
    aloud.say("response.cancel")
    (event,) = aloud.say(
        "conversation.item.truncate", item_id=events[0]["item"]["id"], content_index=0, audio_end_ms=300
    )
    assert event["type"] == "conversation.item.truncated"
    asked = aloud.questions[ask(aloud, "Go on.")].conversation
    assert asked.messages[1].text == "one"  # of 16 letters at 14 a second, 300 ms are four

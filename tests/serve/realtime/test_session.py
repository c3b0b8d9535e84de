"""Settings, items and refusals; answers are in test_responses.py, voice activity in test_voice_turns.py."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scripted_session import Talk, pcm, samples_of, syllables, types, written

Begin = Callable[..., Talk]


def refused(events: list[dict[str, Any]]) -> dict[str, Any]:
    (event,) = events
    assert event["type"] == "error"
    error: dict[str, Any] = event["error"]
    return error


def test_a_session_begins_with_its_settings(begin: Begin) -> None:
    (event,) = begin(has_voice=True).events
    assert event["type"] == "session.created"
    assert event["session"]["model"] == "tiny"
    assert event["session"]["output_modalities"] == ["audio"]
    assert event["session"]["audio"]["input"]["turn_detection"]["type"] == "server_vad"


def test_a_model_without_a_voice_answers_in_writing(begin: Begin) -> None:
    talk = begin()
    assert talk.events[0]["session"]["output_modalities"] == ["text"]
    error = refused(talk.set(output_modalities=["audio"]))
    assert "has no voice" in error["message"]
    assert error["code"] == "no_voice"


def test_an_update_changes_what_it_names_and_nothing_else(talk: Talk) -> None:
    talk.set(audio={"input": {"turn_detection": {"type": "server_vad", "silence_duration_ms": 200}}})
    (event,) = talk.set(instructions="Be brief.", temperature=0.7, max_output_tokens=9)
    session = event["session"]
    assert session["instructions"] == "Be brief."
    assert (session["temperature"], session["max_output_tokens"]) == (0.7, 9)
    assert session["audio"]["input"]["turn_detection"]["silence_duration_ms"] == 200
    (event,) = talk.set(audio={"input": {"turn_detection": {"type": "server_vad", "threshold": 0.9}}})
    vad = event["session"]["audio"]["input"]["turn_detection"]
    assert (vad["threshold"], vad["silence_duration_ms"]) == (0.9, 200)
    (event,) = talk.set(audio={"input": {"turn_detection": None}})
    assert event["session"]["audio"]["input"]["turn_detection"] is None


def test_another_format_replaces_the_one_before(aloud: Talk) -> None:
    (event,) = aloud.set(
        audio={"input": {"format": {"type": "audio/pcmu"}}, "output": {"format": {"type": "audio/pcma"}}}
    )
    assert event["session"]["audio"]["input"]["format"] == {"type": "audio/pcmu"}
    assert event["session"]["audio"]["output"]["format"] == {"type": "audio/pcma"}


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"modalities": ["text"]}, "session.modalities"),
        ({"temperature": 3}, "session.temperature"),
        ({"output_modalities": ["text", "audio"]}, "session.output_modalities"),
        ({"model": "other"}, "session.model"),
        ({"type": "transcription"}, "session.type"),
        ({"tools": [{"type": "function", "name": "rm"}]}, "session.tools"),
        ({"max_output_tokens": 10**6}, "session.max_output_tokens"),
        ({"audio": {"output": {"voice": "alloy"}}}, "session.audio.output.voice"),
        ({"audio": {"input": {"turn_detection": {"type": "semantic_vad"}}}}, "session.audio.input.turn_detection.type"),
        ({"audio": {"input": {"transcription": {"model": "whisper-1"}}}}, "session.audio.input.transcription.model"),
        ({"audio": {"input": {"transcription": {"language": "tlh"}}}}, "session.audio.input.transcription.language"),
        ({"audio": {"input": {"noise_reduction": {"type": "near_field"}}}}, "session.audio.input.noise_reduction"),
        ({"truncation": "auto"}, "session.truncation"),
    ],
)
def test_a_setting_that_is_not_ours_is_refused_by_name_and_nothing_changes(
    talk: Talk, settings: dict[str, Any], param: str
) -> None:
    error = refused(talk.set(**settings))
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    (event,) = talk.set()
    assert event["session"]["output_modalities"] == ["text"]
    assert event["session"]["temperature"] == 0.0


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("{", None),
        ("[" * 100_000, None),
        ("1", None),
        ('{"type": "session.update", "session": {"tools": [' + "1," * 1_000_000 + "1]}}", None),
        ('{"type": "conversation.item.delete", "item_id": "\\ud800"}', None),  # half a character
        ("{}", "type"),
        ('{"type": "response.explode"}', "type"),
        ('{"type": "input_audio_buffer.append"}', "audio"),
        ('{"type": "input_audio_buffer.append", "audio": "AAAA", "rate": 8000}', "rate"),
        ('{"type": "conversation.item.create", "item": {"type": "function_call", "role": "user"}}', "item.type"),
        (
            '{"type": "conversation.item.create", "item": {"type": "message", "role": "user", "content": []}}',
            "item.content",
        ),
        (
            '{"type": "conversation.item.create", "item": {"type": "message", "role": "user", '
            '"content": [{"type": "input_image", "image_url": "http://169.254.169.254/"}]}}',
            "item.content.0.type",
        ),
        ('{"type": "response.create", "response": {"temperature": NaN}}', "response.temperature"),
        ('{"type": "response.create", "response": {"prompt": {"id": "x"}}}', "response.prompt"),
    ],
)
def test_bad_input_is_told_and_the_session_goes_on(talk: Talk, message: str, param: str | None) -> None:
    error = refused(talk.send(message))
    assert error["param"] == param
    assert len(error["message"]) < 500
    talk.write("Are you there?")
    assert types(talk.say("response.create")) == ["response.created"]


def test_an_error_names_the_event_that_is_at_fault(talk: Talk) -> None:
    assert refused(talk.say("response.cancel", event_id="mine"))["event_id"] == "mine"
    assert refused(talk.say("response.explode", event_id="mine"))["event_id"] == "mine"
    assert refused(talk.send('{"event_id": "mine"'))["event_id"] is None


def test_a_fault_of_ours_is_told_in_fixed_words(talk: Talk, caplog: pytest.LogCaptureFixture) -> None:
    talk.write("Hello?")
    talk.say("response.create")
    (done,) = talk.fail(talk.asked, ValueError("0xdeadbeef in /srv/model"))
    assert done["response"]["status"] == "failed"
    error = done["response"]["status_details"]["error"]
    assert error["type"] == "server_error"
    assert "0xdeadbeef" not in json.dumps(done)
    assert "0xdeadbeef" in caplog.text


def test_a_fault_of_ours_ends_no_session(
    talk: Talk, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("sonant.serve.realtime.session.item_of", lambda *_, **__: 1 / 0)
        (event,) = talk.write("one")
    assert event["error"]["type"] == "server_error"
    assert "ZeroDivisionError" in caplog.text
    assert types(talk.write("one")) == ["conversation.item.added", "conversation.item.done"]


def test_items_are_created_shown_and_deleted(talk: Talk) -> None:
    added, done = talk.write("one")
    assert types([added, done]) == ["conversation.item.added", "conversation.item.done"]
    assert added["item"]["content"] == [{"type": "input_text", "text": "one"}]
    assert talk.write("two")[0]["previous_item_id"] == "item_1"
    item = {"type": "message", "role": "system", "id": "mine", "content": [{"type": "input_text", "text": "kind"}]}
    assert talk.say("conversation.item.create", item=item, previous_item_id="root")[0]["previous_item_id"] is None
    assert "already" in refused(talk.say("conversation.item.create", item=item))["message"]
    (shown,) = talk.say("conversation.item.retrieve", item_id="mine")
    assert shown["item"]["role"] == "system"
    assert types(talk.say("conversation.item.delete", item_id="item_1")) == ["conversation.item.deleted"]
    assert refused(talk.say("conversation.item.retrieve", item_id="item_1"))["code"] == "item_not_found"
    talk.say("response.create")
    asked = talk.questions[talk.asked].conversation
    assert [(message.role, message.text) for message in asked.messages] == [("system", "kind"), ("user", "two")]


def test_sound_in_an_item_is_kept_and_shown_only_when_asked_for(talk: Talk) -> None:
    sound = syllables(0.2)
    content = [{"type": "input_audio", "audio": pcm(sound), "transcript": "la la"}]
    added, _ = talk.say("conversation.item.create", item={"type": "message", "role": "user", "content": content})
    assert added["item"]["content"] == [{"type": "input_audio", "transcript": "la la"}]
    (shown,) = talk.say("conversation.item.retrieve", item_id=added["item"]["id"])
    assert shown["item"]["content"][0]["audio"] == pcm(sound)


@pytest.mark.parametrize("audio", ["", "!", "AA=="])
def test_sound_that_is_none_is_refused(talk: Talk, audio: str) -> None:
    content = [{"type": "input_text", "text": "hear"}, {"type": "input_audio", "audio": audio}]
    item = {"type": "message", "role": "user", "content": content}
    error = refused(talk.say("conversation.item.create", item=item))
    assert error["param"] == "item.content.1.audio"


def test_the_client_commits_what_it_appended(talk: Talk) -> None:
    sound = syllables(0.3)
    assert talk.speak(sound) == []
    committed, added, done = talk.say("input_audio_buffer.commit")
    assert types([committed, added, done]) == [
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
    ]
    assert committed["item_id"] == added["item"]["id"]
    (shown,) = talk.say("conversation.item.retrieve", item_id=committed["item_id"])
    assert np.array_equal(samples_of(shown["item"]["content"][0]["audio"]), samples_of(pcm(sound)))
    error = refused(talk.say("input_audio_buffer.commit"))
    assert error["code"] == "input_audio_buffer_commit_empty"


def test_what_is_cleared_is_never_committed(talk: Talk) -> None:
    talk.speak(syllables(0.3))
    assert types(talk.say("input_audio_buffer.clear")) == ["input_audio_buffer.cleared"]
    assert refused(talk.say("input_audio_buffer.commit"))["code"] == "input_audio_buffer_commit_empty"


def test_a_commit_that_is_refused_keeps_the_sound(begin: Begin) -> None:
    talk = begin(max_messages=1)
    talk.set(audio={"input": {"turn_detection": None}})
    talk.write("one")
    talk.speak(syllables(0.3))
    assert refused(talk.say("input_audio_buffer.commit"))["code"] == "conversation_too_long"
    talk.say("conversation.item.delete", item_id="item_1")
    assert types(talk.say("input_audio_buffer.commit"))[0] == "input_audio_buffer.committed"


def test_sound_beyond_the_buffer_is_refused(begin: Begin) -> None:
    talk = begin(max_audio_s=1.0)
    talk.set(audio={"input": {"turn_detection": None}})
    assert talk.speak(syllables(1.0)) == []
    assert refused(talk.speak(syllables(0.1)))["code"] == "input_audio_buffer_full"


def test_the_input_format_is_settled_with_the_first_sound(talk: Talk) -> None:
    talk.set(audio={"input": {"format": {"type": "audio/pcmu"}}})
    talk.say("input_audio_buffer.append", audio=pcm(syllables(0.1)))  # as many bytes, read as mu-law: 0.6 s
    error = refused(talk.set(audio={"input": {"format": {"type": "audio/pcm"}}}))
    assert error["param"] == "session.audio.input.format"
    talk.say("input_audio_buffer.commit")
    talk.say("response.create")
    (part,) = talk.questions[talk.asked].conversation.heard_parts
    assert part.data is not None
    assert int.from_bytes(part.data[24:28], "little") == 8_000  # the rate in a WAV header


def test_the_instructions_count_as_text_that_is_read(begin: Begin) -> None:
    talk = begin(max_text_chars=20)
    talk.set(instructions="x" * 18)
    talk.write("hello")
    assert refused(talk.say("response.create"))["code"] == "conversation_too_long"


def test_ids_are_not_guessable_and_never_given_twice() -> None:
    from sonant.serve.realtime.session import new_id

    ids = {new_id("item") for _ in range(1000)}
    assert len(ids) == 1000
    assert all(len(id) == len("item_") + 24 for id in ids)


def test_an_answer_is_part_of_the_next_question(talk: Talk) -> None:
    talk.write("Who?")
    talk.say("response.create")
    talk.answer(talk.asked, *written("It is Bob."))
    talk.write("Sure?")
    talk.say("response.create")
    asked = talk.questions[talk.asked].conversation
    assert [(message.role, message.text) for message in asked.messages] == [
        ("user", "Who?"),
        ("assistant", "It is Bob."),
        ("user", "Sure?"),
    ]

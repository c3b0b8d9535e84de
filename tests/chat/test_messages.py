"""Conversations come from JSON and go back, and mistakes in JSON are explained."""

import json

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sonant.chat.messages import AudioPart, Conversation, Message, TextPart, assistant, system, user
from sonant.errors import ChatError

patient = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
ROW = {
    "id": "ls-1089-0001",
    "task": "asr",
    "language": "en",
    "speaker": "1089",
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Transcribe:", "style": "terse"},
                {
                    "type": "audio",
                    "path": "clips/a.flac",
                    "offset_s": 1.5,
                    "duration_s": 3.2,
                    "transcript": "x",
                    "snr": 3,
                },
            ],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "he hoped"}], "name": "bot"},
    ],
    "licence": {"spdx": "CC-BY-4.0"},
}

extras = st.dictionaries(st.sampled_from(["note", "snr_db", "tags"]), st.integers() | st.text(max_size=5), max_size=2)
seconds = st.floats(0.001, 100)
texts = st.builds(TextPart, st.text(max_size=10), extras)
named = st.builds(AudioPart, st.text(min_size=1, max_size=5), st.just(0.0) | seconds, st.none() | seconds, extra=extras)
in_memory = st.builds(AudioPart, transcript=st.none() | st.text(max_size=5), data=st.binary(min_size=1, max_size=5))
messages = st.builds(
    Message,
    st.sampled_from(["system", "user", "assistant"]),
    st.lists(texts | named | in_memory, max_size=4).map(tuple),
    extras,
)
conversations = st.builds(
    Conversation,
    st.lists(messages, min_size=1, max_size=4).map(tuple),
    id=st.text(max_size=4),
    language=st.none() | st.just("de"),
    extra=extras,
)


@given(conversations)
@patient
def test_a_conversation_survives_json(conversation):
    assert Conversation.from_json(json.loads(json.dumps(conversation.to_json()))) == conversation


def test_a_manifest_row_is_read_and_written_with_every_key():
    conversation = Conversation.from_json(ROW)
    assert conversation.audio_parts[0].key == ("clips/a.flac", 1.5, 3.2)
    assert conversation.messages[0].parts[0].extra == {"style": "terse"}
    assert conversation.extra == {"licence": {"spdx": "CC-BY-4.0"}}
    assert conversation.to_json() == ROW


def test_content_may_be_plain_text():
    row = {"messages": [{"role": "user", "content": "hi"}]}
    assert Conversation.from_json(row) == Conversation((user("hi"),))


def test_recordings_of_the_same_name_in_two_folders_stay_distinct():
    assert AudioPart("a/x.wav").key != AudioPart("b/x.wav").key
    assert AudioPart("a/x.wav").key != AudioPart("a/x.wav", 1.0).key
    assert AudioPart(data=b"a").key == AudioPart(data=b"a").key != AudioPart(data=b"b").key


def test_relative_paths_start_at_the_folder_of_the_manifest():
    conversation = Conversation((user(AudioPart("a.wav"), AudioPart("/b.wav"), AudioPart(data=b"x"), "hi"),))
    assert [part.path for part in conversation.with_root("/data").audio_parts] == ["/data/a.wav", "/b.wav", None]
    assert conversation.with_root("/data").messages[0].text == "hi"


def test_the_prompt_leaves_out_the_answer_and_nothing_else():
    turns = system("s"), user("q"), assistant("a", "b")
    assert Conversation(turns).prompt().messages == turns[:2]
    assert Conversation(turns).reference == "ab"


def test_the_last_question_survives():  # spec: a published model drops the last turn even if it is the user's
    unanswered = Conversation((user("q"), assistant("a"), user("again?")))
    assert unanswered.prompt() == unanswered
    assert unanswered.reference == ""


def audio(**keys):
    return {"messages": [{"role": "user", "content": [{"type": "audio", **keys}]}]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([], "conversation: is list []; allowed is an object with 'messages'"),
        ({}, "conversation.messages: is missing; allowed is a list of messages"),
        ({"messages": []}, "messages: is empty"),
        ({"messages": ["hi"]}, "messages[0]: is str 'hi'; allowed is an object with 'role' and 'content'"),
        ({"messages": [], "id": 7}, "messages: is empty"),
        ({"messages": [{"role": "user", "content": "x"}], "id": 7}, "conversation.id: is int 7; allowed is text"),
        (
            {"messages": [{"role": "bot", "content": "x"}]},
            "messages[0].role: is 'bot'; allowed is one of system, user, assistant",
        ),
        ({"messages": [{"content": "x"}]}, "messages[0].role: is missing"),
        ({"messages": [{"role": "user"}]}, "messages[0].content: is missing; allowed is text or a list of parts"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content: is int 3"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]: is str 'x'"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "content[0].type: is 'video'; allowed is"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "content[0].text: is missing"),
        (audio(), "messages[0].content[0]: an audio part needs either a path or data, got neither"),
        (audio(path="a", data="eA=="), "needs either a path or data, got both"),
        (audio(path=3), "messages[0].content[0].path: is int 3; allowed is the name of an audio file"),
        (audio(data="!"), "content[0].data: is str '!'; allowed is base64 text"),
        (audio(data="é"), "content[0].data: is str 'é'; allowed is base64 text"),
        (audio(path="a", offset_s="1"), "content[0].offset_s: is str '1'; allowed is a number of seconds"),
        (audio(path="a", offset_s=True), "content[0].offset_s: is bool True"),
        (audio(path="a", offset_s=-1), "content[0]: audio a: offset_s is -1.0; it must be 0 or more"),
        (audio(path="a", duration_s=0), "content[0]: audio a: duration_s is 0.0; give more than 0 seconds"),
        (audio(path="a", duration_s=float("nan")), "duration_s is nan"),
    ],
)
def test_a_mistake_in_json_is_explained(row, message):
    with pytest.raises(ChatError) as caught:
        Conversation.from_json(row)
    assert message in str(caught.value)


def test_a_role_that_does_not_exist_is_refused():
    with pytest.raises(ChatError, match="role is 'bot'; allowed are system, user, assistant"):
        Message("bot", ())


def test_an_assistants_audio_is_spoken_and_everyone_elses_heard():
    part = {name: AudioPart(f"{name}.wav") for name in "suab"}
    turns = system("s", part["s"]), user(part["u"]), assistant("a", part["a"]), user("v"), assistant("b", part["b"])
    conversation = Conversation(turns)
    assert conversation.audio_parts == tuple(part.values())
    assert conversation.heard_parts == (part["s"], part["u"])
    assert conversation.spoken == part["b"]
    assert conversation.prompt().spoken is None  # an earlier answer is only read
    assert [message.spoken for message in turns] == [None, None, part["a"], None, part["b"]]


@pytest.mark.parametrize(
    ("transcript", "said"), [(None, "A cat. It purrs"), ("It purrs", "It purrs"), (" It purrs\n", "It purrs")]
)
def test_the_spoken_text_is_the_end_of_the_text(transcript, said):
    assert assistant("A cat. ", "It purrs ", AudioPart("a.wav", transcript=transcript)).spoken_text == said
    assert not user("A cat. It purrs", AudioPart("a.wav", transcript=transcript)).spoken_text


def test_a_part_loads_its_own_stretch(tmp_path):
    samples = np.arange(1600, dtype=np.float32) / 1600
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    part = AudioPart(path=str(tmp_path / "a.wav"), offset_s=0.025, duration_s=0.05)
    assert part.load(sample_rate_hz=16_000).tolist() == samples[400:1200].tolist()

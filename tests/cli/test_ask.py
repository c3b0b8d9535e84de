import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sonant.audio.io import load, save
from sonant.chat.messages import AudioPart, Conversation, TextPart
from sonant.testing import tone

Run = Callable[..., Any]
SHORT = ("--max-new-tokens", "4")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    save(tmp_path / "clip.wav", tone(0.1), sample_rate_hz=16_000)
    return tmp_path / "clip.wav"


def asked(outcome: Any) -> Conversation:
    (line,) = outcome.out.splitlines()
    return Conversation.from_json(json.loads(line))


def test_the_answer_is_printed(sonant: Run, model: Path, answers: dict[str, tuple[str, str]]) -> None:
    with_lora, without = answers["who?"]
    asking = ("ask", model, "who?", "--max-new-tokens", "16")
    assert sonant(*asking).out == with_lora + "\n"
    assert sonant(*asking, "--no-lora").out == without + "\n"


def test_text_and_clips_make_turns_and_json_is_one_line_of_a_manifest(sonant: Run, model: Path, clip: Path) -> None:
    arguments = ("repeat:", clip, "::", "and", clip, clip, "--system", "be brief", "--json", *SHORT)
    conversation = asked(sonant("ask", model, *arguments))
    roles = [message.role for message in conversation.messages]
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    sound = AudioPart(path=str(clip))
    assert conversation.messages[1].parts == (TextPart("repeat:"), sound)
    assert conversation.messages[3].parts == (TextPart("and"), sound, sound)


def test_chat_reads_a_turn_a_line_until_an_empty_one(sonant: Run, model: Path, clip: Path) -> None:
    typed = f"hello there you\nwrite down {clip} please now\n\nnever read\n"
    conversation = asked(sonant("ask", model, "--chat", "--json", *SHORT, stdin=typed))
    turns = [message.parts for message in conversation.messages if message.role == "user"]
    assert turns == [
        (TextPart("hello there you"),),
        (TextPart("write down"), AudioPart(path=str(clip)), TextPart("please now")),
    ]


def test_chat_goes_on_after_what_was_asked_on_the_command_line(sonant: Run, model: Path) -> None:
    conversation = asked(sonant("ask", model, "first", "--chat", "--json", *SHORT, stdin="second\n"))
    assert [m.text for m in conversation.messages if m.role == "user"] == ["first", "second"]


def test_chat_answers_each_line_at_once(sonant: Run, model: Path, answers: dict[str, tuple[str, str]]) -> None:
    assert sonant("ask", model, "--chat", "--max-new-tokens", "16", stdin="who?\n").out == answers["who?"][0] + "\n"


@pytest.mark.parametrize("turns", [["::"], ["a", "::"], ["::", "a"], ["a", "::", "::", "b"]])
def test_an_empty_turn_is_told_before_anything_is_answered(sonant: Run, model: Path, turns: list[str]) -> None:
    outcome = sonant("ask", model, *turns)
    assert outcome.out == ""
    assert outcome.complaint == "sonant: an empty turn: put text or an audio file on both sides of '::'"


def test_nothing_to_ask_is_told(sonant: Run, model: Path) -> None:
    assert "nothing to ask" in sonant("ask", model).complaint


def test_a_missing_audio_file_is_told(sonant: Run, model: Path, tmp_path: Path) -> None:
    complaint = sonant("ask", model, "repeat:", tmp_path / "none.wav").complaint
    assert f"{tmp_path / 'none.wav'}" in complaint


def test_a_file_of_another_kind_is_taken_for_audio_and_not_read_as_its_name(
    sonant: Run, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "song.m4a").write_bytes(b"\0\0\0\x20ftypM4A ")
    assert f"{tmp_path / 'song.m4a'}" in sonant("ask", model, tmp_path / "song.m4a").complaint


@pytest.mark.parametrize("name", ["gone.m4a", "gone.mp4", "a/folder"])
def test_what_is_meant_as_audio_is_never_read_as_text(sonant: Run, model: Path, tmp_path: Path, name: str) -> None:
    # The model was asked "gone.mp4", and answered something.
    (tmp_path / "a" / "folder").mkdir(parents=True)
    assert str(tmp_path / name) in sonant("ask", model, tmp_path / name).complaint


def test_a_folder_named_like_audio_is_told(sonant: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "clip.wav").mkdir()
    assert f"{tmp_path / 'clip.wav'}" in sonant("ask", model, tmp_path / "clip.wav").complaint


def test_a_folder_that_is_no_model_is_told(sonant: Run, tmp_path: Path) -> None:
    assert "there is no checksums.json" in sonant("ask", tmp_path, "hello").complaint
    assert "there is no checksums.json" in sonant("ask", tmp_path / "none", "hello").complaint
    (tmp_path / "file").write_text("")
    assert "there is no checksums.json" in sonant("ask", tmp_path / "file", "hello").complaint


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_model_file_is_named(sonant: Run, model: Path, name: str) -> None:
    whole = (model / name).read_bytes()
    try:
        (model / name).write_bytes(whole[: len(whole) // 2])
        complaint = sonant("ask", model, "hello").complaint
    finally:
        (model / name).write_bytes(whole)
    assert str(model / name) in complaint
    assert "is damaged" in complaint


def test_a_conversation_longer_than_the_model_reads_is_told(sonant: Run, model: Path) -> None:
    assert "2048" in sonant("ask", model, "a" * 3000).complaint


def test_an_answer_is_written_then_said_and_the_sound_is_told(sonant: Run, speaking_model: Path, clip: Path) -> None:
    out = clip.with_name("out.wav")
    outcome = sonant("ask", speaking_model, clip, "go on", "--speak", out, "--vocoder", "griffin_lim", *SHORT)
    assert outcome.out == sonant("ask", speaking_model, clip, "go on", *SHORT).out
    assert len(load(out)) == 1600
    assert outcome.err.startswith(f"{out}: 0.10 s of speech; real-time factor ")
    assert "; first sound after " in outcome.err
    assert "CUT OFF: it did not come to an end by itself" in outcome.err


def test_a_spoken_answer_is_a_recording_of_its_row_and_the_last_turn_is_the_one_that_is_said(
    sonant: Run, speaking_model: Path, tmp_path: Path
) -> None:
    arguments = ("a", "::", "b", "--speak", tmp_path / "b.flac", "--vocoder", "griffin_lim", "--json", *SHORT)
    outcome = sonant("ask", speaking_model, *arguments)
    first, last = (message for message in asked(outcome).messages if message.role == "assistant")
    assert first.spoken is None
    assert last.spoken is not None
    assert (last.spoken.path, last.spoken_text) == (str(tmp_path / "b.flac"), last.text.strip())


def test_the_same_seed_gives_the_same_file(sonant: Run, speaking_model: Path, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.wav", "b.wav")]
    for file in files:
        sonant("ask", speaking_model, "a", "--speak", file, "--vocoder", "griffin_lim", "--seed", 7, *SHORT)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_model_that_only_writes_says_what_to_train(sonant: Run, model: Path, tmp_path: Path) -> None:
    outcome = sonant("ask", model, "a", "--speak", tmp_path / "a.wav")
    assert "no voice" in outcome.complaint
    assert "sonant train spectron" in outcome.complaint
    assert not (tmp_path / "a.wav").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("a", "--speak", "none/a.wav"), "in a folder that exists"),
        (("a", "--speak", "a.m4a"), "ends in .wav, .flac"),
        (("--chat", "--speak", "a.wav"), "without --chat"),
        (("a", "--vocoder", "griffin_lim"), "add --speak FILE"),
    ],
)
def test_what_cannot_be_said_is_told_before_a_model_is_loaded(
    sonant: Run, tmp_path: Path, arguments: tuple[str, ...], told: str
) -> None:
    outcome = sonant("ask", tmp_path / "no model", *arguments)
    assert outcome.out == ""
    assert told in outcome.complaint

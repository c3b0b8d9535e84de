"""Whether what a row asks for is read as it was written, and refused where it contradicts itself."""

import json
from typing import Any

import pytest

from sonant.chat.messages import Conversation, assistant, user
from sonant.data.instructions import Instruction, listed_instructions
from sonant.errors import ConfigError

WORDS = {"kind": "transcription", "intro": "Words:", "reference": "the cat sleeps"}
SOUND = {"kind": "label", "intro": "Sound:", "reference": "sad", "labels": ["calm", "sad"]}
GERMAN = {"kind": "translation", "intro": "German:", "reference": "die Katze", "language": None, "aliases": ["Katze"]}
ASIDE = {"kind": "question", "reference": "Berlin", "heard": False}


def row(*instructions: dict[str, Any]) -> Conversation:
    return Conversation((user("do this"), assistant("done")), id="r1", extra={"instructions": list(instructions)})


def test_what_is_read_is_written_again_letter_by_letter() -> None:
    read = listed_instructions(row(WORDS, SOUND, GERMAN, ASIDE))
    assert [json.dumps(each.to_json()) for each in read] == [json.dumps(each) for each in (WORDS, SOUND, GERMAN, ASIDE)]


def test_what_was_not_said_has_a_default() -> None:
    (aside,) = listed_instructions(row(ASIDE))
    assert aside == Instruction(kind="question", reference="Berlin", intro="", labels=(), aliases=(), heard=False)


def test_a_row_that_lists_nothing_asks_for_nothing() -> None:
    assert listed_instructions(Conversation((user("a"), assistant("b")))) == ()


@pytest.mark.parametrize(
    ("instruction", "told"),
    [
        ({**WORDS, "labels": ["a"]}, "kind 'transcription' has 1"),
        ({**SOUND, "labels": []}, "kind 'label' has 0"),
        ({**WORDS, "intr": "a"}, "row 'r1': unknown key 'instructions.0.intr' .did you mean 'intro'"),
        ({**WORDS, "kind": "song"}, "'instructions.0.kind'.*'transcription'.*got 'song'"),
        ({"kind": "question"}, "'instructions.0.reference' is required"),
    ],
)
def test_an_instruction_in_another_form_is_refused(instruction: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        listed_instructions(row(instruction))

"""Whether checkers count what they say: on replies one can read."""

from typing import Any

import pytest

from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.errors import EvaluationError
from sonant.evaluate.metrics.instructions import (
    ALL_CORRECT,
    INSTRUCTION_FOLLOWING,
    instructions_of,
    last_body,
    part_marks,
)

SAID = "the old cat sleeps in the barn"
WORDS = {"kind": "transcription", "intro": "Words:", "reference": SAID}
GERMAN = {
    "kind": "translation",
    "intro": "German:",
    "reference": "die alte katze schläft in der scheune",
    "language": "de",
}
SOUND = {"kind": "label", "intro": "Sound:", "reference": "sad", "labels": ["calm", "excited", "sad", "angry"]}
ASIDE = {"kind": "question", "intro": "Also:", "reference": "Berlin is in Germany", "heard": False}
GOLD = f"Words: {SAID}.\nGerman: Die alte Katze schläft in der Scheune.\nSound: sad\nAlso: Berlin is in Germany."


def row(*instructions: dict[str, Any], said: str | None = SAID) -> Conversation:
    prompt = user("do all of this:", AudioPart("a.wav", transcript=said))
    return Conversation((prompt, assistant(GOLD)), id="r1", extra={"instructions": list(instructions)})


ALL = row(WORDS, GERMAN, SOUND, ASIDE)


def followed(reply: str, asked: Conversation = ALL) -> list[bool]:
    return [mark.followed for mark in part_marks(reply, asked)]


def right(reply: str, asked: Conversation = ALL) -> list[bool]:
    return [mark.right for mark in part_marks(reply, asked)]


def test_the_reference_follows_every_instruction_and_is_right() -> None:
    assert (followed(GOLD), right(GOLD)) == ([True] * 4, [True] * 4)
    scores = [metric.counts([GOLD], [ALL]).tolist() for metric in (INSTRUCTION_FOLLOWING, ALL_CORRECT)]
    assert scores == [[[1.0, 1.0]]] * 2


def test_a_mere_transcript_follows_nothing() -> None:
    assert followed(SAID) == [False] * 4
    assert followed("") == [False] * 4


def test_following_and_being_right_are_two_numbers() -> None:
    bodies = ("the old hat sleeps in the barn", "die alte kuh schläft in der scheune", "angry", "berlin is in france")
    reply = " ".join(
        f"{intro}: {body}." for intro, body in zip(("words", "german", "sound", "also"), bodies, strict=True)
    )
    assert (followed(reply), right(reply)) == ([True] * 4, [False] * 4)


def test_one_part_left_out_and_the_row_is_not_followed() -> None:
    """By hand: three of four parts are; the row counts 0 of 1."""
    reply = GOLD.replace("Sound: sad\n", "")
    assert followed(reply) == [True, True, False, True]
    assert INSTRUCTION_FOLLOWING.counts([reply], [ALL]).tolist() == [[0.0, 1.0]]


def test_parts_in_another_order_or_twice_are_not_in_place() -> None:
    lines = GOLD.splitlines()
    assert followed("\n".join([lines[1], lines[0], *lines[2:]])) == [False, True, True, True]
    assert followed("\n".join([*lines, lines[2]])) == [True, True, False, True]


def test_line_breaks_case_and_bullets_do_not_matter() -> None:
    assert right(GOLD.replace("\n", " ").upper()) == [True] * 4
    assert right("Sure, here you are. " + GOLD) == [True] * 4


@pytest.mark.parametrize(
    ("body", "held"),
    [
        ("the old cat sleeps", True),  # 3 of 7 words missing
        ("the old cat", False),  # 4 of 7: more than half
        ("die alte katze schläft in der scheune", False),  # translated instead
        ("", False),
    ],
)
def test_a_transcription_has_at_most_half_of_its_words_wrong(body: str, held: bool) -> None:
    assert followed(f"words: {body}", row(WORDS)) == [held]


@pytest.mark.parametrize(
    ("body", "held"),
    [
        ("die alte katze ruht in der scheune", True),
        (SAID, False),  # an echo in English
        ("der hund", False),  # German, but of something else
        ("", False),
    ],
)
def test_a_translation_is_near_the_reference_and_no_echo(body: str, held: bool) -> None:
    assert followed(f"german: {body}", row(GERMAN)) == [held]


@pytest.mark.parametrize(
    ("body", "held", "hit"),
    [
        ("sad", True, True),
        ("The speaker sounds sad.", True, True),
        ("angry", True, False),
        ("sad or angry", False, False),  # two labels
        ("saddened", False, False),  # whole words
        ("i think that the one who speaks here sounds sad", False, False),  # more than eight words
        ("happy", False, False),
    ],
)
def test_a_label_is_one_of_those_allowed_and_short(body: str, held: bool, hit: bool) -> None:
    asked = row(SOUND)
    assert (followed(f"sound: {body}", asked), right(f"sound: {body}", asked)) == ([held], [hit])


@pytest.mark.parametrize(
    ("body", "held"),
    [
        ("berlin is in poland", True),
        ("poland", True),  # short, and no other text of the row
        (SAID, False),  # transcribes instead
        ("die alte katze schläft in der scheune", False),  # answers another part
        ("berlin is in germany and paris is in france and rome is in italy", False),  # runs on
        ("", False),
    ],
)
def test_an_answer_is_nearest_to_its_own_reference(body: str, held: bool) -> None:
    asked = row(GERMAN, ASIDE)
    assert followed(f"german: {GERMAN['reference']} also: {body}", asked)[1] == held


def test_an_alias_is_right_too() -> None:
    asked = row({**ASIDE, "aliases": ["It is in Germany"]})
    assert right("also: it is in germany", asked) == [True]


def test_the_longer_of_two_intros_is_taken_where_both_fit() -> None:
    short, long = {**WORDS, "intro": "in german"}, {**GERMAN, "intro": "in german words"}
    reply = f"in german {SAID} in german words {GERMAN['reference']}"
    assert right(reply, row(short, long)) == [True, True]


def test_a_single_instruction_needs_no_intro() -> None:
    assert right(SAID, row({**WORDS, "intro": ""})) == [True]


def test_without_a_transcript_a_translation_is_still_checked() -> None:
    assert followed(f"german: {GERMAN['reference']}", row(GERMAN, said=None)) == [True]


@pytest.mark.parametrize(
    ("instructions", "told"),
    [
        ([], "'r1'.*lists 0"),
        ([WORDS, {**GERMAN, "intro": "words"}], "an intro of its own"),
        ([{**SOUND, "reference": "happy"}], "'happy' is none of its labels calm, excited, sad, angry"),
        ([{**WORDS, "intr": "a"}], "did you mean 'intro'"),
    ],
)
def test_rows_that_do_not_say_what_they_ask_are_refused(instructions: list[dict[str, Any]], told: str) -> None:
    with pytest.raises(EvaluationError, match=told):
        instructions_of(row(*instructions))


def test_what_a_chain_comes_to_is_its_last_part_or_its_last_line() -> None:
    assert last_body("words: a\ngerman: b c.", row(WORDS, GERMAN)) == "b c"
    assert last_body("words: a\nB c", row(WORDS, GERMAN)) == "b c"  # without its intro
    plain = Conversation((user("a"), assistant("b")))
    assert [last_body(text, plain) for text in ("one\ntwo\n\n Three. \n", "")] == ["three", ""]

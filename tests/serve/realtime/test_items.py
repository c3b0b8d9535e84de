import numpy as np
import pytest

from sonant.audio.io import load
from sonant.chat.messages import AudioPart, TextPart
from sonant.serve.failures import RefusedError
from sonant.serve.realtime.coding import CODINGS, as_float
from sonant.serve.realtime.items import Content, Heard, Item, Items, Said, Written, conversation_of
from sonant.serve.settings import ServeConfig

PCM = CODINGS["audio/pcm"]
TONE = (1000 * np.sin(np.arange(2_400))).astype(np.int16)  # 0.1 s


def user(*content: Content, id: str = "u") -> Item:
    return Item(id, "user", list(content))


def answer(*content: Content, id: str = "a") -> Item:
    return Item(id, "assistant", list(content))


def test_a_model_reads_items_as_messages_and_hears_their_sound() -> None:
    items = [user(Written("Who says"), Heard(TONE, PCM)), answer(Said("Bob.", "Bob.")), user(Heard(TONE, PCM))]
    asked = conversation_of(items, instructions="Be brief.")
    assert [message.role for message in asked.messages] == ["system", "user", "assistant", "user"]
    assert [message.text for message in asked.messages] == ["Be brief.", "Who says", "Bob.", ""]
    assert [len(message.heard) for message in asked.messages] == [0, 1, 0, 1]
    heard = load(asked.heard_parts[0].source, sample_rate_hz=24_000)
    assert np.array_equal(heard, as_float(TONE))


def test_neighbours_of_one_role_are_one_message_and_a_line_ends_between_two_texts() -> None:
    items = [
        Item("s", "system", [Written("Be kind.")]),
        user(Written("Hear")),
        user(Heard(TONE, PCM)),
        user(Written("!")),
    ]
    told, asked = conversation_of(items, instructions="Be brief.").messages
    assert told.text == "Be brief.\nBe kind."
    assert [type(part) for part in asked.parts] == [TextPart, AudioPart, TextPart]
    assert conversation_of([user(Written("a")), user(Written("b"))], instructions="").messages[0].text == "a\nb"


def test_an_answer_that_was_cut_before_its_first_word_leaves_no_message() -> None:
    items = [user(Written("a")), answer(Written("")), user(Written("b"))]
    assert [message.role for message in conversation_of(items, instructions="").messages] == ["user", "user"]


@pytest.mark.parametrize("items", [[], [answer(Written("Hello."))], [user(Written(""))]])
def test_without_a_last_word_of_the_user_there_is_nothing_to_answer(items: list[Item]) -> None:
    with pytest.raises(RefusedError, match="nothing to answer"):
        conversation_of(items, instructions="")


def test_items_stand_where_they_are_put() -> None:
    items = Items(ServeConfig())
    assert items.add(user(id="b")) is None
    assert items.add(user(id="d")) == "b"
    assert items.add(user(id="c"), after="b") == "b"
    assert items.add(user(id="a"), after="root") is None
    assert [item.id for item in items] == ["a", "b", "c", "d"]
    items.remove("b")
    assert [item.id for item in items] == ["a", "c", "d"]
    assert items.last_id == "d"


def test_ids_are_known_once() -> None:
    items = Items(ServeConfig())
    items.add(user(id="a"))
    with pytest.raises(RefusedError, match="already"):
        items.add(user(id="a"))
    with pytest.raises(RefusedError, match="no item of this id"):
        items.add(user(id="b"), after="c")
    with pytest.raises(RefusedError, match="no item of this id"):
        items.remove("b")
    assert [item.id for item in items] == ["a"]


@pytest.mark.parametrize(
    ("limit", "value", "item"),
    [
        ("max_messages", 1, user(id="b")),
        ("max_audio_s", 0.15, user(Heard(TONE, PCM), id="b")),
        ("max_text_chars", 5, user(Written("abc"), id="b")),
        ("max_parts", 2, user(*[Written("")] * 3, id="b")),
    ],
)
def test_a_conversation_that_grows_too_long_is_refused(limit: str, value: float, item: Item) -> None:
    items = Items(ServeConfig.model_validate({limit: value}))
    items.add(user(Heard(TONE, PCM), Written("abc"), id="a"))
    with pytest.raises(RefusedError, match=r"allowed; delete early items") as refused:
        items.add(item)
    assert refused.value.code == "conversation_too_long"


@pytest.mark.parametrize(
    ("heard_s", "expected"),
    [(2.0, "one two four six"), (1.0, "one two"), (0.8, "one"), (0.3, ""), (0.0, ""), (1.9, "one two four")],
)
def test_of_a_spoken_answer_whole_words_remain_in_proportion_to_what_was_heard(heard_s: float, expected: str) -> None:
    said = Said("one two four six", "one two four six", num_samples=48_000)
    said.truncate(heard_s)
    assert (said.text, said.transcript) == (expected, expected)
    assert said.duration_s == pytest.approx(heard_s)


def test_what_was_never_to_be_said_stays_when_an_answer_is_truncated() -> None:
    said = Said("who is it | Bob Smith", "Bob Smith", num_samples=24_000)
    said.truncate(0.5)
    assert (said.text, said.transcript) == ("who is it | Bob", "Bob")


def test_an_answer_cut_off_while_it_was_made_is_taken_to_be_as_long_as_its_letters() -> None:
    said = Said("a" * 13 + " " + "b" * 14, "a" * 13 + " " + "b" * 14, num_samples=24_000, is_whole=False)
    said.truncate(1.0)  # 14 letters a second: the first word and the space
    assert said.text == "a" * 13

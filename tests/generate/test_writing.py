"""What is shown of an answer while it is written: whole characters, stop strings never, in the end all of it."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sonant.chat.tokenizer import ChatTokenizer
from sonant.generate.writing import Decoding, Writing
from sonant.models.parts import resolve_part
from sonant.testing import byte_tokenizer, chat_tokenizer
from tests.chat.conftest import BACKENDS

TOKENIZER = byte_tokenizer()  # a token is a byte: everything here crosses the borders of tokens
FALLBACK = ChatTokenizer.from_folder(resolve_part("tiny/llm"))  # spells in bytes what it has no piece for
patient = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def written(text: str, *, stop: tuple[str, ...] = ()) -> tuple[list[str], Writing]:
    """The pieces after each token of a text, up to a stop string, and the rest."""
    writing, pieces = Writing(TOKENIZER, stop=stop), list[str]()
    for id in TOKENIZER.encode_text(text):
        pieces.append(writing.push(id))
        if writing.stopped:
            break
    return [*pieces, writing.end()], writing


def test_a_character_of_several_bytes_is_shown_when_it_is_whole() -> None:
    pieces, _ = written("a€b")
    assert pieces == ["a", "", "", "€", "b", ""]


def test_bytes_that_never_become_a_character_are_shown_at_the_end() -> None:
    writing = Writing(TOKENIZER)
    assert [writing.push(id) for id in TOKENIZER.encode_text("a€")[:2]] == ["a", ""]
    assert writing.end() == "\ufffd"


def test_what_may_begin_a_stop_string_waits_until_it_is_known() -> None:
    pieces, writing = written("an ENTRY END of", stop=("END",))
    assert pieces == ["a", "n", "", "", "", " ENT", "R", "Y", "", "", "", " ", ""]
    assert (writing.shown, writing.stopped) == ("an ENTRY ", True)


def test_what_only_began_as_a_stop_string_is_shown_at_the_end() -> None:
    pieces, writing = written("the EN", stop=("END",))
    assert pieces[-1] == " EN"
    assert not writing.stopped


def test_the_first_of_several_stop_strings_ends_the_text() -> None:
    _, writing = written("one two three", stop=("three", "wo", "o t"))
    assert writing.shown == "one t"


def test_blanks_around_an_answer_are_no_part_of_it() -> None:
    pieces, _ = written("  a b \n")
    assert "".join(pieces) == "a b"


def test_tokens_behind_the_text_are_not_counted() -> None:
    _, writing = written("one END", stop=("END",))
    assert (len(writing.token_ids), writing.num_shown) == (7, 4)
    _, writing = written("END", stop=("END",))
    assert (writing.shown, writing.num_shown) == ("", 0)


@given(st.text("ab é€\n", max_size=30), st.lists(st.text("ab é€\n", min_size=1, max_size=4), max_size=3))
@patient
def test_pieces_joined_are_the_text_before_the_first_stop_string(text: str, stop: list[str]) -> None:
    pieces, writing = written(text, stop=tuple(stop))
    body = text.lstrip()
    ends = [body.index(each) + len(each) for each in stop if each in body]
    if ends:  # the one that is complete first ends it; of such as end together the longest
        first = body[: min(ends)]
        expected = first[: min(first.index(each) for each in stop if each in first)]
    else:
        expected = body.rstrip()
    assert "".join(pieces) == writing.shown == expected
    assert writing.stopped == bool(ends)


def test_a_stop_string_and_a_text_may_overlap_more_than_once() -> None:
    pieces, writing = written("aab aaab", stop=("aaab",))
    assert "".join(pieces) == "aab "
    assert writing.stopped


@pytest.mark.parametrize("stop", [(), ("x",)])
def test_nothing_is_shown_of_nothing(stop: tuple[str, ...]) -> None:
    assert written("", stop=stop)[0] == [""]


@pytest.fixture(scope="module", params=BACKENDS)
def tokenizer(request: pytest.FixtureRequest) -> ChatTokenizer:
    return chat_tokenizer(BACKENDS[request.param](), template="chatml")


@given(numbers=st.lists(st.integers(0, 10**6), max_size=40))
@settings(patient, suppress_health_check=list(HealthCheck))
def test_tokens_decoded_as_they_come_are_what_all_of_them_are(tokenizer: ChatTokenizer, numbers: list[int]) -> None:
    ids = [number % len(tokenizer.hf) for number in numbers]
    decoding = Decoding(tokenizer)
    assert [decoding.push(id) for id in ids] == [tokenizer.decode(ids[: end + 1]) for end in range(len(ids))]


@given(st.text(min_size=1))
@patient
def test_what_is_spelled_in_bytes_is_decoded_too(text: str) -> None:
    decoding, ids = Decoding(FALLBACK), FALLBACK.encode_text(text)
    assert [decoding.push(id) for id in ids][-1] == FALLBACK.decode(ids)


def test_bytes_that_make_no_character_take_nothing_of_what_follows_along() -> None:
    """Of a run of bytes such a decoder reads none if one is wrong: what was shown changed, and the rest stayed away."""
    digit, broken, *word = (*FALLBACK.hf.convert_tokens_to_ids(["<0x30>", "<0x85>"]), *FALLBACK.encode_text("a word"))
    writing = Writing(FALLBACK)
    assert "".join([*map(writing.push, (digit, broken, *word)), writing.end()]) == "0\ufffd a word"


def test_the_last_tokens_of_a_long_answer_cost_no_more_than_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    writing, decode, most = Writing(TOKENIZER), ChatTokenizer.decode, 0

    def counted(tokenizer: ChatTokenizer, ids: list[int]) -> str:
        nonlocal most
        most = max(most, len(ids))
        return decode(tokenizer, ids)

    monkeypatch.setattr(ChatTokenizer, "decode", counted)
    text = "".join(writing.push(id) for id in TOKENIZER.encode_text("a long answer costs 1 € a word, " * 9))
    assert len(text) > 250
    assert most < 10

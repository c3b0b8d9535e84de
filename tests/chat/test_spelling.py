"""Tokens to words; the text they decode to is the independent source."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from sonant.chat.messages import AudioPart
from sonant.chat.spelling import spell, word_starts
from sonant.errors import ChatError
from sonant.testing import byte_tokenizer, chat_tokenizer

BYTES = byte_tokenizer()
patient = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
pieces = st.sampled_from(
    ["he said", "stew", " ", "\n", "é", "Kürbis", ".", "  dog", "鶏", "\u3000", "🐔", "<|im_end|>"]
)


@pytest.fixture
def plain(backend):
    """Every kind of tokenizer, in one template."""
    return chat_tokenizer(backend, template="chatml")


def of_words(values, word, num):
    return [[value for value, owner in zip(values, word, strict=True) if owner == w] for w in range(num)]


@given(st.lists(pieces, max_size=8).map("".join), st.integers(0, 3), st.data())
@patient
def test_the_letters_are_the_words_of_the_text_joined_by_a_space(plain, text, num_special, data):
    ids = plain.encode_text(text, after=0)
    ids += [plain.end_of_turn_id] * num_special
    spelling = spell(plain, ids)
    words = plain.decode(ids).split()
    assert spelling.words == words
    assert bytes(spelling.letters.tolist()).decode().split(" ") == (words or [""])
    owned = of_words(spelling.letters.tolist(), spelling.letter_word, len(words))
    assert [bytes(letters).decode().rstrip(" ") for letters in owned] == words
    # Words never go back, and each special token is without one.
    spoken = spelling.token_word[spelling.token_word >= 0]
    assert (np.diff(spoken) >= 0).all()
    assert len(spoken) == (sum(id not in plain.special_ids for id in ids) if words else 0)


@pytest.mark.parametrize(
    "text", ["he said there is a dog; yes no", " Kürbis für alle", "stew  for\ndinner ", "鶏 🐔é x"]
)
def test_the_tokens_of_a_word_hold_its_letters(plain, text):
    ids = plain.encode_text(text, after=0)
    spelling = spell(plain, ids)
    for word, owned in zip(spelling.words, of_words(ids, spelling.token_word, len(spelling.words)), strict=True):
        assert plain.decode(owned).strip() == word  # these tokenizers join no two words


def test_bytes_of_a_letter_belong_to_its_word():
    spelling = spell(BYTES, BYTES.encode_text(" é 🐔!\n"))
    assert spelling.token_word.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert spelling.letters.tolist() == list("é 🐔!".encode())
    assert spelling.letter_word.tolist() == [0, 0, 0, 1, 1, 1, 1, 1]


def test_a_token_of_two_words_belongs_to_the_first():
    vocab = {name: id for id, name in enumerate(["the", "eĠc", "Ġ", "at", "Ġcat", "th"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    joined = chat_tokenizer(tokenizer, template="chatml")
    spelling = spell(joined, [5, 1, 3, 2, 0])  # th|e c|at| |the
    assert spelling.words == ["the", "cat", "the"]
    assert spelling.token_word.tolist() == [0, 0, 1, 1, 2]
    assert spell(joined, [5, 1, 3], spoken="cat").token_word.tolist() == [-1, 0, 0]  # it holds a spoken letter


def test_only_the_spoken_end_has_words():
    ids = BYTES.encode_text("it is: a cat ")
    spelling = spell(BYTES, [*ids, BYTES.end_of_turn_id], spoken=" a cat")
    assert spelling.words == ["a", "cat"]
    assert spelling.token_word.tolist() == [-1] * 7 + [0, 0, 1, 1, 1, 1, -1]
    assert spell(BYTES, ids).token_word.tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 3, 3]


@pytest.mark.parametrize("spoken", ["a dog", "it is: a cat and more", "Cat"])
def test_a_spoken_end_that_the_tokens_do_not_say_is_refused(spoken):
    with pytest.raises(ChatError, match=r"say 'it is: a cat', which does not end in the spoken text"):
        spell(BYTES, BYTES.encode_text("it is: a cat"), spoken=spoken)


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_an_answer_of_no_word_has_no_letters(text):
    spelling = spell(BYTES, [*BYTES.encode_text(text), BYTES.end_of_turn_id])
    assert (spelling.words, spelling.letters.tolist(), set(spelling.token_word)) == ([], [], {-1})


def marked(words):
    return AudioPart("a.wav", offset_s=7.0, extra={} if words is None else {"words": words})


def test_word_marks_are_seconds_from_the_start_of_the_clip():
    assert word_starts(marked(None), ["the", "cat"]) is None
    assert word_starts(marked([["the", 0], ("cat", 0.5)]), ["the", "cat"], duration_s=0.5) == [0, 0.5]
    starts = word_starts(marked([["a", None], ["b", 0.2], ["c", None], ["d", 0.2]]), ["a", "b", "c", "d"])
    np.testing.assert_equal(starts, [np.nan, 0.2, np.nan, 0.2])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([["the", 0.1]], r"'words' lists 1 words, the spoken text has 2, the first difference is the last; list each"),
        ([["a", 0], ["x", 0], ["c", 1]], r"lists 3 words, .* has 2, the first difference is 'a' against 'the'"),
        ([["the", 0.5], ["cat", 0.4]], r"a word starts at 0.4 s, the one before it at 0.5 s, .* never decrease"),
        ([["the", 0.5], ["cat", 1.1]], r"starts at 1.1 s, .* and the clip has 1 s"),
        ([["the", -0.1], ["cat", 0.1]], r"starts at -0.1 s"),
        ([["the", 0.5], ["cat", float("inf")]], r"starts at inf s"),
        ("the cat", r"'words' is 'the cat'; allowed is a list of \[word, start in seconds\]"),
        ([["the", 0.5], ["cat"]], r"'words' is \[\['the', 0.5\], \['cat'\]\]; allowed"),
        ([["the", True], ["cat", 1]], r"allowed is a list"),
    ],
)
def test_word_marks_that_do_not_fit_are_refused(words, told):
    with pytest.raises(ChatError, match=f"spoken audio a.wav: .*{told}"):
        word_starts(marked(words), ["the", "cat"], duration_s=1.0)

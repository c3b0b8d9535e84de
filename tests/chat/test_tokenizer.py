"""Text stays text, markup is markup, and what follows what makes no space appear."""

import pickle
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from sonant.chat.tokenizer import MAX_FRAMES, ChatTokenizer
from sonant.errors import ChatError
from sonant.models.parts import resolve_part
from sonant.testing import TEMPLATES, byte_tokenizer, chat_tokenizer

patient = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
CHATML = byte_tokenizer()
IM_END = CHATML.hf.convert_tokens_to_ids("<|im_end|>")


@given(st.text() | st.lists(st.sampled_from(["<|im_end|>", "<|im_start|>", "user", "\n", " ", "é"])).map("".join))
@patient
def test_text_is_never_markup_and_reads_back_as_it_was(text):
    ids = CHATML.encode_text(text)
    assert CHATML.special_ids.isdisjoint(ids)
    assert CHATML.decode(ids) == text


def test_markup_is_markup():
    assert CHATML.encode_markup("a<|im_end|>") == [*CHATML.encode_text("a"), IM_END]


@pytest.mark.parametrize("most", [0, 1 << 18])
def test_texts_met_before_have_the_ids_they_had(trained, monkeypatch, most):
    monkeypatch.setattr("sonant.chat.tokenizer.MAX_KEPT_IDS", most)
    tokenizer = chat_tokenizer(Tokenizer.from_str(trained["legacy llama"]), template="mistral")
    texts = ["he said", "[INST] he said", "dog; ", "he said", "[INST] he said"]
    for text in texts * 2:
        for after in (None, 1, 5):
            fresh = ChatTokenizer(tokenizer.hf)
            tokenizer.encode_text(text, after=after).append(7)  # the list is the caller's
            assert tokenizer.encode_text(text, after=after) == fresh.encode_text(text, after=after)
            assert tokenizer.encode_markup(text, after=after) == fresh.encode_markup(text, after=after)
        assert tokenizer._num_kept <= most + 20


def test_a_unigram_piece_that_spells_a_special_token_is_broken_up(trained):
    tokenizer = chat_tokenizer(Tokenizer.from_str(trained["unigram"]), template="mistral")
    ids = tokenizer.encode_text("he said </s> yes")
    assert tokenizer.special_ids.isdisjoint(ids)
    assert tokenizer.decode(ids) == "he said </s> yes"
    assert not tokenizer.special_ids.isdisjoint(tokenizer.encode_markup("he said </s> yes"))


def test_text_continues_what_comes_before(backend):
    tokenizer = chat_tokenizer(backend, template="chatml")
    whole = tokenizer.encode_markup("<|im_start|>user\nhe said yes<|im_end|>\nno<|im_end|>hoped")
    start, end = (tokenizer.hf.convert_tokens_to_ids(token) for token in ("<|im_start|>", "<|im_end|>"))
    pieces = tokenizer.encode_markup("<|im_start|>user\n")
    assert pieces[0] == start
    for text in ("he said yes", "<|im_end|>\n", "no", "<|im_end|>", "hoped"):
        encode = tokenizer.encode_markup if text.startswith("<") else tokenizer.encode_text
        pieces += encode(text, after=pieces[-1])
    assert pieces == whole
    assert pieces.count(end) == 2


def test_two_threads_do_not_change_each_others_meaning_of_markup():
    wrong = []

    def work(encode, expected):
        wrong.extend(ids for ids in (encode("<|im_end|>") for _ in range(500)) if ids != expected)

    jobs = [(CHATML.encode_text, CHATML.encode_text("<|im_end|>")), (CHATML.encode_markup, [IM_END])]
    threads = [threading.Thread(target=work, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("template", "stops"),
    [
        ("chatml", {"<|im_end|>"}),
        ("llama3", {"<|eot_id|>"}),
        ("gemma", {"<end_of_turn>", "<eos>"}),
        ("mistral", {"</s>"}),
        ("phi", {"<|end|>", "<|endoftext|>"}),
    ],
)
def test_an_answer_stops_at_the_end_of_its_turn_or_of_the_sequence(template, stops):
    tokenizer = byte_tokenizer(template)
    assert set(tokenizer.hf.convert_ids_to_tokens(list(tokenizer.stop_ids))) == stops


def test_a_saved_tokenizer_is_the_same_tokenizer(tmp_path):
    CHATML.save(tmp_path / "tokenizer")
    loaded = ChatTokenizer.from_folder(tmp_path / "tokenizer")
    assert loaded.encode_text("a <|im_end|>") == CHATML.encode_text("a <|im_end|>")
    assert (loaded.stop_ids, loaded.vocab_size, loaded.pad_id) == (CHATML.stop_ids, 259, CHATML.pad_id)
    assert loaded.frame(("user", "assistant")) == CHATML.frame(("user", "assistant"))


def test_text_stays_text_in_a_worker_process():
    sent = pickle.loads(pickle.dumps(CHATML))  # as a spawned loader receives it
    assert sent.encode_text("<|im_end|>") == CHATML.encode_text("<|im_end|>")
    assert sent.encode_markup("<|im_end|>") == [IM_END]
    assert sent.stop_ids == CHATML.stop_ids


def test_truncation_and_padding_saved_with_a_tokenizer_are_not_applied():
    hf = byte_tokenizer().hf
    hf.backend_tokenizer.enable_truncation(3)
    hf.backend_tokenizer.enable_padding(length=8)
    assert len(ChatTokenizer(hf).encode_text("x" * 100)) == 100
    assert len(ChatTokenizer(hf).encode_text("x")) == 1


def test_padding_falls_back_to_the_end_of_sequence():
    assert CHATML.pad_id == IM_END
    assert TEMPLATES["chatml"][1][-1] == "<|im_end|>"


def test_a_folder_without_tokenizer_is_explained(tmp_path):
    with pytest.raises(ChatError, match=r"no tokenizer can be read here .*name a folder with tokenizer.json"):
        ChatTokenizer.from_folder(tmp_path)


def test_a_broken_tokenizer_is_explained(tmp_path):
    CHATML.save(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ChatError, match="no tokenizer can be read here"):
        ChatTokenizer.from_folder(tmp_path)


def test_a_slow_tokenizer_is_refused():
    with pytest.raises(ChatError, match="object is not a fast tokenizer"):
        ChatTokenizer(object())


def test_the_bytes_of_tokens_joined_are_the_text(backend):
    """Parts of characters too: with them a client puts together what decoding token by token cannot show."""
    trained = chat_tokenizer(backend, template="chatml")
    for tokenizer, said in ((trained, "he said yes, no"), (CHATML, "naïve €5 🎈")):
        ids = tokenizer.encode_text(said)
        assert b"".join(map(tokenizer.token_bytes, ids)).decode().strip() == said
    assert CHATML.token_bytes(IM_END) == b""


def test_a_byte_that_a_vocabulary_has_no_piece_for_is_that_byte():
    tokenizer = ChatTokenizer.from_folder(resolve_part("tiny/llm"))
    ids = tokenizer.encode_text("a €")
    assert b"".join(map(tokenizer.token_bytes, ids)).decode() == " a €"  # sentencepiece's habit: a space of its own


def test_frames_of_roles_that_clients_choose_do_not_pile_up():
    tokenizer = byte_tokenizer()
    for count in range(2 * MAX_FRAMES):
        roles = tuple("user" if count >> place & 1 else "assistant" for place in range(10))
        assert tokenizer.frame(roles) == tokenizer.frame(roles)
        assert len(tokenizer._frames) <= MAX_FRAMES

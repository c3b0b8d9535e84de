from pathlib import Path

import pytest
import tokenizers
import torch
import transformers

from sonant.generate.text_likelihood import TextLikelihood
from sonant.testing import byte_tokenizer, tiny_llm


def test_a_chat_model_weighs_a_text_as_its_answer() -> None:
    """Against the loss of the Hugging Face class on the same tokens."""
    likelihood = TextLikelihood("tiny/llm")
    text, context = "the bear lives in the barn", "where does the bear live"
    before = likelihood.tokenizer(f"<|user|>{context}<|end|><|assistant|>", add_special_tokens=False)["input_ids"]
    ids = torch.tensor([before + likelihood.tokenizer(text, add_special_tokens=False)["input_ids"]])
    labels = ids.clone()
    labels[:, : len(before)] = -100
    ((nats, tokens),) = likelihood([text], [context])
    assert tokens == ids.shape[1] - len(before)
    assert nats / tokens == pytest.approx(float(likelihood.llm(input_ids=ids, labels=labels).loss.detach()), rel=1e-4)


def test_a_plain_model_reads_on_from_the_context(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer().hf
    tokenizer.chat_template = None
    tiny_llm(len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    likelihood = TextLikelihood(str(tmp_path))
    (alone,), (after,), (empty,) = (
        likelihood([text], [context]) for text, context in (("ab", ""), ("ab", "c"), ("", "c"))
    )
    assert alone[1] == 2  # the token that begins a text foretells the first
    assert after[1] == 3  # the space counts
    assert empty == (0.0, 0)


def test_a_tokenizer_that_begins_texts_with_a_space_of_its_own_counts_it_once(tmp_path: Path) -> None:
    vocab = {"<s>": 0, "▁": 1, "a": 2, "b": 3, "▁a": 4, "▁b": 5}
    plain = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, [("▁", "a"), ("▁", "b")]))
    prepend, replace = tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")
    plain.normalizer = tokenizers.normalizers.Sequence([prepend, replace])
    transformers.PreTrainedTokenizerFast(tokenizer_object=plain, bos_token="<s>").save_pretrained(tmp_path)
    tiny_llm(len(vocab)).save_pretrained(tmp_path)
    ((_, tokens),) = TextLikelihood(str(tmp_path))(["b a"], ["a b"])
    assert tokens == 2  # a lone space stood before them


def test_right_answers_are_likelier_than_shuffled_ones() -> None:
    likelihood = TextLikelihood("tiny/llm")
    right, shuffled = likelihood(
        ["the bear lives in the barn", "barn the in bear lives the"], ["where does the bear live"] * 2
    )
    assert right[0] < shuffled[0]

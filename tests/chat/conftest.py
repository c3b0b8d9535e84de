"""Tokenizers of every habit, and conversations of every shape."""

import string

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from sonant.testing import TEMPLATES, chat_tokenizer

CORPUS = [
    "What is said in this recording? He hoped there would be stew for dinner.",
    "user assistant system model INST [INST] he said there is a dog; Answer briefly, please: yes no",
    "turnips and carrots and bruised potatoes and fat mutton pieces, to be ladled out, Kürbis für alle",
] * 3
ALPHABET = list(string.printable) + list("üé")


def _byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _metaspace(scheme: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>"], initial_alphabet=ALPHABET, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _legacy_llama() -> Tokenizer:
    """No pre-tokenizer: the normalizer writes the space before every stretch between special tokens."""
    tokenizer = _metaspace("first")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = None
    return tokenizer


def _unigram() -> Tokenizer:
    """As converted from sentencepiece: the control tokens are also ordinary pieces, of the best score."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=200,
        special_tokens=["<unk>", "</s>"],
        unk_token="<unk>",
        initial_alphabet=ALPHABET,
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


BACKENDS = {
    "byte level": _byte_level,
    "metaspace first": lambda: _metaspace("first"),
    "metaspace always": lambda: _metaspace("always"),
    "legacy llama": _legacy_llama,
    "unigram": _unigram,
}


@pytest.fixture(scope="session")
def trained():
    """backend name -> a tokenizer trained on CORPUS, as text to build others from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKENIZERS_PARALLELISM", "false")  # threads that wait for a busy machine take seconds
        return {name: build().to_str() for name, build in BACKENDS.items()}


@pytest.fixture(params=BACKENDS)
def backend(request, trained):
    return Tokenizer.from_str(trained[request.param])


@pytest.fixture(params=TEMPLATES)
def template(request):
    return request.param


@pytest.fixture
def tokenizer(backend, template):
    """Every kind of tokenizer in every kind of template."""
    return chat_tokenizer(backend, template=template)

"""Who judges speech: recognisers that did not train with the model, named, and each held to real speech as well."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sonant.evaluate.pins import part_sha256
from sonant.generate.hf_recognizer import load_recognizer, recognizer_folder
from sonant.generate.recognizer import Recognizer
from sonant.generate.sphinx_recognizer import SphinxRecognizer

SPHINX = "pocketsphinx"


@dataclass(frozen=True)
class Listener:
    """A recogniser by name, and what its transcripts depend on."""

    name: str
    recognizer: Recognizer
    pins: Mapping[str, Any] = field(default_factory=dict)


def load_listener(name: str, sentences: Sequence[str]) -> Listener:
    """Returns the recogniser of that name: `pocketsphinx`, or what `load_recognizer` takes (tiny/encoder, Whisper).

    sentences: all that may be said in a suite, in the words that a listener writes. PocketSphinx hears nothing else,
    which is said in its pins; a model that mumbles is heard as some sentence of them, so compare with real speech.
    Raises: ModelError if it cannot be loaded.
    """
    if name != SPHINX:
        return Listener(name, load_recognizer(name), {"sha256": part_sha256(recognizer_folder(name))})
    sphinx = SphinxRecognizer(sentences)
    heard = {"sentences": len(set(sentences)), "unknown_words": list(sphinx.unknown)}
    return Listener(
        name, sphinx, {"version": sphinx.version(), "language_model": "trigrams of the suite's sentences"} | heard
    )

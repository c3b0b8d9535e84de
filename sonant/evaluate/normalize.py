"""What is forgiven before a hypothesis meets its reference; the name of the normaliser is printed with the score."""

import re
import unicodedata
from collections.abc import Callable
from functools import cache
from typing import Literal

from sonant.errors import EvaluationError

NormalizerName = Literal["none", "basic", "whisper_english", "whisper_basic"]
Normalizer = Callable[[str], str]


def normalizer(name: NormalizerName) -> Normalizer:
    """Returns the normaliser of that name: a function from text to text."""
    if name == "none":
        return str
    if name == "basic":
        return basic
    return _whisper(name)


def basic(text: str) -> str:
    """Returns the text in lower case, without punctuation, with single spaces; letters of any script are kept."""
    kept = "".join(" " if _is_punctuation(c) else c for c in unicodedata.normalize("NFKC", text).lower())
    return re.sub(r"\s+", " ", kept).strip()


def _is_punctuation(character: str) -> bool:
    # An apostrophe inside a word belongs to it: "don't" is one word.
    return character != "'" and unicodedata.category(character)[0] in "PS"


@cache
def _whisper(name: str) -> Normalizer:
    try:
        import whisper_normalizer.basic
        import whisper_normalizer.english
    except ImportError:
        raise EvaluationError(f"the normaliser {name!r} needs whisper-normalizer: pip install 'sonant[eval]'") from None
    if name == "whisper_english":
        return whisper_normalizer.english.EnglishTextNormalizer()
    return whisper_normalizer.basic.BasicTextNormalizer()

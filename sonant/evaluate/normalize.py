"""What is forgiven before a hypothesis meets its reference; the name of the normaliser is printed with the score.

none             nothing
basic            case, punctuation, spaces
squad            basic and the articles a, an, the, as answers to SQuAD are compared
whisper_english  spelling, numbers, contractions, fillers as well: Whisper's normaliser for English
whisper_basic    Whisper's for any language; it takes accents away
"""

import re
import string
import unicodedata
from collections.abc import Callable
from functools import cache
from importlib import metadata
from typing import Literal, get_args

from sonant.errors import EvaluationError

NormalizerName = Literal["none", "basic", "squad", "whisper_english", "whisper_basic"]
Normalizer = Callable[[str], str]


def normalizer(name: str) -> Normalizer:
    """Returns the normaliser of that name: a function from text to text. Raises: EvaluationError if there is none."""
    plain: dict[str, Normalizer] = {"none": str, "basic": basic, "squad": squad}
    if name not in get_args(NormalizerName):
        raise EvaluationError(f"no normaliser {name!r}; known are {', '.join(get_args(NormalizerName))}")
    return plain[name] if name in plain else _whisper(name)


def normalizer_version(name: str) -> str:
    """Returns what to pin beside a normaliser's name: two scores with the same pin forgave the same."""
    if name.startswith("whisper"):
        return f"whisper-normalizer {metadata.version('whisper-normalizer')}, 2"
    return "2" if name == "basic" else "1"


def basic(text: str) -> str:
    """Returns the text in lower case, without punctuation, with single spaces; letters of any script are kept."""
    plain = unicodedata.normalize("NFKC", text).lower().translate(_APOSTROPHES)
    kept = "".join(" " if _is_punctuation(c) else c for c in plain)
    return re.sub(r"\s+", " ", re.sub(r"(?<!\w)'|'(?!\w)", " ", kept)).strip()


def squad(text: str) -> str:
    """Returns the text as SQuAD compares answers: lower case, no ASCII punctuation, no English articles."""
    bare = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


_APOSTROPHES = str.maketrans("\u2019\u02bc", "''")


def _is_punctuation(character: str) -> bool:
    # An apostrophe inside a word belongs to it, however it is written: "don't" is one word. Others are quotation marks.
    return character != "'" and unicodedata.category(character)[0] in "PS"


@cache
def _whisper(name: str) -> Normalizer:
    try:
        import whisper_normalizer.basic
        import whisper_normalizer.english
    except ImportError:
        raise EvaluationError(f"the normaliser {name!r} needs whisper-normalizer: pip install 'sonant[eval]'") from None
    english = name == "whisper_english"
    whisper: Normalizer = (
        whisper_normalizer.english.EnglishTextNormalizer()
        if english
        else whisper_normalizer.basic.BasicTextNormalizer()
    )
    # It leaves a space where a full stop was, which would count as a character.
    return lambda text: whisper(text).strip()

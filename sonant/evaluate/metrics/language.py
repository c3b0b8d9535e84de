"""Whether an answer is in the language that was asked for.

A model trained on transcription alone learns "answer with a transcript": asked for a translation, it answers in the
language it heard. A share of answers in the right language shows that, whatever the words are worth.

Who tells the languages apart is py3langid (naive Bayes on letters: small, deterministic, the same on every machine),
restricted to the languages that the rows of the set name, and English, which models fall back to. Between two
languages, two to seven words are enough: of 1,688 sentences of the tiny world's test split, half English and half
German, it tells all.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

from sonant.chat.messages import Conversation
from sonant.data.languages import base_language
from sonant.errors import EvaluationError
from sonant.evaluate.metrics.score import RowMetric


def right_language(answers: Sequence[str], rows: Sequence[Conversation]) -> list[tuple[float, float]]:
    """Returns (1 if the answer is in the expected language, else 0; 1) of each row.

    Expected is `target_language`, else the row's language (but of a translation, which need not say into what). An
    answer without a letter is in none. A row says nothing, and has size 0, if what it expects is not known, has no
    second language to be told from, or has no letters.
    """
    expected = [_expected(row) for row in rows]
    named = {"en", *filter(None, expected), *(base_language(row.language) for row in rows if row.language)}
    candidates = sorted(named & known_languages())
    if len(candidates) < 2:
        return [(0.0, 0.0) for _ in rows]
    return [
        (float(_has_letters(answer) and language_of(answer, candidates) == wanted), 1.0)
        if wanted in candidates and _has_letters(row.reference)
        else (0.0, 0.0)
        for answer, wanted, row in zip(answers, expected, rows, strict=True)
    ]


def language_of(text: str, candidates: Sequence[str]) -> str:
    """Returns the candidate (a code: "de") that a text is most likely in; one of no letters is in any.

    Raises: EvaluationError if py3langid is not installed or does not know a candidate.
    """
    if unknown := sorted(set(candidates) - known_languages()):
        raise EvaluationError(
            f"language {unknown[0]!r} cannot be told from others; known are {', '.join(sorted(known_languages()))}"
        )
    identifier, _ = _identifier()
    identifier.set_languages(candidates)
    return str(identifier.classify(text)[0])


def known_languages() -> frozenset[str]:
    """Returns the codes of the languages that can be told. Raises: EvaluationError if py3langid is not installed."""
    return _identifier()[1]


RIGHT_LANGUAGE = RowMetric("right_language", True, right_language)


def _expected(row: Conversation) -> str | None:
    language = row.extra.get("target_language") or (None if row.task.endswith("translation") else row.language)
    return base_language(language) if language else None


def _has_letters(text: str) -> bool:
    return any(letter.isalpha() for letter in text)


@cache
def _identifier() -> tuple[Any, frozenset[str]]:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise EvaluationError("telling languages apart needs py3langid: pip install 'sonant[eval]'") from None
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    return identifier, frozenset(identifier.labels)  # once restricted, it no longer knows the others

"""A transcript in place of a translation is in the wrong language, however well it is spelt."""

import random

import pytest

from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.errors import EvaluationError
from sonant.evaluate.metrics.language import RIGHT_LANGUAGE, language_of
from sonant.evaluate.run import score_task
from sonant.synth.world.german import random_pair
from sonant.synth.world.text import in_split


def row(reference: str, *, target: str | None = "de", language: str | None = "en", task: str = "t") -> Conversation:
    said = user("in german:", AudioPart("a.wav", transcript="the wolf eats fish"))
    extra = {"target_language": target} if target else {}
    return Conversation((said, assistant(reference)), id="1", task=task, language=language, extra=extra)


def counts(answer: str, *rows: Conversation) -> list[list[float]]:
    return RIGHT_LANGUAGE.counts([answer] * len(rows), rows).tolist()


def test_short_sentences_of_the_tiny_world_are_told_apart() -> None:
    """Two to seven words, English or German: 95 % were asked for."""
    rng = random.Random(0)
    pairs = {pair for pair in (random_pair(rng) for _ in range(1000)) if in_split(pair[0], "test")}
    right = [
        language_of(text, ["de", "en"]) == name for pair in pairs for text, name in zip(pair, ("en", "de"), strict=True)
    ]
    assert len(right) > 150
    assert sum(right) / len(right) >= 0.99


def test_a_translation_counts_and_a_transcript_does_not() -> None:
    wanted = row("der wolf frisst fisch")
    assert counts("der wolf mag fisch", wanted) == [[1, 1]]  # wrong, but German
    assert counts("the wolf eats fish", wanted) == [[0, 1]]
    assert counts("", wanted) == counts("42!", wanted) == [[0, 1]]


def test_rows_that_do_not_say_what_they_expect_say_nothing() -> None:
    unstated = row("der wolf frisst fisch", target=None, task="text_translation")
    assert counts("der wolf", unstated, row("42"), row("el lobo", target="tlh")) == [[0, 0]] * 3
    assert counts("the wolf", row("the wolf", target=None)) == [[0, 0]]  # English alone: nothing to tell it from
    assert counts("der wolf schläft", row("der wolf", target=None, language="de_DE")) == [[1, 1]]


def test_the_languages_of_all_rows_are_candidates() -> None:
    rows = [row("le loup dort ici", target="fr"), row("el lobo duerme aquí", target="es")]
    assert counts("el lobo duerme aquí", *rows) == [[0, 1], [1, 1]]


def test_translations_are_scored_by_it_where_their_language_is_known() -> None:
    rows = [row("der wolf frisst fisch", task="translation"), row("die katze schläft", task="translation")]
    result = score_task("translation", rows, {"system": ["der wolf frisst fisch", "the cat sleeps"]})
    assert result.headline == "exact_match"
    assert result.scores["right_language"]["system"].value == 50.0
    unstated = [row("der wolf frisst fisch", target=None, task="translation")]
    scores = score_task("translation", unstated, {"system": ["der wolf frisst fisch"]}).scores
    assert not scores.get("right_language")
    assert scores["exact_match"]["system"].value == 100.0


def test_a_language_that_cannot_be_told_is_refused() -> None:
    with pytest.raises(EvaluationError, match="language 'tlh' cannot be told from others; known are"):
        language_of("nuqneh", ["en", "tlh"])

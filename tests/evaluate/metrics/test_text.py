import jiwer
import pytest
import sacrebleu

from sonant.errors import EvaluationError
from sonant.evaluate.metrics.text import BLEU, CER, CHRF, EXACT, WER

REFERENCES = ["he hoped there would be stew", "the cat sat", "one two three four", "yes"]
HYPOTHESES = ["he hoped there be a stew", "the cat sat", "two three four five", "no"]


def test_word_error_rate_equals_jiwer() -> None:
    assert WER.score(HYPOTHESES, REFERENCES).value == pytest.approx(100 * jiwer.wer(REFERENCES, HYPOTHESES))


def test_character_error_rate_equals_jiwer() -> None:
    assert CER.score(HYPOTHESES, REFERENCES).value == pytest.approx(100 * jiwer.cer(REFERENCES, HYPOTHESES))


def test_an_empty_reference_counts_its_insertions() -> None:
    """jiwer returns the bare number of insertions for an empty reference; here they join the corpus's errors."""
    score = WER.score(["two words", "right here now"], ["", "right here now"])
    assert score.value == pytest.approx(100 * 2 / 3)


def test_only_empty_references_still_give_a_finite_score() -> None:
    assert WER.score(["a b"], [""]).value == 200.0
    assert WER.score([""], [""]).value == 0.0


def test_bleu_and_chrf_equal_sacrebleu_and_carry_its_signature() -> None:
    bleu = BLEU.score(HYPOTHESES, REFERENCES)
    assert bleu.value == pytest.approx(sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES]).score)
    assert "tok:13a" in bleu.signature
    chrf = CHRF.score(HYPOTHESES, REFERENCES)
    assert chrf.value == pytest.approx(sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES]).score)
    assert "nc:6" in chrf.signature


def test_exact_match_is_the_share_of_equal_items_with_the_binomial_interval() -> None:
    hits, items = 80, 100
    score = EXACT.score(["a"] * hits + ["b"] * (items - hits), ["a"] * items)
    assert (score.value, score.n) == (80.0, 100)
    spread = 1.96 * 100 * (0.8 * 0.2 / items) ** 0.5  # normal approximation of the binomial
    assert score.low == pytest.approx(80 - spread, abs=1.5)
    assert score.high == pytest.approx(80 + spread, abs=1.5)


def test_a_score_is_the_same_every_time() -> None:
    assert WER.score(HYPOTHESES, REFERENCES) == WER.score(HYPOTHESES, REFERENCES)
    assert BLEU.score(HYPOTHESES, REFERENCES) == BLEU.score(HYPOTHESES, REFERENCES)


def test_a_difference_is_paired_so_equal_answers_differ_by_exactly_nothing() -> None:
    same = EXACT.difference(HYPOTHESES, HYPOTHESES, REFERENCES)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


def test_a_difference_is_after_minus_before_in_points() -> None:
    assert EXACT.difference(REFERENCES, HYPOTHESES, REFERENCES).value == pytest.approx(75.0)
    assert WER.difference(REFERENCES, HYPOTHESES, REFERENCES).value < 0


@pytest.mark.parametrize("metric", [WER, EXACT, BLEU])
def test_unequal_or_no_items_are_refused(metric: object) -> None:
    with pytest.raises(EvaluationError, match="2 hypotheses for 1 references"):
        metric.score(["a", "b"], ["a"])  # type: ignore[attr-defined]
    with pytest.raises(EvaluationError, match="no items"):
        metric.score([], [])  # type: ignore[attr-defined]

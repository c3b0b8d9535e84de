import jiwer
import pytest
import sacrebleu

from sonant.errors import EvaluationError
from sonant.evaluate.metrics.named import in_language, metric_named
from sonant.evaluate.metrics.score import mean
from sonant.evaluate.metrics.text import BLEU, CER, CHRF, CONTAINS, EXACT, F1, ROUGE_L, WER

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


def test_of_several_right_answers_the_best_counts() -> None:
    assert EXACT.score(["navy"], [["blue", "navy"]]).value == 100.0
    assert WER.score(["a b c"], [["x y z", "a b d"]]).value == pytest.approx(100 / 3)
    several = [["the cat sat", "a cat sat down"], ["yes"]]
    ours = BLEU.score(["a cat sat down", "yes"], several).value
    assert ours == pytest.approx(
        sacrebleu.corpus_bleu(["a cat sat down", "yes"], [["the cat sat", "yes"], ["a cat sat down", None]]).score
    )


@pytest.mark.parametrize(
    ("hypothesis", "reference", "found"),
    [
        ("it is paris i think", "paris", True),
        ("it is parisian", "paris", False),  # whole words
        ("new york city", "new york", True),
        ("york new", "new york", False),
        ("anything", "", False),
        ("", "", True),
    ],
)
def test_contains_is_lenient_but_asks_for_whole_words(hypothesis: str, reference: str, found: bool) -> None:
    assert CONTAINS.score([hypothesis], [reference]).value == 100.0 * found


def test_f1_by_hand() -> None:
    """SQuAD: "denver broncos won" against "the denver broncos": 2 common of 3 and 3 words is 2/3."""
    assert F1.score(["denver broncos won"], ["the denver broncos"]).value == pytest.approx(200 / 3)
    assert F1.score(["a a b"], ["a b b"]).value == pytest.approx(200 / 3)  # bags, not sets
    assert [F1.score([h], [r]).value for h, r in (("", ""), ("a", ""), ("", "a"))] == [100.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("hypothesis", "reference", "expected"),
    [
        ("police kill the gunman", "police killed the gunman", 3 / 4),  # Lin 2004, S2: LCS "police the gunman"
        ("the gunman kill police", "police killed the gunman", 2 / 4),  # Lin 2004, S3: LCS "the gunman"
        ("the quick brown dog jumps on the log", "the quick brown fox jumps over the lazy dog", 10 / 17),
        ("", "a", 0.0),
    ],
)
def test_rouge_l_equals_hand_numbers(hypothesis: str, reference: str, expected: float) -> None:
    assert ROUGE_L.score([hypothesis], [reference]).value == pytest.approx(100 * expected)


def test_bleu_cuts_chinese_into_characters_as_sacrebleu_does() -> None:
    chinese = in_language(BLEU, "zh-CN")
    hypotheses, references = ["我喜欢吃苹果和梨"], ["我喜欢吃苹果和香蕉"]
    score = chinese.score(hypotheses, references)
    assert score.value == pytest.approx(sacrebleu.corpus_bleu(hypotheses, [references], tokenize="zh").score)
    assert "tok:zh" in score.signature
    assert in_language(BLEU, "de") == BLEU
    assert in_language(metric_named("bleu:char"), "ja") == metric_named("bleu:char")


def test_a_tokenizer_that_is_not_there_is_told() -> None:
    with pytest.raises(EvaluationError, match=r"'nonsense'; known are 13a"):
        metric_named("bleu:nonsense").score(["a"], ["a"])


def test_a_metric_may_have_a_normaliser_of_its_own() -> None:
    assert metric_named("wer@basic").score(["Yes!"], ["yes"]).value == 0.0
    assert metric_named("wer@none").score(["Yes!"], ["yes"]).value == 100.0
    for name in ("weer", "bleu@basic"):
        with pytest.raises(EvaluationError, match=f"no metric '{name}'"):
            metric_named(name)
    with pytest.raises(EvaluationError, match="no normaliser 'nonsense'"):
        metric_named("wer@nonsense")


def test_the_mean_and_the_difference_of_estimates_are_paired() -> None:
    one, other = (EXACT.estimate(h, REFERENCES) for h in (REFERENCES, HYPOTHESES))
    assert mean([one, other]).value == pytest.approx((100 + 25) / 2)
    shifted = (mean([one, other]) - other).score
    assert shifted.value == pytest.approx(37.5)
    assert (other - other).score.high == 0.0

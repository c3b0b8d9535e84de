"""Metrics on text: word and character error rate, exact match, BLEU and chrF."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sonant.errors import EvaluationError
from sonant.evaluate.metrics.score import INTERVAL, RESAMPLES, Metric, RatioMetric, Score, check_pairs


def word_errors(hypothesis: str, reference: str) -> tuple[float, float]:
    """Returns (substitutions + deletions + insertions, reference words). An empty reference counts its insertions."""
    return _edits(hypothesis.split(), reference.split())


def character_errors(hypothesis: str, reference: str) -> tuple[float, float]:
    """Returns (edits, reference characters)."""
    return _edits(list(hypothesis), list(reference))


def equal(hypothesis: str, reference: str) -> tuple[float, float]:
    """Returns (1 or 0, 1)."""
    return float(hypothesis == reference), 1.0


def _edits(hypothesis: list[str], reference: list[str]) -> tuple[float, float]:
    # rapidfuzz is what jiwer stands on; jiwer itself has no answer for empty references.
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError:
        raise EvaluationError("error rates need rapidfuzz: pip install 'sonant[eval]'") from None
    return float(Levenshtein.distance(reference, hypothesis)), float(len(reference))


@dataclass(frozen=True)
class SacreMetric:
    """BLEU or chrF by sacrebleu, with its signature and its own bootstrap."""

    name: Literal["bleu", "chrf"]
    higher_is_better: bool = True

    def score(self, hypotheses: Sequence[str], references: Sequence[str]) -> Score:
        """Returns the corpus score with sacrebleu's signature."""
        check_pairs(hypotheses, references)
        try:
            import sacrebleu.metrics
        except ImportError:
            raise EvaluationError(f"{self.name} needs sacrebleu: pip install 'sonant[eval]'") from None
        scorer: Any = sacrebleu.metrics.BLEU() if self.name == "bleu" else sacrebleu.metrics.CHRF()
        result = scorer.corpus_score(list(hypotheses), [list(references)])
        statistics = scorer._extract_corpus_statistics(list(hypotheses), [list(references)])
        low, high = _bootstrap(scorer, statistics)
        return Score(result.score, low, high, n=len(references), signature=str(scorer.get_signature()))


def _bootstrap(scorer: Any, statistics: list[list[int]]) -> tuple[float, float]:
    import numpy as np

    rng = np.random.default_rng(0)
    values = np.array(statistics)
    draws = rng.integers(0, len(values), size=(RESAMPLES, len(values)))
    scores = [scorer._compute_score_from_stats(list(values[draw].sum(0))).score for draw in draws]
    low, high = np.percentile(scores, INTERVAL)
    return float(low), float(high)


WER = RatioMetric("wer", higher_is_better=False, count=word_errors)
CER = RatioMetric("cer", higher_is_better=False, count=character_errors)
EXACT = RatioMetric("exact_match", higher_is_better=True, count=equal)
BLEU = SacreMetric("bleu")
CHRF = SacreMetric("chrf")
METRICS: dict[str, Metric] = {m.name: m for m in (WER, CER, EXACT, BLEU, CHRF)}

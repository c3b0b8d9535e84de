"""Metrics on text: error rates, strict and lenient matches, overlap (F1, ROUGE-L), BLEU and chrF, multiple choice."""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sonant.errors import EvaluationError
from sonant.evaluate.metrics.choice import chosen
from sonant.evaluate.metrics.score import (
    Estimate,
    Groups,
    RatioMetric,
    Reference,
    Score,
    check_pairs,
    num_drawn,
    resampled_sums,
    several,
)


def word_errors(hypothesis: str, reference: str) -> tuple[float, float]:
    """Returns (substitutions + deletions + insertions, reference words). An empty reference counts its insertions."""
    return _edits(hypothesis.split(), reference.split())


def character_errors(hypothesis: str, reference: str) -> tuple[float, float]:
    """Returns (edits, reference characters)."""
    return _edits(list(hypothesis), list(reference))


def equal(hypothesis: str, reference: str) -> tuple[float, float]:
    """Returns (1 or 0, 1)."""
    return float(hypothesis == reference), 1.0


def contained(hypothesis: str, reference: str) -> tuple[float, float]:
    """Returns (1 if the reference stands in the hypothesis as whole words, else 0, 1); nothing is only in nothing."""
    words, wanted = hypothesis.split(), reference.split()
    starts = range(len(words) - len(wanted) + 1)
    found = any(words[i : i + len(wanted)] == wanted for i in starts) if wanted else not words
    return float(found), 1.0


def token_f1(hypothesis: str, reference: str) -> tuple[float, float]:
    """Returns (F1 of the two bags of words, 1). Source: Rajpurkar et al. 2016 (SQuAD), with its normaliser "squad"."""
    words, wanted = hypothesis.split(), reference.split()
    return _f1((Counter(words) & Counter(wanted)).total(), len(words), len(wanted)), 1.0


def rouge_l(hypothesis: str, reference: str) -> tuple[float, float]:
    """Returns (F1 of the longest common subsequence of words, 1). Source: Lin 2004, on one sentence, no stemming."""
    words, wanted = hypothesis.split(), reference.split()
    return _f1(distances().LCSseq.similarity(words, wanted), len(words), len(wanted)), 1.0


def chosen_rightly(hypothesis: str, reference: str) -> tuple[float, float]:
    """Returns (1 if the letter that the hypothesis chooses is the reference, else 0, 1); no choice is not right."""
    return float(chosen(hypothesis) == reference.strip().upper()), 1.0


def not_chosen(hypothesis: str, reference: str) -> tuple[float, float]:
    """Returns (1 if no single letter can be made out in the hypothesis, else 0, 1)."""
    return float(chosen(hypothesis) is None), 1.0


def chrf_of(hypothesis: str, reference: str) -> float:
    """Returns the chrF of one text against another in points: how alike they are, letter by letter."""
    return float(CHRF.scorer().sentence_score(hypothesis, [reference]).score)


def _f1(common: int, num_words: int, num_wanted: int) -> float:
    if not num_words or not num_wanted:
        return float(num_words == num_wanted)
    return 2 * common / (num_words + num_wanted)


def _edits(hypothesis: list[str], reference: list[str]) -> tuple[float, float]:
    # rapidfuzz is what jiwer stands on; jiwer itself has no answer for empty references.
    return float(distances().Levenshtein.distance(reference, hypothesis)), float(len(reference))


def distances() -> Any:
    """Returns the module `rapidfuzz.distance`. Raises: EvaluationError if it is not installed."""
    try:
        import rapidfuzz.distance
    except ImportError:
        raise EvaluationError("error rates need rapidfuzz: pip install 'sonant[eval]'") from None
    return rapidfuzz.distance


@dataclass(frozen=True)
class SacreMetric:
    """BLEU or chrF by sacrebleu, with its signature; intervals by a bootstrap over its statistics."""

    name: Literal["bleu", "chrf"]
    tokenizer: str = "13a"  # of BLEU
    higher_is_better: bool = True

    def score(self, hypotheses: Sequence[str], references: Sequence[Reference]) -> Score:
        """Returns the corpus score with sacrebleu's signature."""
        return self.estimate(hypotheses, references).score

    def estimate(
        self, hypotheses: Sequence[str], references: Sequence[Reference], groups: Groups | None = None
    ) -> Estimate:
        """Returns the corpus score with its resamples."""
        import numpy as np

        check_pairs(hypotheses, references)
        scorer = self.scorer()
        # sacrebleu takes streams: the first answer of every item, the second of those that have one, ...
        streams = [list(stream) for stream in itertools.zip_longest(*map(several, references))]
        result = scorer.corpus_score(list(hypotheses), streams)
        statistics = np.array(scorer._extract_corpus_statistics(list(hypotheses), streams), dtype=np.float64)
        drawn = resampled_sums(statistics, groups)
        resampled = np.array([scorer._compute_score_from_stats(list(sums)).score for sums in drawn])
        num = num_drawn(len(references), groups)
        return Estimate(result.score, resampled, n=num, signature=str(scorer.get_signature()))

    def scorer(self) -> Any:
        """Returns sacrebleu's own metric. Raises: EvaluationError if it, or what it cuts words with, is missing."""
        try:
            import sacrebleu.metrics
        except ImportError:
            raise EvaluationError(f"{self.name} needs sacrebleu: pip install 'sonant[eval]'") from None
        if self.name == "chrf":
            return sacrebleu.metrics.CHRF()
        try:
            return sacrebleu.metrics.BLEU(tokenize=self.tokenizer)
        except (ImportError, RuntimeError, LookupError):
            remedy = f"pip install 'sacrebleu[{self.tokenizer[:2]}]', or choose bleu:char"
            remedy = (
                remedy if self.tokenizer.endswith("-mecab") else "known are 13a, intl, zh, char, ja-mecab, ko-mecab"
            )
            raise EvaluationError(f"BLEU cannot cut words by {self.tokenizer!r}; {remedy}") from None


WER = RatioMetric("wer", higher_is_better=False, count=word_errors)
CER = RatioMetric("cer", higher_is_better=False, count=character_errors)
EXACT = RatioMetric("exact_match", higher_is_better=True, count=equal)
CONTAINS = RatioMetric("contains", higher_is_better=True, count=contained)
F1 = RatioMetric("f1", higher_is_better=True, count=token_f1)
ROUGE_L = RatioMetric("rouge_l", higher_is_better=True, count=rouge_l)
ACCURACY = RatioMetric("accuracy", higher_is_better=True, count=chosen_rightly)
NO_CHOICE = RatioMetric("no_choice", higher_is_better=False, count=not_chosen)
BLEU = SacreMetric("bleu")
CHRF = SacreMetric("chrf")

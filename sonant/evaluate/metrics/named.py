"""Metrics by name, as suites and pins call them."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from sonant.errors import EvaluationError
from sonant.evaluate.metrics.answers import LENIENT, STRICT
from sonant.evaluate.metrics.entities import ENTITY_ERRORS
from sonant.evaluate.metrics.instructions import ALL_CORRECT, INSTRUCTION_FOLLOWING
from sonant.evaluate.metrics.labels import INVALID_LABEL, UNWEIGHTED, WEIGHTED
from sonant.evaluate.metrics.language import RIGHT_LANGUAGE
from sonant.evaluate.metrics.rows import ANSWERED, FINAL_EXACT, FINAL_F1
from sonant.evaluate.metrics.score import AnyMetric, Metric, RatioMetric
from sonant.evaluate.metrics.text import (
    ACCURACY,
    BLEU,
    CER,
    CHRF,
    CONTAINS,
    EXACT,
    F1,
    NO_CHOICE,
    ROUGE_L,
    WER,
    SacreMetric,
)
from sonant.evaluate.metrics.verification import ORDER_CONSISTENCY
from sonant.evaluate.normalize import Normalizer, normalizer

# sacrebleu's own choices by target language; Japanese and Korean need a dictionary to find words.
BLEU_TOKENIZERS = {"zh": "zh", "ja": "ja-mecab", "ko": "ko-mecab"}
_OF_TEXTS: tuple[AnyMetric, ...] = (WER, CER, EXACT, CONTAINS, F1, ROUGE_L, ACCURACY, NO_CHOICE, BLEU, CHRF)
_OF_ROWS = (
    *(INSTRUCTION_FOLLOWING, ALL_CORRECT, ANSWERED, FINAL_EXACT, FINAL_F1),
    *(WEIGHTED, UNWEIGHTED, INVALID_LABEL, ORDER_CONSISTENCY),
    *(RIGHT_LANGUAGE, ENTITY_ERRORS, STRICT, LENIENT),
)
METRICS: dict[str, AnyMetric] = {metric.name: metric for metric in (*_OF_TEXTS, *_OF_ROWS)}


def metric_named(name: str) -> AnyMetric:
    """Returns the metric of that name.

    "bleu:TOKENIZER" is BLEU on words cut in that way, "wer@NORMALIZER" a ratio metric with a normaliser of its own.
    Raises: EvaluationError if there is none.
    """
    plain, _, own = name.partition("@")
    metric = METRICS.get(plain)
    if plain.startswith("bleu:") and not own:
        return SacreMetric("bleu", plain.removeprefix("bleu:"))
    if metric is None or (own and not isinstance(metric, RatioMetric)):
        known = f"{', '.join(METRICS)}, bleu:char (a tokenizer), wer@none (a normaliser of its own)"
        raise EvaluationError(f"no metric {name!r}; known are {known}")
    if not own:
        return metric
    assert isinstance(metric, RatioMetric)
    return replace(metric, name=name, count=partial(_normalized, metric.count, normalizer(own)))


def exact_name(metric: AnyMetric) -> str:
    """Returns the name by which `metric_named` finds this very metric: "bleu:char" where `metric.name` is "bleu"."""
    if isinstance(metric, SacreMetric) and metric.tokenizer != BLEU.tokenizer:
        return f"bleu:{metric.tokenizer}"
    return metric.name


def _normalized(
    count: Callable[[str, str], tuple[float, float]], clean: Normalizer, hypothesis: str, reference: str
) -> tuple[float, float]:
    return count(clean(hypothesis), clean(reference))


def in_language(metric: Metric, language: str | None) -> Metric:
    """Returns the metric as it is computed on text in that language (a code, "ja"): BLEU cuts its words otherwise."""
    if metric == BLEU and language is not None:
        return SacreMetric("bleu", BLEU_TOKENIZERS.get(language.replace("_", "-").split("-")[0].lower(), "13a"))
    return metric

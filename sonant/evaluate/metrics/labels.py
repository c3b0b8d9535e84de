"""Which of several labels a reply names: accuracy over rows and over classes, and what is taken for what.

The labels are the references of the set. A reply names a label if exactly one of them stands in it as whole words, both
normalised by "basic"; a reply that names none, or several, is invalid: wrong, and counted as such.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from sonant.chat.messages import Conversation
from sonant.evaluate.metrics.instructions import named_labels
from sonant.evaluate.metrics.score import RowMetric
from sonant.evaluate.normalize import basic

INVALID = "(invalid)"


def named(answers: Sequence[str], rows: Sequence[Conversation]) -> list[tuple[str, str]]:
    """Returns (the label that is right, the one that the reply names or INVALID) of each row."""
    labels = sorted({basic(row.reference) for row in rows})
    found = [named_labels(answer, labels) for answer in answers]
    return [
        (basic(row.reference), next(iter(each)) if len(each) == 1 else INVALID)
        for row, each in zip(rows, found, strict=True)
    ]


def confusion(answers: Sequence[str], rows: Sequence[Conversation]) -> Mapping[str, Mapping[str, int]]:
    """Returns right label -> named label -> number of rows; every label and INVALID in every line."""
    pairs = Counter(named(answers, rows))
    labels = sorted({right for right, _ in pairs})
    return {right: {said: pairs[right, said] for said in (*labels, INVALID)} for right in labels}


def _weighted(answers: Sequence[str], rows: Sequence[Conversation]) -> list[tuple[float, float]]:
    return [(float(right == said), 1.0) for right, said in named(answers, rows)]


def _unweighted(answers: Sequence[str], rows: Sequence[Conversation]) -> list[tuple[float, float]]:
    """Each row weighs as much as its class is rare: N / (classes x rows of the class), in all N."""
    pairs = named(answers, rows)
    num_rows = Counter(right for right, _ in pairs)
    weights = [len(rows) / (len(num_rows) * num_rows[right]) for right, _ in pairs]
    return [(weight * (right == said), weight) for weight, (right, said) in zip(weights, pairs, strict=True)]


def _invalid(answers: Sequence[str], rows: Sequence[Conversation]) -> list[tuple[float, float]]:
    return [(float(said == INVALID), 1.0) for _, said in named(answers, rows)]


# As papers on emotion call them: "weighted" is the share of rows, "unweighted" the mean recall over classes. The
# interval of the latter keeps the weights of the set in every draw.
WEIGHTED = RowMetric("weighted_accuracy", True, _weighted)
UNWEIGHTED = RowMetric("unweighted_accuracy", True, _unweighted)
INVALID_LABEL = RowMetric("invalid_label", False, _invalid)

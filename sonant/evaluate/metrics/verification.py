"""Same speaker or not: equal error rate from likelihoods, and whether swapping two clips changes the answer."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sonant.chat.messages import Conversation
from sonant.errors import EvaluationError
from sonant.evaluate.metrics.score import Estimate, Groups, RowMetric, num_drawn, resampled_weights
from sonant.evaluate.normalize import basic

Scores = NDArray[np.float64]  # (N, C): log-likelihood of each choice as the whole answer to each row


def equal_error_rate(
    scores: NDArray[np.float64], is_target: NDArray[np.bool_], groups: Groups | None = None
) -> Estimate:
    """Returns the EER in percent: the rate at which as many targets are missed as others are let in.

        scores   4  3  2  1      threshold   over 4   4    3    2    1
        same     y  n  y  n      missed         1.0  0.5  0.5  0.0  0.0
                                 let in         0.0  0.0  0.5  0.5  1.0     equal at 3: EER 50 %

    scores: (N,), higher for "same".   is_target: (N,), whether it is the same. One threshold stands between any two
    different scores (equal scores pass together); between thresholds both rates run straight, as in
    `brentq` on scikit-learn's ROC curve. A bootstrap draw without targets, or without others, has no rate and is left
    out. Raises: EvaluationError without a target or without another.
    """
    if not is_target.any() or is_target.all():
        raise EvaluationError(
            f"an equal error rate needs pairs of both kinds; {int(is_target.sum())} of {len(is_target)} are the same"
        )
    order = np.argsort(-scores, kind="stable")
    targets = is_target[order].astype(np.float64)
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # the last of every run of equal scores

    def rates(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return _meeting_points(weights[:, order], targets, ends)

    value = rates(np.ones((1, len(scores))))[0]
    drawn = np.concatenate([rates(weights) for weights in resampled_weights(len(scores), groups)])
    drawn = np.where(np.isnan(drawn), value, drawn)
    return Estimate(float(100 * value), 100 * drawn, n=num_drawn(len(scores), groups))


def right_choices(references: Sequence[str], choices: Sequence[str]) -> NDArray[np.intp]:
    """Returns (N,): which choice is right. Raises: EvaluationError for a reference that is none of them."""
    known = [basic(choice) for choice in choices]
    for reference in references:
        if basic(reference) not in known:
            raise EvaluationError(f"the reference {reference!r} is none of the choices {', '.join(choices)}")
    return np.array([known.index(basic(reference)) for reference in references])


def _meeting_points(
    weights: NDArray[np.float64], targets: NDArray[np.float64], ends: NDArray[np.intp]
) -> NDArray[np.float64]:
    """(R,) error rates of (R, N) weights of items in falling order of score; NaN where one kind has no weight."""
    let_in, hits = (np.cumsum(weights * kind, axis=1)[:, ends] for kind in (1 - targets, targets))
    with np.errstate(invalid="ignore", divide="ignore"):
        let_in, misses = let_in / let_in[:, -1:], 1 - hits / hits[:, -1:]
    start = np.zeros((len(weights), 1))
    let_in, misses = np.hstack([start, let_in]), np.hstack([start + 1, misses])
    gap = let_in - misses  # rises from -1 to 1
    after = np.argmax(gap >= 0, axis=1)[:, None]
    (x0, x1), (g0, g1) = (
        tuple(np.take_along_axis(values, place, axis=1)[:, 0] for place in (after - 1, after))
        for values in (let_in, gap)
    )
    with np.errstate(invalid="ignore"):
        met: NDArray[np.float64] = x0 + (x1 - x0) * (0 - g0) / (g1 - g0)
    return met


def _order_consistency(answers: Sequence[str], rows: Sequence[Conversation]) -> list[tuple[float, float]]:
    """One count a pair, at its first row: 1 if both orders got the same reply. Rows without `pair` say nothing."""
    orders: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        if row.extra.get("pair"):
            orders.setdefault(str(row.extra["pair"]), []).append(index)
    counts = [(0.0, 0.0)] * len(rows)
    for places in orders.values():
        if len(places) > 1:
            replies = {basic(answers[place]) for place in places}
            counts[places[0]] = (float(len(replies) == 1), 1.0)
    return counts


ORDER_CONSISTENCY = RowMetric("order_consistency", True, _order_consistency)

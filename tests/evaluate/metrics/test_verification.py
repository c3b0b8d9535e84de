from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sonant.chat.messages import Conversation, assistant, user
from sonant.errors import EvaluationError
from sonant.evaluate.metrics.score import ratio
from sonant.evaluate.metrics.verification import ORDER_CONSISTENCY, equal_error_rate, right_choices


def eer(scores: list[float], same: str) -> float:
    return equal_error_rate(np.array(scores, dtype=float), np.array([letter == "y" for letter in same])).value


def test_equal_error_rate_by_hand() -> None:
    assert eer([4, 3, 2, 1], "ynyn") == 50.0  # at 3: one of two missed, one of two let in
    assert eer([4, 3, 2, 1], "yynn") == 0.0
    assert eer([4, 3, 2, 1], "nnyy") == 100.0
    assert eer([1, 1, 1, 1], "yynn") == 50.0  # cannot tell: all pass or none
    # Three of each; after 5, 4, 3: missed 2/3, 1/3, 1/3; let in 0, 0, 1/3.
    assert eer([6, 5, 4, 3, 2, 1], "yynynn") == pytest.approx(100 / 3)
    # 1 same, 2 others: missed 1 -> 0 between the first and the second, while half of the others is in at the first.
    assert eer([3, 2, 1], "nyn") == 50.0


def swept(scores: NDArray[np.float64], same: NDArray[np.bool_]) -> float:
    """Every threshold there is, by counting; rates between two of them on a straight line."""
    points = [(0.0, 1.0)]
    for threshold in sorted(set(scores), reverse=True):
        passed = scores >= threshold
        points.append((float(passed[~same].mean()), float((~passed[same]).mean())))
    for (in0, out0), (in1, out1) in pairwise(points):
        if in1 >= out1:
            share = (out0 - in0) / ((in1 - in0) + (out0 - out1))
            return 100 * (in0 + share * (in1 - in0))
    raise AssertionError


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=2, max_size=30))
def test_equal_error_rate_is_that_of_a_sweep_over_all_thresholds(pairs: list[tuple[int, bool]]) -> None:
    scores, same = np.array([float(s) for s, _ in pairs]), np.array([y for _, y in pairs])
    if same.all() or not same.any():
        with pytest.raises(EvaluationError, match="pairs of both kinds"):
            equal_error_rate(scores, same)
        return
    found = equal_error_rate(scores, same)
    assert found.value == pytest.approx(swept(scores, same))
    assert found.score.low <= found.score.high
    assert (found.resampled >= 0).all()
    assert (found.resampled <= 100 + 1e-9).all()


def test_a_draw_of_the_bootstrap_is_the_rate_of_the_items_drawn() -> None:
    rng = np.random.default_rng(5)
    same = rng.random(40) < 0.5
    scores = rng.normal(size=40) + same
    found = equal_error_rate(scores, same)
    drawn = np.random.default_rng(0).multinomial(40, np.full(40, 1 / 40), size=1000)[7]
    assert found.resampled[7] == pytest.approx(swept(np.repeat(scores, drawn), np.repeat(same, drawn)))
    assert found.score.low < found.value < found.score.high


def test_equal_error_rate_does_not_see_how_scores_are_scaled() -> None:
    rng = np.random.default_rng(1)
    same, scores = rng.random(50) < 0.4, rng.normal(size=50)
    assert equal_error_rate(np.exp(scores), same).value == equal_error_rate(3 * scores - 7, same).value


def test_a_reference_that_is_no_choice_is_refused() -> None:
    assert right_choices(["Yes.", "no"], ("yes", "no")).tolist() == [0, 1]
    with pytest.raises(EvaluationError, match="'maybe' is none of the choices yes, no"):
        right_choices(["maybe"], ("yes", "no"))


def test_both_orders_of_a_pair_should_get_one_answer() -> None:
    """By hand: of two pairs one agrees; a row without its other order, or of no pair, says nothing."""
    rows = [
        Conversation((user("same?"), assistant("yes")), id=str(i), extra={"pair": pair.strip()})
        for i, pair in enumerate("abbac ")
    ]
    counts = ORDER_CONSISTENCY.counts(["yes", "no", "No.", "no", "yes", "yes"], rows)
    assert counts.tolist() == [[0, 1], [1, 1], [0, 0], [0, 0], [0, 0], [0, 0]]
    assert ratio(counts).value == 50.0

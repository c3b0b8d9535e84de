from dataclasses import dataclass

import pytest

from sonant.errors import EvaluationError
from sonant.evaluate.nearest import nearest_scores

WORDS = ("the", "cat", "dog", "sleeps")


@dataclass(frozen=True)
class Heard:
    said: tuple[int, ...]
    token_ids: tuple[int, ...]
    cosines: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    norm_ratios: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)


def decode(ids: tuple[int, ...]) -> str:
    return " ".join(WORDS[i] for i in ids)


def test_a_miscount_shifts_every_later_slot_and_is_logged() -> None:
    right, one_too_many, two_too_few = (
        Heard((0, 1, 3), (0, 1, 3)),
        Heard((0, 2, 3), (0, 0, 2, 3)),
        Heard((0, 1, 3), (0,)),
    )
    scores = nearest_scores([right, one_too_many, two_too_few], decode=decode)
    assert scores["exact count"] == pytest.approx(100 / 3)
    assert scores["count within one"] == pytest.approx(200 / 3)
    assert scores["nearest accuracy"] == pytest.approx(100 * (3 + 1 + 1) / 9)  # by slot
    assert scores["nearest wer"] == pytest.approx(100 * (0 + 1 + 2) / 9)  # one insertion, two deletions


def test_a_blurred_vector_is_right_once_snapped_but_not_raw() -> None:
    blurred = Heard((0, 1), (0, 1), cosines=(0.99, 0.5), norm_ratios=(1.0, 0.2))
    scores = nearest_scores([blurred], decode=decode)
    assert (scores["nearest accuracy"], scores["raw accuracy"]) == (100, 50)
    assert scores["norm ratio"] == pytest.approx(0.6)  # a loss that hides norms shows here
    assert scores["cosine"] == pytest.approx(0.745)


def test_without_clips_there_is_no_score() -> None:
    with pytest.raises(EvaluationError, match="name dev manifests"):
        nearest_scores([], decode=decode)

import pytest

from sonant.errors import EvaluationError
from sonant.evaluate.nearest import nearest_scores

WORDS = ("the", "cat", "dog", "sleeps")


def decode(ids: list[int]) -> str:
    return " ".join(WORDS[i] for i in ids)


def test_a_miscount_shifts_every_later_slot_and_is_logged() -> None:
    said = [[0, 1, 3], [0, 2, 3], [0, 1, 3]]
    heard = [[0, 1, 3], [0, 0, 2, 3], [0]]  # right; one too many at the front; two too few
    scores = nearest_scores(heard, said, decode=decode)
    assert scores["exact count"] == pytest.approx(100 / 3)
    assert scores["count within one"] == pytest.approx(200 / 3)
    assert scores["nearest accuracy"] == pytest.approx(100 * (3 + 1 + 1) / 9)  # by slot
    assert scores["nearest wer"] == pytest.approx(100 * (0 + 1 + 2) / 9)  # one insertion, two deletions


def test_without_clips_there_is_no_score() -> None:
    with pytest.raises(EvaluationError, match="name dev manifests"):
        nearest_scores([], [], decode=decode)

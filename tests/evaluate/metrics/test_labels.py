import pytest

from sonant.chat.messages import Conversation, assistant, user
from sonant.evaluate.metrics.labels import INVALID, INVALID_LABEL, UNWEIGHTED, WEIGHTED, confusion
from sonant.evaluate.metrics.score import ratio

RIGHT = ["calm"] * 6 + ["sad"] * 2 + ["angry"] * 2
SAID = ["calm"] * 5 + ["Angry!"] + ["The speaker is sad.", "calm or sad"] + ["angry", "furious"]
ROWS = [Conversation((user("how?"), assistant(label)), id=str(i)) for i, label in enumerate(RIGHT)]


def test_weighted_is_over_rows_and_unweighted_the_mean_recall_of_classes() -> None:
    """By hand: 5/6, 1/2 and 1/2 of the classes; 7 of 10 rows; two replies name no single label."""
    assert ratio(WEIGHTED.counts(SAID, ROWS)).value == pytest.approx(70)
    assert ratio(UNWEIGHTED.counts(SAID, ROWS)).value == pytest.approx(100 * (5 / 6 + 1 / 2 + 1 / 2) / 3)
    assert ratio(INVALID_LABEL.counts(SAID, ROWS)).value == pytest.approx(20)


def test_always_the_same_label_is_no_better_than_chance_unweighted() -> None:
    said = ["calm"] * 10
    assert ratio(WEIGHTED.counts(said, ROWS)).value == pytest.approx(60)
    assert ratio(UNWEIGHTED.counts(said, ROWS)).value == pytest.approx(100 / 3)


def test_what_is_taken_for_what_adds_up_to_the_rows_of_each_label() -> None:
    found = confusion(SAID, ROWS)
    assert found["calm"] == {"angry": 1, "calm": 5, "sad": 0, INVALID: 0}
    assert found["sad"] == {"angry": 0, "calm": 0, "sad": 1, INVALID: 1}
    assert {right: sum(line.values()) for right, line in found.items()} == {"angry": 2, "calm": 6, "sad": 2}

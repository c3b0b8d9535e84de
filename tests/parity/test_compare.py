import math

import pytest
import torch

from sonant.parity.compare import Answer, compare, log_probabilities

INF = math.inf


def logits(*rows: list[float]) -> Answer:
    scores = torch.tensor(rows)
    return Answer(tuple(scores.argmax(-1).tolist()), scores)


def test_equal_roads_have_no_difference() -> None:
    road = [logits([0.0, 1.0], [2.0, 0.0]), logits([0.5, 0.0])]
    found = compare(road, road)
    assert (found.largest_difference, found.first_difference, found.num_tokens) == (0.0, None, 3)


def test_the_largest_difference_is_that_of_all_rows_and_positions() -> None:
    found = compare(
        [logits([0.0, 1.0], [2.0, 0.0]), logits([0.5, 0.0])], [logits([0.0, 1.25], [2.0, 0.0]), logits([0.5, -0.5])]
    )
    assert found.largest_difference == 0.5
    assert found.first_difference is None


def test_what_follows_the_first_token_that_differs_is_not_compared() -> None:
    expected = logits([0.0, 1.0], [2.0, 1.9], [9.0, 0.0])
    found = compare([logits([1.0, 0.0]), expected], [logits([1.0, 0.0]), logits([0.0, 1.0], [2.0, 2.1], [0.0, 9.0])])
    assert found.largest_difference == pytest.approx(0.2)  # the logits from which the tokens were drawn still count
    assert found.num_tokens == 3
    assert found.first_difference is not None
    parting = found.first_difference
    assert (parting.row, parting.position, parting.expected, parting.found) == (1, 1, 0, 1)
    assert parting.margin == pytest.approx(0.1)


@pytest.mark.parametrize("longer", ["expected", "found"])
def test_an_answer_that_ends_early_differs_at_its_end(longer: str) -> None:
    long, short = logits([0.0, 1.0], [2.0, 0.0]), logits([0.0, 1.0])
    pair = (long, short) if longer == "expected" else (short, long)
    parting = compare([pair[0]], [pair[1]]).first_difference
    assert parting is not None
    assert parting.position == 1
    assert (parting.expected, parting.found) == ((0, None) if longer == "expected" else (None, 0))


def test_a_number_that_is_none_is_never_equal() -> None:
    answer = logits([0.0, 1.0])
    assert math.isnan(
        compare([answer, answer], [Answer((1,), torch.tensor([[math.nan, 1.0]])), answer]).largest_difference
    )
    assert compare([answer], [Answer((1,), torch.tensor([[INF, 1.0]]))]).largest_difference == INF


def test_a_token_that_neither_road_can_say_is_no_difference() -> None:
    answer = logits([-INF, 1.0])
    assert compare([answer], [answer]).largest_difference == 0.0
    assert answer.span == 0.0  # a single number has none
    assert logits([-INF, 1.0, 4.0]).span == 3.0


def test_log_probabilities_are_those_of_the_tokens_that_were_said() -> None:
    (seen,) = log_probabilities([logits([0.0, math.log(3.0)], [0.0, 0.0])])
    assert seen.tokens == (1, 0)
    torch.testing.assert_close(seen.scores.exp(), torch.tensor([0.75, 0.5]))


def test_of_log_probabilities_that_of_another_token_is_not_compared() -> None:
    expected, found = Answer((1, 0), torch.tensor([-0.5, -1.0])), Answer((1, 1), torch.tensor([-0.5, -9.0]))
    compared = compare([expected], [found])
    assert compared.largest_difference == 0.0
    assert compared.first_difference is not None
    assert compared.first_difference.margin is None


def test_roads_of_unequal_many_answers_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        compare([logits([0.0, 1.0])], [])

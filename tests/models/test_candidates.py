"""Drawn tokens stand for all others, and those of the batch are always among them."""

import pytest
import torch

from sonant.models.candidates import draw_candidates

OWN = torch.tensor([7, 3, 7])


def test_the_batchs_own_are_there_and_none_comes_twice() -> None:
    for seed in range(20):
        torch.manual_seed(seed)
        drawn = draw_candidates(OWN, vocab_size=50, num_drawn=20)
        assert drawn is not None
        ids = drawn.token_ids.tolist()
        assert ids == sorted(set(ids))
        assert {3, 7} <= set(ids)
        assert [ids[place] for place in drawn.places(OWN).tolist()] == OWN.tolist()
        assert int(drawn.places(torch.tensor([49])).max()) < len(ids)


def test_sums_over_them_are_those_over_all_tokens_in_the_mean() -> None:
    torch.manual_seed(0)
    scores = torch.randn(50)
    sums = []
    for _ in range(4000):
        drawn = draw_candidates(OWN, vocab_size=50, num_drawn=12)
        assert drawn is not None
        sums.append(float((scores[drawn.token_ids] + drawn.log_weights).exp().sum()))
    assert sum(sums) / len(sums) == pytest.approx(float(scores.exp().sum()), rel=0.02)


def test_where_all_others_are_drawn_each_stands_for_itself() -> None:
    torch.manual_seed(0)
    drawn = draw_candidates(OWN, vocab_size=9, num_drawn=8)
    while drawn is not None and len(drawn.token_ids) < 9:
        drawn = draw_candidates(OWN, vocab_size=9, num_drawn=8)
    assert drawn is not None
    assert drawn.log_weights.tolist() == [0.0] * 9


@pytest.mark.parametrize("num_drawn", [None, 50, 51])
def test_all_are_told_apart_where_as_many_may_be_drawn(num_drawn: int | None) -> None:
    assert draw_candidates(OWN, vocab_size=50, num_drawn=num_drawn) is None

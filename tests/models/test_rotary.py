"""Rotary positions."""

import torch

from sonant.models.rotary import rotate, rotation


def test_what_two_positions_say_to_each_other_depends_on_their_distance_alone() -> None:
    query, key = torch.randn(8), torch.randn(8)
    turn = rotation(20, 8, like=query)
    turned_query, turned_key = (rotate(x.expand(20, 8), turn) for x in (query, key))
    scores = turned_query @ turned_key.T
    torch.testing.assert_close(scores[3, 1], scores[19, 17])
    torch.testing.assert_close(scores[5, 5], query @ key)

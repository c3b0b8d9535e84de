"""The layer-weighted sum: a mean at first, always a convex combination."""

import pytest
import torch

from sonant.models.encoders.weighted import layer_weights, weighted_sum

STATES = [torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(i)) for i in range(13)]


def test_equal_layer_weights_give_the_mean_of_thirteen_states() -> None:
    torch.testing.assert_close(weighted_sum(STATES, layer_weights(13)), torch.stack(STATES).mean(0))


def test_layer_weights_sum_to_one_whatever_the_logits() -> None:
    weights = torch.linspace(-3, 4, 13)
    ones = [torch.ones(1, 2, 3)] * 13
    torch.testing.assert_close(weighted_sum(ones, weights), ones[0])
    by_hand = sum(float(w) * s for w, s in zip(weights.exp() / weights.exp().sum(), STATES, strict=True))
    torch.testing.assert_close(weighted_sum(STATES, weights), by_hand)


def test_layer_weights_are_trained_while_the_states_need_no_gradient() -> None:
    weights = layer_weights(13)
    weighted_sum(STATES, weights).square().sum().backward()
    assert weights.grad is not None
    assert float(weights.grad.sum()) == pytest.approx(0.0, abs=1e-3)  # a common shift of the logits changes nothing
    assert weights.grad.any()


def test_the_sum_keeps_the_dtype_of_the_states() -> None:
    halves = [state.bfloat16() for state in STATES]
    assert weighted_sum(halves, layer_weights(13)).dtype == torch.bfloat16

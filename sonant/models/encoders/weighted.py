"""The layer-weighted sum over an encoder's states: low layers know who speaks and how, high ones what is said."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def layer_weights(num_states: int) -> nn.Parameter:
    """Returns logits (num_states,) float32, all zero: the sum starts as the mean; encoders call it `layer_weights`."""
    return nn.Parameter(torch.zeros(num_states))


def weighted_sum(states: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Returns sum_i softmax(weights)_i * states_i, as (A, T, D) as each state and in its dtype.

    weights: (number of states,) logits, trained; one set for all inputs.
    Source: SUPERB (Yang et al. 2021), section 2; WavLLM (arXiv 2404.00656) over the 13 states of WavLM base.
    """
    shares = weights.softmax(0)
    return torch.stack([share * state for share, state in zip(shares, states, strict=True)]).sum(0).to(states[0].dtype)

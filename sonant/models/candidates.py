"""The tokens that a training step tells apart where a vocabulary is too large to tell apart all: sampled softmax."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Candidates:
    """Some tokens of a vocabulary, ascending; each that was drawn stands for several that were not.

        vocabulary    0 1 2 3 4 5 6 7      of a batch that says 2 and 6, two others drawn: 3, 7
        token_ids         2 3     6 7
        log_weights       0 l     0 l      l = log(6 / 2): sums of exp(logit + log_weight) are those of all, in the mean

    Source: importance weights as in sampled softmax (Bengio & Senecal 2008); the batch's own are never left out.
    """

    token_ids: Tensor  # (C,) int64
    log_weights: Tensor  # (C,) float32

    def places(self, token_ids: Tensor) -> Tensor:
        """Returns where each of some of them stands, in their shape; any place for a token that is none of them."""
        return torch.searchsorted(self.token_ids, token_ids).clamp(max=len(self.token_ids) - 1)


def draw_candidates(own: Tensor, *, vocab_size: int, num_drawn: int | None) -> Candidates | None:
    """Returns the tokens of a batch, own (M,), and up to `num_drawn` others; None: all tokens are told apart."""
    if num_drawn is None or num_drawn >= vocab_size:
        return None
    own = own.unique()
    token_ids = torch.cat([own, torch.randint(vocab_size, (num_drawn,), device=own.device)]).unique()
    others = len(token_ids) - len(own)
    log_weight = math.log((vocab_size - len(own)) / others) if others else 0.0
    return Candidates(token_ids, torch.where(torch.isin(token_ids, own), 0.0, log_weight))

"""The mean of the trained weights over a run's last steps: it, and not the last weights, is validated and saved.

    step      1 ........ first ................ steps
    weights   w1  ...     w_f  w_f+1  ...  w_n          train on as if nobody averaged
    mean                  w_f  (w_f + w_f+1) / 2 ...    in AdamW's state, so that checkpoints hold and ranks shard it

The mean lies in the middle of where the last steps wander: flatter there, and less a matter of the seed.
Source: Izmailov et al. 2018 (arXiv 1803.05407), of every step as in Cha et al. 2021 (SWAD, arXiv 2102.08604). Running
statistics of batch norms are means already, and stay those of the last step.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sonant.train.optim import trained
from sonant.train.resume import Progress

_MEAN = "mean"


class WeightAverage:
    """Means of what an optimiser trains, over the last `share` of `steps` steps; of none if `share` is 0."""

    def __init__(self, optimizer: torch.optim.Optimizer, *, share: float, steps: int) -> None:
        self._before = steps - round(share * steps)  # steps whose weights are not counted
        self._weights = trained(optimizer) if self._before < steps else []
        for weight in self._weights:
            optimizer.state[weight][_MEAN] = torch.zeros_like(weight.detach())
        self._means = [optimizer.state[weight][_MEAN] for weight in self._weights]

    @torch.no_grad()
    def count(self, at: Progress) -> None:
        """Takes in the weights as they are after a step; `at.averaged` says how many the means are of."""
        # Counted, not told from the step: a resumed run may have another share, or more steps.
        at.averaged = at.averaged + 1 if at.step > self._before else 0
        if at.averaged:
            for mean, weight in zip(self._means, self._weights, strict=True):
                mean.lerp_(weight, 1 / at.averaged)

    @contextmanager
    def in_place(self, at: Progress) -> Iterator[None]:
        """Within, the model's weights are the means, if there are any yet."""
        begun = at.averaged > 0
        if begun:
            self._exchange()
        try:
            yield
        finally:
            if begun:
                self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for mean, weight in zip(self._means, self._weights, strict=True):
            kept = weight.clone()
            weight.copy_(mean)
            mean.copy_(kept)

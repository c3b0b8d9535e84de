"""Random numbers of a speech head: of the training step, or the same again wherever the same seed is given.

A seeded draw has an address, (seed of the row, purpose, step): a row is spoken alike alone and beside others, and a
pass over true frames draws what stepping draws.
"""

import zlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Draws:
    """Draws for tensors (S, T, D) of successive steps, by one seed a row; without seeds, from torch's own generator."""

    def __init__(self, seeds: Sequence[int] | None = None) -> None:
        self._rows: list[dict[str, torch.Generator]] | None = None if seeds is None else [{} for _ in seeds]
        self._seeds = list(seeds or ())

    def keep(self, lines: Sequence[int]) -> None:
        """Drops every row but these."""
        if self._rows is not None:
            self._rows = [self._rows[line] for line in lines]
            self._seeds = [self._seeds[line] for line in lines]

    def dropout(self, x: Tensor, p: float, *, purpose: str) -> Tensor:
        """Returns x of which the share `p` is zeroed and the rest scaled up."""
        return x * (self._draw(torch.rand, x, purpose) >= p) / (1 - p) if p else x

    def normal(self, x: Tensor, *, purpose: str) -> Tensor:
        """Returns standard normal numbers in the shape of x."""
        return self._draw(torch.randn, x, purpose)

    def _draw(self, kind: Callable[..., Tensor], x: Tensor, purpose: str) -> Tensor:
        if self._rows is None:
            return kind(x.shape, device=x.device, dtype=x.dtype)
        drawn = []
        for row, seed in zip(self._rows, self._seeds, strict=True):
            if purpose not in row:
                row[purpose] = torch.Generator().manual_seed(zlib.crc32(f"{seed} {purpose}".encode()))
            drawn.append(torch.stack([kind(x.shape[2], generator=row[purpose]) for _ in range(x.shape[1])]))
        return torch.stack(drawn).to(x)

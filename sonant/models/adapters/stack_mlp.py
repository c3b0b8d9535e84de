"""An adapter that stacks frames."""

from typing import Literal

import pydantic
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sonant.config import Config
from sonant.models.encoders.base import zero_padding


class StackMLPConfig(Config):
    """Stacks frames and maps them by an MLP."""

    kind: Literal["stack_mlp"] = "stack_mlp"
    stack: int = pydantic.Field(4, ge=1)  # frames joined into one
    hidden_dim: int | None = None  # None: the language model's width


class StackMLPAdapter(nn.Module):
    """Joins k frames into one, then layer norm and a two-layer MLP.

    A clip whose length k does not divide is padded with zero frames, never cut: k = 4 makes ceil(n / 4) vectors.

        n = 6:  1 2 3 4 | 5 6 0 0   ->   2 vectors
    """

    def __init__(self, config: StackMLPConfig, *, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.in_dim, self.out_dim, self.stack = in_dim, out_dim, config.stack
        hidden_dim = config.hidden_dim or out_dim
        self.norm = nn.LayerNorm(in_dim * self.stack)
        self.mlp = nn.Sequential(nn.Linear(in_dim * self.stack, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, out_dim))

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Returns ceil(n / stack) (A,)."""
        return torch.div(lengths + self.stack - 1, self.stack, rounding_mode="floor")

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Returns vectors (A, ceil(T / stack), out_dim) of `frames` (A, T, in_dim), and their lengths (A,)."""
        frames = F.pad(zero_padding(frames, lengths), (0, 0, 0, -frames.shape[1] % self.stack))
        stacked = frames.reshape(frames.shape[0], -1, self.stack * self.in_dim)
        output_lengths = self.output_lengths(lengths)
        return zero_padding(self.mlp(self.norm(stacked)), output_lengths), output_lengths

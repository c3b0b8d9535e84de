"""WavLLM's adapter: each encoder's frames subsampled by four and squeezed on their own, then put side by side."""

from collections.abc import Sequence
from typing import Literal

import pydantic
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sonant.config import Config
from sonant.errors import ModelError
from sonant.models.encoders.base import conv_lengths, zero_padding


class ConvGLUConfig(Config):
    """Two gated convolutions, a bottleneck and a projection for each encoder. Defaults: arXiv 2404.00656."""

    kind: Literal["conv_glu"] = "conv_glu"
    first_dims: tuple[int, ...] = ()  # of each encoder's first convolution, before its gate; empty: the encoder's width
    dim: int = pydantic.Field(1024, ge=1)  # after the second gate
    bottleneck_dim: int = pydantic.Field(512, ge=1)
    branch_dim: int = pydantic.Field(2048, ge=1)  # of each encoder's part of the vector


class ConvGLUAdapter(nn.Module):
    """One vector for four frames, ceil(n / 4) for a clip of n.

        encoder 1  ─ conv /2, GLU ─ conv /2, GLU ─ x + norm(bottleneck(x)) ─ linear ─┐
        encoder 2  ─ the same, with weights of its own ──────────────────────────────┴─ side by side ─ linear

    Source: WavLLM (arXiv 2404.00656) and its code. Differs from it in that frames are trimmed to the shorter encoder's
    before, not after, the convolutions; that these see across Whisper's windows of 30 s; that padding is kept out of
    them; and that a Linear 2048 -> 4096, built there and never used, is left out.
    """

    def __init__(self, config: ConvGLUConfig, *, in_dims: Sequence[int], out_dim: int) -> None:
        super().__init__()
        first_dims = config.first_dims or tuple(in_dims)
        if len(first_dims) != len(in_dims) or any(width % 2 for width in first_dims):
            raise ModelError(
                f"adapter conv_glu: first_dims {list(first_dims)} for encoders of width {list(in_dims)}; give one even "
                "number for each encoder"
            )
        self.in_dims, self.in_dim, self.out_dim = tuple(in_dims), sum(in_dims), out_dim
        self.branches = nn.ModuleList(
            _Branch(config, in_dim=in_dim, first_dim=first) for in_dim, first in zip(in_dims, first_dims, strict=True)
        )
        self.fusion = nn.Linear(config.branch_dim * len(in_dims), out_dim)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Returns ceil(n / 4) (A,)."""
        return _halved(_halved(lengths))

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Returns vectors (A, ceil(T / 4), out_dim) of `frames` (A, T, in_dim), and their lengths (A,)."""
        parts = zero_padding(frames, lengths).split(self.in_dims, dim=2)
        heard = [branch(part, lengths) for branch, part in zip(self.branches, parts, strict=True)]
        output_lengths = self.output_lengths(lengths)
        return zero_padding(self.fusion(torch.cat(heard, dim=2)), output_lengths), output_lengths


class _Branch(nn.Module):
    """What one encoder's frames go through alone."""

    def __init__(self, config: ConvGLUConfig, *, in_dim: int, first_dim: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(in_dim, first_dim, 3, stride=2, padding=1)
        self.second = nn.Conv1d(first_dim // 2, 2 * config.dim, 3, stride=2, padding=1)
        self.down = nn.Linear(config.dim, config.bottleneck_dim)
        self.up = nn.Linear(config.bottleneck_dim, config.dim)
        self.norm = nn.LayerNorm(config.dim)
        self.projection = nn.Linear(config.dim, config.branch_dim)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """(A, T, in_dim), zeros past `lengths` -> (A, ceil(T / 4), branch_dim)."""
        hidden = F.glu(self.first(frames.transpose(1, 2)), dim=1).transpose(1, 2)
        hidden = zero_padding(hidden, _halved(lengths))
        hidden = F.glu(self.second(hidden.transpose(1, 2)), dim=1).transpose(1, 2)  # (A, T', dim)
        hidden = hidden + self.norm(self.up(F.gelu(self.down(hidden))))
        projected: Tensor = self.projection(hidden)
        return projected


def _halved(lengths: Tensor) -> Tensor:
    return conv_lengths(lengths, kernel=3, stride=2, padding=1)

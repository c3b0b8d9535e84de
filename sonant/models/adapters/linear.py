"""An adapter that is one linear map."""

from typing import Literal

from torch import Tensor, nn

from sonant.config import Config
from sonant.models.encoders.base import zero_padding


class LinearConfig(Config):
    """One learned projection of each frame. Source: Spectron (arXiv 2305.15255), the connector."""

    kind: Literal["linear"] = "linear"


class LinearAdapter(nn.Module):
    """Frame by frame from the encoder's width to the language model's; as many vectors as frames."""

    def __init__(self, *, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.in_dim, self.out_dim = in_dim, out_dim
        self.projection = nn.Linear(in_dim, out_dim)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Returns `lengths` (A,)."""
        return lengths

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Returns vectors (A, T, out_dim) of `frames` (A, T, in_dim), zeros past their lengths, and the lengths."""
        return zero_padding(self.projection(frames), lengths), lengths

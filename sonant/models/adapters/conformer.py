"""An adapter of Conformer layers."""

from typing import Literal

import pydantic
from torch import Tensor, nn

from sonant.config import Config
from sonant.errors import ModelError
from sonant.models.conformer import ConformerEncoder
from sonant.models.encoders.base import zero_padding


class ConformerConfig(Config):
    """VoiceTextBlender's adapter: two Conformer layers and a projection. Defaults: arXiv 2410.17485."""

    kind: Literal["conformer"] = "conformer"
    dim: int | None = None  # None: the encoder's width
    num_layers: int = pydantic.Field(2, ge=1)
    num_heads: int = pydantic.Field(8, ge=1)
    ffn_factor: int = pydantic.Field(4, ge=1)
    conv_kernel: int = pydantic.Field(9, ge=1)
    dropout: float = pydantic.Field(0.1, ge=0.0, lt=1.0)


class ConformerAdapter(nn.Module):
    """Conformer layers, then a projection; one vector a frame. Source: arXiv 2410.17485."""

    def __init__(self, config: ConformerConfig, *, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.in_dim, self.out_dim = in_dim, out_dim
        dim = config.dim or in_dim
        if dim % (2 * config.num_heads) or config.conv_kernel % 2 == 0:
            raise ModelError(
                f"adapter conformer: width {dim}, {config.num_heads} heads, kernel {config.conv_kernel}; "
                "the width must be a multiple of twice the heads and the kernel odd"
            )
        self.conformer = ConformerEncoder(
            in_dim,
            dim,
            num_layers=config.num_layers,
            num_heads=config.num_heads,
            ffn_factor=config.ffn_factor,
            conv_kernel=config.conv_kernel,
            dropout=config.dropout,
        )
        self.projection = nn.Linear(dim, out_dim)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Returns `lengths` (A,)."""
        return lengths

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Returns vectors (A, T, out_dim) of `frames` (A, T, in_dim), and `lengths` (A,)."""
        return zero_padding(self.projection(self.conformer(frames, lengths)), lengths), lengths

"""What every adapter promises: frames of speech encoders -> vectors as wide as the language model's embeddings."""

from collections.abc import Sequence
from typing import Annotated, Protocol, assert_never

import pydantic
from torch import Tensor

from sonant.errors import ModelError
from sonant.models.adapters.conformer import ConformerAdapter, ConformerConfig
from sonant.models.adapters.conv_glu import ConvGLUAdapter, ConvGLUConfig
from sonant.models.adapters.conv_transformer import ConvTransformerAdapter, ConvTransformerConfig
from sonant.models.adapters.ctc_pooling import CTCPoolingAdapter, CTCPoolingConfig
from sonant.models.adapters.linear import LinearAdapter, LinearConfig
from sonant.models.adapters.stack_mlp import StackMLPAdapter, StackMLPConfig

AdapterConfig = Annotated[
    LinearConfig | StackMLPConfig | ConformerConfig | CTCPoolingConfig | ConvTransformerConfig | ConvGLUConfig,
    pydantic.Field(discriminator="kind"),
]


class Adapter(Protocol):
    """An `nn.Module` from frames (A, T, in_dim) to audio vectors (A, T', out_dim)."""

    in_dim: int
    out_dim: int

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Returns how many vectors (A,) clips of `lengths` (A,) frames give; at most, where the sound decides."""

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Returns vectors (A, T', out_dim), zeros past their lengths, and the lengths (A,)."""

    def __call__(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Returns `forward(frames, lengths)`."""


def build_adapter(
    config: AdapterConfig, *, in_dims: Sequence[int], out_dim: int, vocab_size: int | None = None
) -> Adapter:
    """Returns the adapter of `config` for frames of encoders `in_dims` wide, side by side: (A, T, sum of in_dims).

    vocab_size: the language model's, which a CTC head may need.

    Raises: ModelError for sizes that do not fit.
    """
    match config:
        case LinearConfig():
            return LinearAdapter(in_dim=sum(in_dims), out_dim=out_dim)
        case StackMLPConfig():
            return StackMLPAdapter(config, in_dim=sum(in_dims), out_dim=out_dim)
        case ConformerConfig():
            return ConformerAdapter(config, in_dim=sum(in_dims), out_dim=out_dim)
        case CTCPoolingConfig():
            size = config.vocab_size or vocab_size
            if size is None:
                raise ModelError("adapter ctc_pooling: its vocabulary is not known; set adapter.vocab_size")
            return CTCPoolingAdapter(config, in_dims=in_dims, out_dim=out_dim, vocab_size=size)
        case ConvGLUConfig():
            return ConvGLUAdapter(config, in_dims=in_dims, out_dim=out_dim)
        case ConvTransformerConfig():
            return ConvTransformerAdapter(config, in_dim=sum(in_dims), out_dim=out_dim)
        case _:
            assert_never(config)

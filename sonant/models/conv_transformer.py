"""Strided convolutions and transformer layers: the trunk of SpeechMapper's projector.

    (A, T, in_dim) ─[ conv, stride s ─ transformer layer x N ─ linear ]─[ ... ]─> (A, T', out_dim)

Source: SpeechMapper (arXiv 2601.20417) for blocks, kernels, strides and layers; pre-norm, rotary positions, heads and
padding are our choice. The published size is met only by plain convolutions and FFNs of 2048 in both blocks.
"""

from typing import cast

import pydantic
import torch.nn.functional as F
from torch import Tensor, nn

from sonant.config import Config
from sonant.errors import ModelError
from sonant.models.encoders.base import conv_lengths, valid_mask, zero_padding
from sonant.models.rotary import rotate, rotation


class ConvBlockConfig(Config):
    """One convolution over time, transformer layers at its rate, and a linear layer to the next width."""

    kernel: int = pydantic.Field(6, ge=1)
    stride: int = pydantic.Field(2, ge=1)
    dim: int | None = None  # of convolution and layers; None: as wide as what comes in
    num_layers: int = pydantic.Field(6, ge=0)  # without any, GELU follows the convolution
    num_heads: int = pydantic.Field(16, ge=1)
    ffn_dim: int = pydantic.Field(2048, ge=1)
    out_dim: int | None = None  # of the linear layer; None: there is none


class ConvTrunkConfig(Config):
    """Blocks in turn. Defaults: SpeechMapper's two, 25 Hz -> 6.25 Hz."""

    blocks: tuple[ConvBlockConfig, ...] = pydantic.Field(
        (ConvBlockConfig(out_dim=2048), ConvBlockConfig(out_dim=4096)), min_length=1
    )
    dropout: float = pydantic.Field(0.1, ge=0.0, lt=1.0)


class ConvTrunk(nn.Module):
    """The blocks of a configuration. Every convolution sees zeros past a clip's end, as when the clip is alone.

    Raises: ModelError for a width that is no multiple of twice its heads.
    """

    def __init__(self, config: ConvTrunkConfig, *, in_dim: int) -> None:
        super().__init__()
        self.in_dim = in_dim
        blocks = []
        for block in config.blocks:
            blocks.append(_Block(block, in_dim=in_dim, dropout=config.dropout))
            in_dim = blocks[-1].out_dim
        self.blocks = nn.ModuleList(blocks)
        self.out_dim = in_dim

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Returns the frames (A,) of clips of `lengths` (A,): 1 + floor(n / 2) at kernel 6, stride 2; none of none."""
        for block in self.blocks:
            lengths = cast(_Block, block).output_lengths(lengths)
        return lengths

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (A, T', out_dim) of `frames` (A, T, in_dim), zeros past their lengths, and the lengths (A,)."""
        for block in self.blocks:
            frames, lengths = block(frames, lengths)
        return zero_padding(frames, lengths), lengths


class _Block(nn.Module):
    def __init__(self, config: ConvBlockConfig, *, in_dim: int, dropout: float) -> None:
        super().__init__()
        dim = config.dim or in_dim
        if config.num_layers and dim % (2 * config.num_heads):
            raise ModelError(
                f"conv block: width {dim} and {config.num_heads} heads; the width must be a multiple of twice the heads"
            )
        self.num_heads, self.out_dim = config.num_heads, config.out_dim or dim
        self.conv = nn.Conv1d(in_dim, dim, config.kernel, stride=config.stride, padding=config.kernel // 2)
        self.layers = nn.ModuleList(
            TransformerLayer(dim, config.num_heads, ffn_dim=config.ffn_dim, dropout=dropout)
            for _ in range(config.num_layers)
        )
        self.linear = nn.Linear(dim, config.out_dim) if config.out_dim else None

    def output_lengths(self, lengths: Tensor) -> Tensor:
        conv = self.conv
        made = conv_lengths(
            lengths, kernel=conv.kernel_size[0], stride=conv.stride[0], padding=conv.kernel_size[0] // 2
        )
        return made * (lengths > 0)

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.conv(zero_padding(frames, lengths).transpose(1, 2)).transpose(1, 2)
        lengths = self.output_lengths(lengths)
        if len(self.layers):
            # A clip without frames still attends to one, which is no number otherwise.
            attended = valid_mask(lengths.clamp(min=1), hidden.shape[1])[:, None, None]
            turn = rotation(hidden.shape[1], hidden.shape[2] // self.num_heads, like=hidden)
            for layer in self.layers:
                hidden = layer(hidden, attended, turn)
        else:
            hidden = F.gelu(hidden)
        return hidden if self.linear is None else self.linear(hidden), lengths


class TransformerLayer(nn.Module):
    """x + attention(norm(x)), then + FFN(norm(x)); dropout on attention weights, in the FFN and on both branches."""

    def __init__(self, dim: int, num_heads: int, *, ffn_dim: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(dim)
        self.attention_in = nn.Linear(dim, 3 * dim)
        self.attention_out = nn.Linear(dim, dim)
        self.ffn_norm = nn.LayerNorm(dim)
        self.ffn_in = nn.Linear(dim, ffn_dim)
        self.ffn_out = nn.Linear(ffn_dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, attended: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        """Returns (A, T, D) of `hidden` (A, T, D); attended (A, 1, 1, T): true where there is something to read."""
        hidden = hidden + self.dropout(self._attention(self.attention_norm(hidden), attended, turn))
        inner = self.dropout(F.gelu(self.ffn_in(self.ffn_norm(hidden))))
        output: Tensor = hidden + self.dropout(self.ffn_out(inner))
        return output

    def _attention(self, hidden: Tensor, attended: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        query, key, value = self.attention_in(hidden).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = rotate(query, turn), rotate(key, turn)  # (A, H, T, D / H)
        p = self.dropout.p if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=attended, dropout_p=p)
        mapped: Tensor = self.attention_out(mixed.transpose(1, 2).flatten(2))
        return mapped

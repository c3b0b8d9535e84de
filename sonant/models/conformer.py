"""The Conformer of VoiceTextBlender's adapter: NeMo's `ConformerEncoder` without subsampling.

Parameter names are those of transformers' `ParakeetEncoderBlock`, the same block, so that weights can be copied.
Source: Gulati et al. 2020, figures 1 and 2; Dai et al. 2019 for the relative positions; sizes from arXiv 2410.17485.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sonant.models.encoders.base import valid_mask, zero_padding


class ConformerEncoder(nn.Module):
    """Linear(in_dim, dim), sqrt(dim) times that, and `num_layers` Conformer layers; as many frames as it is given.

    At dim 1024 and two layers: 51,465,216 parameters.
    """

    def __init__(
        self,
        in_dim: int,
        dim: int,
        *,
        num_layers: int = 2,
        num_heads: int = 8,
        ffn_factor: int = 4,
        conv_kernel: int = 9,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.input = nn.Linear(in_dim, dim)
        self.scale = math.sqrt(dim)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            ConformerLayer(dim, num_heads, ffn_dim=ffn_factor * dim, conv_kernel=conv_kernel, dropout=dropout)
            for _ in range(num_layers)
        )

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Returns (A, T, dim) of `frames` (A, T, in_dim); zeros past `lengths` (A,)."""
        hidden = self.dropout(self.input(frames) * self.scale)
        positions = relative_positions(hidden.shape[1], hidden.shape[2], device=hidden.device).to(hidden.dtype)
        mask = valid_mask(lengths, hidden.shape[1])
        for layer in self.layers:
            hidden = layer(hidden, positions, mask)
        return zero_padding(hidden, lengths)


class ConformerLayer(nn.Module):
    """x + FFN/2, + attention, + convolution, + FFN/2, each over a normalised input, then a norm."""

    def __init__(self, dim: int, num_heads: int, *, ffn_dim: int, conv_kernel: int, dropout: float) -> None:
        super().__init__()
        self.feed_forward1 = FeedForward(dim, ffn_dim, dropout=dropout)
        self.self_attn = RelativeAttention(dim, num_heads, dropout=dropout)
        self.conv = Convolution(dim, conv_kernel)
        self.feed_forward2 = FeedForward(dim, ffn_dim, dropout=dropout)
        self.norm_feed_forward1 = nn.LayerNorm(dim)
        self.norm_self_att = nn.LayerNorm(dim)
        self.norm_conv = nn.LayerNorm(dim)
        self.norm_feed_forward2 = nn.LayerNorm(dim)
        self.norm_out = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)  # on each branch, as NeMo; transformers' block has none there

    def forward(self, hidden: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Returns (A, T, D) of `hidden` (A, T, D), `relative_positions` (2T - 1, D) and real frames `mask` (A, T)."""
        hidden = hidden + 0.5 * self.dropout(self.feed_forward1(self.norm_feed_forward1(hidden)))
        hidden = hidden + self.dropout(self.self_attn(self.norm_self_att(hidden), positions, mask))
        hidden = hidden + self.dropout(self.conv(self.norm_conv(hidden), mask))
        hidden = hidden + 0.5 * self.dropout(self.feed_forward2(self.norm_feed_forward2(hidden)))
        normed: Tensor = self.norm_out(hidden)
        return normed


class FeedForward(nn.Module):
    """Linear, SiLU, dropout, Linear over (A, T, D)."""

    def __init__(self, dim: int, ffn_dim: int, *, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, ffn_dim)
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(ffn_dim, dim)

    def forward(self, hidden: Tensor) -> Tensor:
        """Returns (A, T, D)."""
        output: Tensor = self.linear2(self.dropout(F.silu(self.linear1(hidden))))
        return output


class RelativeAttention(nn.Module):
    """Attention over the whole clip with relative positions; each layer has its own biases u and v ("untied").

    score(i, j) = ((q_i + u) . k_j + (q_i + v) . W r_(i - j)) / sqrt(D / H)      (Dai et al. 2019, section 3.3)
    """

    def __init__(self, dim: int, num_heads: int, *, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.o_proj = nn.Linear(dim, dim)
        self.relative_k_proj = nn.Linear(dim, dim, bias=False)
        self.bias_u = nn.Parameter(torch.zeros(num_heads, dim // num_heads))
        self.bias_v = nn.Parameter(torch.zeros(num_heads, dim // num_heads))

    def forward(self, hidden: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Returns (A, T, D) of `hidden` (A, T, D); frames outside `mask` (A, T) are not attended to."""
        query, key, value = (self._heads(proj(hidden)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        relative = self._heads(self.relative_k_proj(positions)[None])  # (1, H, 2T - 1, D / H)
        scores = shift_relative((query + self.bias_v[:, None]) @ relative.transpose(2, 3))  # (A, H, T, T)
        scores = scores / math.sqrt(query.shape[-1])
        # Finite, in half precision too: a clip without frames attends to padding and is zeroed instead of being NaN.
        scores = scores.masked_fill(~mask[:, None, None], -1e4)
        attended = F.scaled_dot_product_attention(
            query + self.bias_u[:, None],
            key,
            value,
            attn_mask=scores,
            dropout_p=self.dropout if self.training else 0.0,
        )
        output: Tensor = self.o_proj(attended.transpose(1, 2).flatten(2))
        return output

    def _heads(self, hidden: Tensor) -> Tensor:
        """(A, T, D) -> (A, H, T, D / H)"""
        return hidden.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class Convolution(nn.Module):
    """Pointwise to 2 D, GLU, depthwise over time, masked batch norm, SiLU, pointwise."""

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        self.pointwise_conv1 = nn.Conv1d(dim, 2 * dim, 1)
        self.depthwise_conv = nn.Conv1d(dim, dim, kernel, padding=(kernel - 1) // 2, groups=dim)
        self.norm = MaskedBatchNorm(dim)
        self.pointwise_conv2 = nn.Conv1d(dim, dim, 1)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Returns (A, T, D) of `hidden` (A, T, D); frames outside `mask` (A, T) are zeros to the depthwise one."""
        hidden = F.glu(self.pointwise_conv1(hidden.transpose(1, 2)), dim=1)
        hidden = self.depthwise_conv(hidden.masked_fill(~mask[:, None], 0.0))
        output: Tensor = self.pointwise_conv2(F.silu(self.norm(hidden, mask)))
        return output.transpose(1, 2)


class MaskedBatchNorm(nn.BatchNorm1d):
    """Batch norm whose statistics, in training, come from real frames only.

    With fewer than two real frames there is no variance: the running statistics are used and left as they are.
    """

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        """Returns the norm of `hidden` (A, D, T) with real frames `mask` (A, T); in training, padded ones are zeros."""
        if self.training:
            real = hidden.transpose(1, 2)[mask]  # (real frames, D)
            if len(real) > 1:
                normed = torch.zeros_like(hidden.transpose(1, 2))
                normed[mask] = super().forward(real).to(normed.dtype)
                return normed.transpose(1, 2)
        return F.batch_norm(hidden, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


def relative_positions(num_frames: int, dim: int, *, device: torch.device) -> Tensor:
    """Returns sinusoids (2T - 1, D) float32 of the distances T - 1, ..., 0, ..., -(T - 1); sine and cosine in turn."""
    distance = torch.arange(num_frames - 1, -num_frames, -1, device=device, dtype=torch.float32)
    rate = torch.exp(torch.arange(0, dim, 2, device=device, dtype=torch.float32) * (-math.log(10_000.0) / dim))
    angle = distance[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


def shift_relative(scores: Tensor) -> Tensor:
    """Returns scores by key (A, H, T, T) of scores by distance (A, H, T, 2T - 1): query i, key j reads distance i - j.

        distances 2 1 0 -1 -2, T = 3        keys 0 1 2
        query 0   a b c  d  e                    c d e
        query 1   f g h  i  j           ->       g h i
        query 2   k l m  n  o                    k l m

    Source: Dai et al. 2019, appendix B: pad one column, read the memory one row further.
    """
    clips, heads, queries, distances = scores.shape
    padded = F.pad(scores, (1, 0)).reshape(clips, heads, distances + 1, queries)
    return padded[:, :, 1:].reshape(clips, heads, queries, distances)[..., :queries]

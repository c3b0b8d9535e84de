"""Packing: rows of unequal length one behind the other, so that nothing is computed for padding.

    rows  a a a .      lengths 3 1 2      pack  a a a b c c      attention   a  x x x . . .
          b . . .                    -->  place 0 1 2 0 0 1                  a  x x x . . .
          c c .                                                             a  x x x . . .
                                                                             b  . . . x . .
                                                                             c  . . . . x x
                                                                             c  . . . . x x

All that works position by position (norms, linear layers) sees one long row; attention sees each row alone, without a
mask, so that the fastest kernels apply. Hugging Face's layers hand unknown keyword arguments on to their attention:
`packed_attention` is registered there by name, and `row_lengths` is how it learns where rows end.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PACKED_SDPA = "sonant_packed_sdpa"  # sdpa, and with row_lengths given, of each row alone


@dataclass(frozen=True, eq=False)
class Pack:
    """Which places of padded rows (B, L) hold something, `lengths` (B,) from the left in each."""

    lengths: tuple[int, ...]
    width: int  # L
    device: torch.device

    @classmethod
    def of(cls, lengths: Tensor, width: int) -> "Pack":
        """Returns the pack of rows (B, `width`) with `lengths` (B,)."""
        return cls(tuple(lengths.tolist()), width, lengths.device)

    @property
    def is_full(self) -> bool:
        """Returns whether there is no padding, and so nothing to gain."""
        return min(self.lengths, default=0) == self.width

    @cached_property
    def places(self) -> Tensor:
        """Returns (N,) int64: where the pack's positions stand in the flattened rows (B * L)."""
        rows = [torch.arange(n) + row * self.width for row, n in enumerate(self.lengths)]
        return torch.cat(rows).to(self.device)

    @property
    def position_ids(self) -> Tensor:
        """Returns (1, N) int64: places inside each row, from 0."""
        return self.places[None] % self.width

    def pack(self, rows: Tensor) -> Tensor:
        """Returns (1, N, ...) of padded `rows` (B, L, ...)."""
        return rows.flatten(0, 1).index_select(0, self.places)[None]

    def unpack(self, packed: Tensor) -> Tensor:
        """Returns the padded rows (B, L, ...) of `packed` (1, N, ...), zeros over the padding."""
        blank = packed.new_zeros(len(self.lengths) * self.width, *packed.shape[2:])
        return blank.index_copy(0, self.places, packed[0]).unflatten(0, (-1, self.width))


def use_packed_attention(model: PreTrainedModel) -> None:
    """Makes a model that runs sdpa able to read packs, in place; without `row_lengths` it computes what it did."""
    AttentionInterface.register(PACKED_SDPA, packed_attention)
    AttentionMaskInterface.register(PACKED_SDPA, sdpa_mask)
    model.set_attn_implementation(PACKED_SDPA)


def reads_packs(model: PreTrainedModel) -> bool:
    """Returns whether the attention of `model` keeps packed rows apart."""
    return model.config._attn_implementation == PACKED_SDPA


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    row_lengths: tuple[int, ...] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Returns what sdpa gives (B, L, H, d), and no weights; with `row_lengths`, of each row of a pack (1, N) alone.

    query (1, H, N, d), key and value (1, H', N, d). A given mask is that of the whole pack and means nothing to a row.
    """
    if row_lengths is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    rows = [
        sdpa_attention_forward(module, q, k, v, _window(q, kwargs.get("sliding_window")), **kwargs)[0]
        for q, k, v in zip(*(x.split(row_lengths, dim=2) for x in (query, key, value)), strict=True)
    ]
    return torch.cat(rows, dim=1), None


def _window(query: Tensor, size: int | None) -> Tensor | None:
    """The causal mask (1, 1, L, L) bool of a layer that sees `size` positions, for a longer row (1, H, L, d)."""
    length = query.shape[2]
    if size is None or length <= size:
        return None
    mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    return (mask & ~mask.tril(-size))[None, None]

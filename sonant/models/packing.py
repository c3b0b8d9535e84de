"""Packing: rows of unequal length one behind the other, so that nothing is computed for padding.

    rows  a a a .      lengths 3 1 2      pack  a a a c c b      attention   a  x x x . . .
          b . . .                    -->  place 0 1 2 0 1 0                  a  x x x . . .
          c c .                                                             a  x x x . . .
                                                                             c  . . . x x .
                                                                             c  . . . x x .
                                                                             b  . . . . . x

All that works position by position (norms, linear layers) sees one long row; attention sees each row alone, rows of
about one length side by side, for which the longest come first. Hugging Face's layers hand unknown keyword arguments
on to their attention: `packed_attention` is registered there by name, and `pack` is how it learns where rows end.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PACKED_SDPA = "sonant_packed_sdpa"  # sdpa, and with `pack` given, of each row alone
# Sizes are rounded up to these: oneDNN makes a kernel for each shape it meets, and finds it again in a later step.
_MULTIPLE = 32  # of the positions of a pack
_WIDTH_MULTIPLE = 16  # of the rows of a group
_SIMILAR = 0.6  # rows stand side by side in attention if the shortest is so much of the longest
_MOST_SCORES = 1024  # positions of a row of which all attention scores are kept
_NEEDS_SDPA = ("softcap", "s_aux", "position_bias", "cache")  # arguments that our products do not know


@dataclass(frozen=True, eq=False)
class Pack:
    """Which places of padded rows (B, L) hold something: `lengths` (B,) from the left in each."""

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
    def order(self) -> list[int]:
        """Returns the rows as they stand in the pack: the longest first."""
        return sorted(range(len(self.lengths)), key=lambda row: -self.lengths[row])

    @cached_property
    def num_positions(self) -> int:
        """Returns N, without what fills the pack up."""
        return sum(self.lengths)

    @cached_property
    def places(self) -> Tensor:
        """Returns (N + fill,) int64: where the pack's positions stand in the flattened rows (B * L); the fill at 0."""
        rows = [torch.arange(self.lengths[row]) + row * self.width for row in self.order]
        fill = torch.zeros(-self.num_positions % _MULTIPLE, dtype=torch.int64)
        return torch.cat([*rows, fill]).to(self.device)

    @property
    def position_ids(self) -> Tensor:
        """Returns (1, N + fill) int64: places inside each row, from 0."""
        return self.places[None] % self.width

    def pack(self, rows: Tensor) -> Tensor:
        """Returns (1, N + fill, ...) of padded `rows` (B, L, ...)."""
        taken: Tensor = _Take.apply(rows.flatten(0, 1), self.places, self.num_positions)
        return taken[None]

    def unpack(self, packed: Tensor) -> Tensor:
        """Returns the padded rows (B, L, ...) of `packed` (1, N or more, ...), zeros over the padding."""
        if self.is_full:
            return packed[0, : self.num_positions].unflatten(0, (-1, self.width))
        blank, count = packed.new_zeros(len(self.lengths) * self.width, *packed.shape[2:]), self.num_positions
        return blank.index_copy(0, self.places[:count], packed[0, :count]).unflatten(0, (-1, self.width))

    def of_rows(self, values: Tensor) -> Tensor:
        """Returns (N + fill, ...): at each position the one of `values` (B, ...) that belongs to its row."""
        return values.index_select(0, torch.div(self.places, self.width, rounding_mode="floor"))

    @cached_property
    def groups(self) -> "list[tuple[slice, Pack]]":
        """Returns rows of about one length as packs of their own, and where they stand in this one."""
        lengths, groups, start = [self.lengths[row] for row in self.order], [], 0
        while lengths and lengths[0]:
            similar = [n for n in lengths if n and n >= _SIMILAR * lengths[0]]
            stop = start + sum(similar)
            width = -(-similar[0] // _WIDTH_MULTIPLE) * _WIDTH_MULTIPLE
            groups.append((slice(start, stop), Pack(tuple(similar), width, self.device)))
            lengths, start = lengths[len(similar) :], stop
        return groups


class _Take(torch.autograd.Function):
    """`values[places]`, the first `count` of which are all different: its gradient need not add, which is slow."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, places: Tensor, count: int) -> Tensor:
        ctx.save_for_backward(places[:count])
        ctx.size = len(values)
        return values.index_select(0, places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (places,) = ctx.saved_tensors
        return grad.new_zeros(ctx.size, *grad.shape[1:]).index_copy(0, places, grad[: len(places)]), None, None


def use_packed_attention(model: PreTrainedModel) -> None:
    """Makes a model that runs sdpa able to read packs, in place; without `pack` it computes what it did."""
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
    pack: Pack | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Returns what sdpa gives (B, L, H, d), and no weights; with `pack`, of each of its rows alone.

    query (1, H, N, d), key and value (1, H', N, d). A given mask is that of the whole pack and means nothing to a row.
    """
    if pack is None:
        return _attend(module, query, key, value, attention_mask, **kwargs), None
    heard = []
    for where, group in pack.groups:
        q, k, v = (group.unpack(x[:, :, where].transpose(1, 2)).transpose(1, 2) for x in (query, key, value))
        mask = _mask(group, causal=_is_causal(module, kwargs), window=kwargs.get("sliding_window"))
        heard.append(group.pack(_attend(module, q, k, v, mask, **kwargs))[:, : group.num_positions])
    fill = query.new_zeros(1, query.shape[2] - pack.num_positions, query.shape[1], value.shape[3])
    return torch.cat([*heard, fill], dim=1), None


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> Tensor:
    """Attention (B, L, H, d), by matrix products where these are faster than sdpa's kernel."""
    length = query.shape[2]
    products = (
        query.device.type == "cpu"  # whose kernel is slow as soon as fp32 products are not left to MKL
        and torch.get_float32_matmul_precision() != "highest"
        and torch.is_grad_enabled()
        and 1 < length == key.shape[2] <= _MOST_SCORES
        and all(kwargs.get(name) is None for name in _NEEDS_SDPA)
    )
    if not products:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)[0]
    groups = query.shape[1] // key.shape[1]
    scaling = query.shape[3] ** -0.5 if kwargs.get("scaling") is None else kwargs["scaling"]
    scores = (query * scaling) @ repeat_kv(key, groups).transpose(2, 3)
    if attention_mask is None and _is_causal(module, kwargs):
        attention_mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    if attention_mask is not None:
        additive = attention_mask.dtype != torch.bool
        scores = scores + attention_mask if additive else scores.masked_fill(~attention_mask, -torch.inf)
    weights = nn.functional.dropout(scores.softmax(-1), p=kwargs.get("dropout", 0.0))
    return (weights @ repeat_kv(value, groups)).transpose(1, 2)


def _is_causal(module: nn.Module, kwargs: dict[str, Any]) -> bool:
    given = kwargs.get("is_causal")
    return bool(getattr(module, "is_causal", True) if given is None else given)


def _mask(rows: Pack, *, causal: bool, window: int | None) -> Tensor | None:
    """What rows (B, L) may attend to, where the kernel does not know: (B or 1, 1, L or 1, L) bool.

    A causal row needs none: no position sees the padding on its right, unless a layer sees `window` positions only.
    """
    if causal and (window is None or rows.width <= window):
        return None
    if causal:
        mask = torch.ones(rows.width, rows.width, dtype=torch.bool, device=rows.device).tril()
        return (mask & ~mask.tril(-(window or 0)))[None, None]
    if rows.is_full:
        return None
    lengths = torch.tensor(rows.lengths, device=rows.device)
    return (torch.arange(rows.width, device=rows.device) < lengths[:, None])[:, None, None]

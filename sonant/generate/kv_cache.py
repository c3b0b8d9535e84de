"""Keys and values of the rows that are being answered: written in place, read as views, never joined anew.

```
columns   0 . . first . . . . . start end . . .      what lies left of `first` nobody has any more
row 0     .  .   q  q  q  q  q  q  y1  |  . . .      start..end: the columns that are being read now
row 1     .  .   .  .  .  q  q  q  y1  |  . . .      a dot between first and end is hidden from its row
rows      -------------------------------------
          .  .   .  .  .  .  .  .  .   .  . . .      room for rows that join; it grows by eights
```

A row may have holes anywhere: it attends to what is not hidden from it, and where it stands its positions say.
"""

import weakref
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

_SPARE = 64  # columns behind a prompt, for what is said
_ROOM = 8  # rows; by doubling, what a server holds would depend on who came when, and be up to twice what it needs


class KVCache(Cache):
    """What transformers take as `past_key_values`, with rows that come and go.

    `open` makes room for the columns that the LLM reads next. `even`: nothing is hidden from any row.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(layers=[])
        self.rows = self._first = self._start = self._end = 0
        self.even = True
        # What is added to scores: 0, or this where there is nothing to attend to. It is not -inf, for a row that
        # attends to nothing at all would not be a number.
        self._hidden = torch.finfo(dtype).min
        # All are (rows, H, columns, D): first (.., 1, .., 1) of what is added, where columns from `end` on are 0; then
        # keys and values of each layer.
        self._buffers = [torch.zeros(0, 1, 0, 1, dtype=dtype, device=device)]

    @property
    def width(self) -> int:
        """L: columns that some row attends to."""
        return self._end - self._first

    @property
    def num_read(self) -> int:
        """Q: columns that are being read."""
        return self._end - self._start

    @property
    def mask(self) -> Tensor:
        """(B, L) bool: what each row attends to."""
        return self._added[: self.rows, 0, self._first : self._end, 0] == 0

    def bias(self) -> Tensor | None:
        """Returns (B, 1, Q, L), added to the scores of the columns being read; None: each sees all before it."""
        if self.even and self.num_read in (1, self.width):
            return None
        bias = self._added[: self.rows, :, self._first : self._end].transpose(2, 3)
        if self.num_read == 1:
            return bias
        later = torch.ones(self.num_read, self.num_read, dtype=torch.bool, device=bias.device).triu(1)
        bias = bias.repeat(1, 1, self.num_read, 1)
        bias[..., -self.num_read :].masked_fill_(later, self._hidden)
        return bias

    def open(self, num_columns: int, *, rows: int | None = None) -> None:
        """Makes room for so many more columns, all of which are attended to; the first call says for how many rows."""
        self.rows = self.rows if rows is None else rows
        if self.rows > len(self._added) or self._end + num_columns > self._added.shape[2]:
            self._move(self.rows, self.width, spare=num_columns + max(_SPARE, self.width))
        self._start, self._end = self._end, self._end + num_columns

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Writes a layer's keys and values (B, H, Q, D) of the open columns; returns (B, H, L, D) of all."""
        while len(self.layers) <= layer_idx:
            rows, _, columns, _ = self._added.shape
            self.layers.append(_Layer(self))
            # Zeros, for what is hidden has weight 0, and 0 times what is not a number is not a number.
            self._buffers += [x.new_zeros(rows, x.shape[1], columns, x.shape[3]) for x in (key_states, value_states)]
        keys, values = self._buffers[2 * layer_idx + 1 : 2 * layer_idx + 3]
        keys[: self.rows, :, self._start : self._end] = key_states
        values[: self.rows, :, self._start : self._end] = value_states
        if self._start == self._first:
            return key_states, value_states
        return keys[: self.rows, :, self._first : self._end], values[: self.rows, :, self._first : self._end]

    def hide(self, kept: Tensor) -> None:
        """Hides the open columns that are False in `kept` (B, Q) bool; the last, if no row keeps them, are gone."""
        if bool(kept.all()):
            return
        self._end = self._start + int(kept.any(0).nonzero()[-1]) + 1
        kept = kept[:, : self.num_read]
        self._added[: self.rows, 0, self._start : self._end, 0].masked_fill_(~kept, self._hidden)
        self.even = self.even and bool(kept.all())

    def keep(self, lines: Sequence[int]) -> list[int]:
        """Drops every line but these; returns which stands where now. Only those from the end move, into the gaps."""
        wanted, order = set(lines), list(range(len(lines)))
        gaps = [line for line in order if line not in wanted]
        for to, of in zip(gaps, [line for line in lines if line >= len(lines)], strict=True):
            order[to] = of
            for buffer in self._buffers:
                buffer[to, :, self._first : self._end] = buffer[of, :, self._first : self._end]
        self.rows = len(lines)
        self._cut()
        return order

    def take(self, lines: Tensor) -> None:
        """Makes rows of these lines (B',), of which any may come several times."""
        self._buffers = [buffer[lines] for buffer in self._buffers]
        self.rows = len(lines)
        self._cut()

    def add(self, other: "KVCache") -> None:
        """Takes the rows of `other` in, behind its own; both then end at the same column."""
        width, rows, own = max(self.width, other.width), self.rows + other.rows, self.rows
        if rows > len(self._added) or self._end < width:
            room = len(self._added)
            self._move(room if rows <= room else -(-rows // _ROOM) * _ROOM, width, spare=max(_SPARE, width))
        first = self._end - width
        self._added[:own, :, first : self._first] = self._hidden
        self._added[own:rows, :, first : self._end - other.width] = self._hidden
        for buffer, taken in zip(self._buffers, other._buffers, strict=True):
            buffer[own:rows, :, self._end - other.width : self._end] = taken[: other.rows, :, other._first : other._end]
        self.even = self.even and other.even and self.width == other.width
        self.rows, self._first, self._start = rows, first, self._end

    def beginning(self, line: int, num_columns: int) -> "KVCache":
        """Returns one row with the first columns of a line, none of which is hidden from it."""
        columns = self.mask[line].nonzero()[:num_columns, 0] + self._first
        return self._made([buffer[line : line + 1, :, columns] for buffer in self._buffers])

    def repeated(self, num_rows: int, num_columns: int) -> "KVCache":
        """Returns so many rows with the first columns of its only one."""
        end = self._first + num_columns
        return self._made([x[:1, :, self._first : end].expand(num_rows, -1, -1, -1) for x in self._buffers])

    def _made(self, buffers: list[Tensor]) -> "KVCache":
        made = KVCache(self._added.device, self._added.dtype)
        made.layers = [_Layer(made) for _ in self.layers]
        made._buffers = buffers
        made.rows, _, made._end, _ = buffers[0].shape
        made._start = made._end
        return made

    @property
    def _added(self) -> Tensor:
        return self._buffers[0]

    def _cut(self) -> None:
        """Columns that no row has left are gone, and so is unevenness that only others brought."""
        if self.even or not self.rows:
            return
        mask = self.mask
        self._first += int(mask.any(0).int().argmax())
        self.even = bool(mask[:, -self.width :].all())

    def _move(self, rows: int, width: int, *, spare: int) -> None:
        """Copies everything into larger buffers: `width` columns, what there is at their end, and spare ones."""
        first = width - self.width
        moved = []
        for buffer in self._buffers:
            larger = buffer.new_zeros(rows, buffer.shape[1], width + spare, buffer.shape[3])
            kept = min(self.rows, len(buffer))
            larger[:kept, :, first:width] = buffer[:kept, :, self._first : self._end]
            moved.append(larger)
        self._buffers = moved
        self._first, self._end = first, width


class _Layer(CacheLayerMixin):
    """What transformers ask a layer of the cache for: how wide it is. They write by `KVCache.update`, never here.

    It does not hold its cache: in a circle megabytes would wait for the garbage collector, which counts objects.
    """

    is_sliding = False

    def __init__(self, cache: KVCache) -> None:
        super().__init__()
        self._cache = weakref.ref(cache)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        raise NotImplementedError("KVCache.update writes every layer")

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("KVCache.update writes every layer")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._owner.width, 0

    def get_seq_length(self) -> int:
        return self._owner.width - self._owner.num_read

    def get_max_length(self) -> int:
        return -1

    @property
    def _owner(self) -> KVCache:
        cache = self._cache()
        assert cache is not None
        return cache

"""Rows come and go, columns are cut and grown: what a row has written is what it reads."""

import gc
import weakref
from typing import Any

import pytest
import torch

from sonant.generate.kv_cache import KVCache

NUM_LAYERS = 2


class Written:
    """A cache and, row by row, the numbers that must be in it: each is written as key, and negative as value."""

    def __init__(self, *lengths: int, first: int = 0) -> None:
        self.cache, width = KVCache(torch.device("cpu"), torch.float32), max(lengths)
        self.rows = [[float(first + 100 * row + column) for column in range(n)] for row, n in enumerate(lengths)]
        self.cache.open(width, rows=len(lengths))
        self._write([row + [-7.0] * (width - len(row)) for row in self.rows])
        self.cache.hide(torch.arange(width) < torch.tensor(lengths)[:, None])

    def _write(self, columns: list[list[float]]) -> tuple[torch.Tensor, torch.Tensor]:
        new = torch.tensor(columns)[:, None, :, None].expand(-1, 2, -1, 3)
        return [self.cache.update(new, -new, layer) for layer in range(NUM_LAYERS)][-1]

    def say(self, value: float) -> None:
        self.cache.open(1)
        keys, values = self._write([[value + row] for row in range(len(self.rows))])
        for row, line in enumerate(self.rows):
            line.append(value + row)
            seen = self.cache.mask[row]
            assert keys[row, 1, seen, 2].tolist() == line
            assert values[row, 0, seen, 0].tolist() == [-x for x in line]
        bias = self.cache.bias()
        assert (bias is None) == bool(self.cache.mask.all())
        assert bias is None or torch.equal(bias[:, 0, 0] == 0, self.cache.mask)


def test_rows_read_what_they_wrote_however_long_they_talk() -> None:
    written = Written(3, 5, 1)
    for step in range(150):
        written.say(1000.0 + 10 * step)
    assert written.cache.width == 155


@pytest.mark.parametrize("kept", [[0, 2], [3], [1, 3], [0, 1, 2], [2, 3]], ids=str)
def test_rows_that_leave_take_nothing_with_them(kept: list[int]) -> None:
    written = Written(3, 6, 2, 4)
    written.say(1000.0)
    order = written.cache.keep(kept)
    assert sorted(order) == kept
    written.rows = [written.rows[line] for line in order]
    written.say(2000.0)


@pytest.mark.parametrize(("own", "others"), [((3, 5), (2,)), ((3,), (9, 4, 1)), ((4, 4), (4,))], ids=str)
def test_rows_that_join_end_where_the_others_end(own: Any, others: Any) -> None:
    written, joined = Written(*own), Written(*others, first=500)
    written.say(1000.0)
    written.cache.add(joined.cache)
    written.rows += joined.rows
    for step in range(70):
        written.say(2000.0 + 10 * step)
    written.cache.keep([len(own)])
    written.rows = [written.rows[len(own)]]
    written.say(4000.0)
    assert written.cache.width == len(written.rows[0])


def test_a_row_may_be_taken_several_times_and_begin_others() -> None:
    written = Written(3, 5)
    begun = written.cache.beginning(1, 4).repeated(2, 3)
    written.cache.take(torch.tensor([1, 0, 1]))
    written.rows = [list(written.rows[line]) for line in (1, 0, 1)]
    written.say(1000.0)
    assert (begun.width, begun.rows, begun.even) == (3, 2, True)
    begun.open(1)
    keys, _ = begun.update(torch.ones(2, 2, 1, 3), torch.ones(2, 2, 1, 3), 0)
    assert keys[:, 0, :, 0].tolist() == [[100.0, 101.0, 102.0, 1.0]] * 2


def test_columns_that_no_row_keeps_are_read_over() -> None:
    written = Written(2, 2)
    written.cache.open(3)
    written._write([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    written.cache.hide(torch.tensor([[True, True, False], [True, False, False]]))
    written.rows = [[*written.rows[0], 1.0, 2.0], [*written.rows[1], 4.0]]
    assert written.cache.width == 4
    written.say(1000.0)


def test_a_cache_that_nobody_holds_is_gone_at_once() -> None:
    """Its layers held it once, and a server held dozens of dead ones until the garbage collector came by."""
    written = Written(5, 3)
    gone, copy = weakref.ref(written.cache), written.cache.beginning(0, 2)
    gc.disable()
    try:
        del written
        assert gone() is None
    finally:
        gc.enable()
    assert copy.get_seq_length() == 2


def test_room_for_rows_depends_on_how_many_there_are_and_not_on_when_they_came() -> None:
    """It doubled once: sixteen rows held room for sixteen or for thirty, and a server's memory grew by such steps."""
    for groups in ([1] * 16, [15, 1], [9, 7], [8, 1, 7]):
        several = Written(*[3] * groups[0])
        for number in groups[1:]:
            several.cache.add(Written(*[3] * number, first=900).cache)
        assert (several.cache.rows, len(several.cache._added)) == (16, 16)


def test_rows_that_find_room_make_no_more_of_it() -> None:
    many, one = Written(4, 4, 4, 4), Written(200, first=900)
    many.cache.keep([0])
    many.cache.add(one.cache)
    assert len(many.cache._added) == 4
    assert many.cache.mask.sum(1).tolist() == [4, 200]

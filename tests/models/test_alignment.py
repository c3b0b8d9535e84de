"""Alignment against a loop, and against every path there is."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from small_adapters import loop_spikes

from sonant.errors import ModelError
from sonant.models.alignment import forced_alignment, mean_by_segment, segments, spikes


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), max_size=9), min_size=1, max_size=3))
def test_spikes_are_those_of_a_loop(rows: list[list[int]]) -> None:
    size = max(map(len, rows))
    best = torch.tensor([row + [1] * (size - len(row)) for row in rows]).reshape(len(rows), size)
    segment, heard, count = spikes(best, torch.tensor([len(row) for row in rows]), blank=2)
    for index, row in enumerate(rows):
        expected = loop_spikes(row, blank=2)
        assert count[index] == len(expected)
        for number, (frames, own) in enumerate(expected):
            assert (segment[index] == number).nonzero().flatten().tolist() == frames
            assert ((segment[index] == number) & heard[index]).nonzero().flatten().tolist() == own


def test_the_mean_of_a_segment_without_frames_is_zero() -> None:
    segment = torch.tensor([[0, 0, 2, -1]])
    means = mean_by_segment(torch.tensor([[[2.0], [4.0], [5.0], [9.0]]]), segment, segment >= 0, size=3)
    assert means.flatten().tolist() == [3.0, 0.0, 5.0]


def collapsed(path: tuple[int, ...], blank: int) -> list[int]:
    return [token for token, _ in itertools.groupby(path) if token != blank]


@pytest.mark.parametrize("target", [[], [0], [1, 0], [1, 1], [0, 1, 0], [1, 1, 1]])
def test_the_alignment_is_the_best_of_all_paths_that_spell_the_transcript(target: list[int]) -> None:
    generator = torch.Generator().manual_seed(len(target))
    for size in range(len(target) + sum(a == b for a, b in itertools.pairwise(target)), 7):
        if size == 0:
            continue
        log_probs = torch.randn(1, size, 3, generator=generator).log_softmax(-1)
        every = [p for p in itertools.product(range(3), repeat=size) if collapsed(p, 2) == target]
        scores = [sum(float(log_probs[0, t, label]) for t, label in enumerate(path)) for path in every]
        best = every[scores.index(max(scores))]
        own = forced_alignment(
            log_probs, torch.tensor([size]), torch.tensor([target], dtype=torch.int64), torch.tensor([len(target)])
        )
        assert own[0].tolist() == tokens_of(best, blank=2)


def test_no_alignment_is_likelier_than_all_of_them_together_and_each_spells_its_transcript() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths, sizes = torch.tensor([40, 33, 12, 7]), torch.tensor([9, 15, 0, 4])
    targets = torch.randint(5, (4, 15), generator=generator)
    targets[3, :4] = torch.tensor([2, 2, 2, 2])  # 7 frames are just enough
    log_probs = torch.randn(4, 40, 6, generator=generator).log_softmax(-1)
    own = forced_alignment(log_probs, lengths, targets, sizes)
    whole = -F.ctc_loss(log_probs.transpose(0, 1), targets, lengths, sizes, blank=5, reduction="none")
    for row in range(4):
        length, size = int(lengths[row]), int(sizes[row])
        labels = [5 if place < 0 else int(targets[row, place]) for place in own[row, :length].tolist()]
        assert collapsed(tuple(labels), 5) == targets[row, :size].tolist()
        assert own[row, length:].eq(-1).all()
        score = log_probs[row, torch.arange(length), torch.tensor(labels)].sum()
        assert score <= whole[row] + 1e-4
        alone = forced_alignment(
            log_probs[row : row + 1, :length],
            lengths[row : row + 1],
            targets[row : row + 1, :size],
            sizes[row : row + 1],
        )
        assert torch.equal(alone[0], own[row, :length])


def test_a_sure_head_is_aligned_as_it_hears() -> None:
    classes = torch.tensor([[3, 0, 0, 3, 0, 1, 1, 3]])
    log_probs = (20.0 * F.one_hot(classes, 4)).log_softmax(-1)
    own = forced_alignment(log_probs, torch.tensor([8]), torch.tensor([[0, 0, 1]]), torch.tensor([3]))
    assert own.tolist() == [[-1, 0, 0, -1, 1, 2, 2, -1]]
    for found, expected in zip(
        segments(own, torch.tensor([8])), spikes(classes, torch.tensor([8]), blank=3), strict=True
    ):
        assert torch.equal(found, expected)


def test_transcripts_without_enough_frames_are_refused() -> None:
    log_probs = torch.zeros(3, 4, 3).log_softmax(-1)
    targets = torch.tensor([[0, 1, 0], [0, 0, 0], [1, 0, 0]])
    with pytest.raises(ModelError, match="clip 1 needs 5 frames and has 4; clip 2 needs 2 frames and has 1; leave"):
        forced_alignment(log_probs, torch.tensor([4, 4, 1]), targets, torch.tensor([3, 3, 2]))


def test_clips_without_frames_or_words_align_to_nothing() -> None:
    own = forced_alignment(
        torch.zeros(2, 3, 3).log_softmax(-1),
        torch.tensor([0, 3]),
        torch.zeros(2, 0, dtype=torch.int64),
        torch.tensor([0, 0]),
    )
    assert own.tolist() == [[-1] * 3] * 2
    segment, heard, number = segments(own, torch.tensor([0, 3]))
    assert segment.tolist() == [[-1] * 3, [0, 0, 0]]
    assert heard.tolist() == [[False] * 3, [True] * 3]
    assert number.tolist() == [1, 1]


def tokens_of(path: tuple[int, ...], *, blank: int) -> list[int]:
    """The number of the token each frame is a part of."""
    own, number, before = [], -1, blank
    for label in path:
        number += label not in (blank, before)
        own.append(-1 if label == blank else number)
        before = label
    return own

"""CTC pooling against a loop."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from small_adapters import build
from torch import Tensor, nn

from sonant.errors import ModelError
from sonant.models.adapters.base import build_adapter
from sonant.models.adapters.ctc_pooling import CTCPoolingAdapter, CTCPoolingConfig, mean_by_segment, spikes


def loop_spikes(best: list[int], blank: int) -> list[tuple[list[int], list[int]]]:
    """For each segment, all its frames and those of its spike: written as one thinks of it."""
    segments: list[tuple[list[int], list[int]]] = []
    waiting: list[int] = []
    for frame, token in enumerate(best):
        if token == blank:
            waiting.append(frame)
        elif frame > 0 and best[frame - 1] == token:
            segments[-1][0].append(frame)
            segments[-1][1].append(frame)
        else:
            segments.append(([*waiting, frame], [frame]))
            waiting = []
    everything = list(range(len(best)))
    return segments or [(everything, everything)]


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


def loop_vectors(adapter: CTCPoolingAdapter, frames: Tensor) -> Tensor:
    """The adapter's vectors (T', D) of one clip (T, in_dim), segment by segment."""
    logits = adapter.ctc_head(frames)
    assert adapter.table is not None
    assert adapter.soft_norm is not None
    vectors = []
    for members, own in loop_spikes(logits.argmax(dim=-1).tolist(), blank=adapter.vocab_size):
        pooled = torch.stack([frames[frame] for frame in members]).mean(dim=0)
        posteriors = [F.softmax(logits[frame, :-1] / adapter.temperature, dim=-1) for frame in own]
        soft = torch.stack(posteriors).mean(dim=0) @ adapter.table
        vectors.append(adapter.scale * soft + adapter.mlp(torch.cat([adapter.norm(pooled), adapter.soft_norm(soft)])))
    return torch.stack(vectors)


def test_ctc_pooling_equals_a_loop() -> None:
    adapter = build(CTCPoolingConfig(vocab_size=3, scale=2.0, posterior_temperature=0.7, hidden_dim=9))
    frames, lengths = torch.randn(6, 17, 8), torch.tensor([17, 12, 5, 2, 1, 17])
    vectors, sizes = adapter(frames, lengths)
    for row, (length, size) in enumerate(zip(lengths, sizes, strict=True)):
        expected = loop_vectors(adapter, frames[row, :length])
        torch.testing.assert_close(vectors[row, :size], expected, atol=1e-5, rtol=1e-5)


def test_at_the_start_ctc_pooling_is_a_cascade() -> None:
    """A sure CTC head and a fresh MLP: the vectors are the embeddings of the tokens heard, and nothing else."""
    adapter = build_adapter(CTCPoolingConfig(), in_dims=[4], out_dim=6, vocab_size=3)
    assert isinstance(adapter, CTCPoolingAdapter)
    table = torch.randn(3, 6)
    adapter.anchor(table)
    nn.init.zeros_(adapter.ctc_head.bias)
    adapter.ctc_head.weight.data = torch.eye(4) * 100  # frame -> class
    frames = F.one_hot(torch.tensor([[3, 1, 1, 3, 1, 0, 3]]), 4).float()  # _ b b _ b a _
    vectors, lengths = adapter(frames, torch.tensor([7]))
    assert lengths.tolist() == [3]
    torch.testing.assert_close(vectors[0], table[[1, 1, 0]])


def test_what_the_second_encoder_hears_changes_no_segment_but_the_vectors() -> None:
    torch.manual_seed(0)
    adapter = build_adapter(CTCPoolingConfig(vocab_size=3), in_dims=[4, 2], out_dim=6)
    assert isinstance(adapter, CTCPoolingAdapter)
    adapter.anchor(torch.randn(3, 6))
    nn.init.normal_(adapter.mlp[2].weight)
    frames = torch.randn(1, 9, 6)
    other = torch.cat([frames[..., :4], torch.randn(1, 9, 2)], dim=-1)
    assert torch.equal(adapter.ctc_logits(frames), adapter.ctc_logits(other))
    (one, sizes), (two, other_sizes) = adapter(frames, torch.tensor([9])), adapter(other, torch.tensor([9]))
    assert torch.equal(sizes, other_sizes)
    assert not torch.allclose(one, two)


def test_a_penalty_on_blank_keeps_the_tokens_that_greedy_reading_drops() -> None:
    adapter = build_adapter(CTCPoolingConfig(blank_penalty=2.0), in_dims=[4], out_dim=6, vocab_size=3)
    assert isinstance(adapter, CTCPoolingAdapter)
    table = torch.randn(3, 6)
    adapter.anchor(table)
    nn.init.zeros_(adapter.ctc_head.bias)
    adapter.ctc_head.weight.data = torch.eye(4) * 100  # frame -> logits of a, b, c, blank
    unsure, quiet = [0.0, 0.985, 0.0, 1.0], [0.0, 0.975, 0.0, 1.0]  # blank leads b by 1.5, and by 2.5
    frames = torch.tensor([[[1.0, 0.0, 0.0, 0.0], unsure, quiet, [0.0, 0.0, 1.0, 0.0]]])
    vectors, lengths = adapter(frames, torch.tensor([4]))
    assert lengths.tolist() == [3]
    torch.testing.assert_close(vectors[0], table[[0, 1, 2]])


def test_a_clip_in_which_nothing_is_heard_yields_one_vector() -> None:
    adapter = build(CTCPoolingConfig(vocab_size=3))
    adapter.ctc_head.bias.data[-1] = 1e4  # blank everywhere
    frames = torch.randn(2, 6, 8)
    vectors, lengths = adapter(frames, torch.tensor([6, 0]))
    assert lengths.tolist() == [1, 1]
    torch.testing.assert_close(vectors[0], loop_vectors(adapter, frames[0]), atol=1e-5, rtol=1e-5)
    assert vectors.isfinite().all()
    assert adapter.output_lengths(torch.tensor([0, 4])).tolist() == [1, 4]


def test_the_mean_of_a_segment_without_frames_is_zero() -> None:
    segment = torch.tensor([[0, 0, 2, -1]])
    means = mean_by_segment(torch.tensor([[[2.0], [4.0], [5.0], [9.0]]]), segment, segment >= 0, size=3)
    assert means.flatten().tolist() == [3.0, 0.0, 5.0]


def test_without_soft_embeddings_no_table_is_needed() -> None:
    adapter = build_adapter(CTCPoolingConfig(vocab_size=3, soft_embedding=False), in_dims=[8], out_dim=12)
    assert isinstance(adapter, CTCPoolingAdapter)
    vectors, _ = adapter(torch.randn(1, 6, 8), torch.tensor([6]))
    assert vectors.abs().sum() > 0
    with pytest.raises(ModelError, match="soft_embedding is off"):
        adapter.anchor(torch.zeros(3, 12))


def test_the_table_is_neither_saved_nor_trained() -> None:
    adapter = build(CTCPoolingConfig(vocab_size=5))
    assert "table" not in adapter.state_dict()
    assert adapter.table is not None
    assert not adapter.table.requires_grad
    assert adapter.to(torch.float64).table.dtype == torch.float64


def test_what_ctc_pooling_lacks_is_named() -> None:
    with pytest.raises(ModelError, match=r"set adapter\.vocab_size"):
        build_adapter(CTCPoolingConfig(), in_dims=[8], out_dim=12)
    adapter = build_adapter(CTCPoolingConfig(vocab_size=3), in_dims=[8], out_dim=12)
    assert isinstance(adapter, CTCPoolingAdapter)
    with pytest.raises(ModelError, match=r"call anchor\(table\)"):
        adapter(torch.randn(1, 6, 8), torch.tensor([6]))
    with pytest.raises(ModelError, match=r"embedding table \(4, 12\); expected \(3, 12\)"):
        adapter.anchor(torch.zeros(4, 12))


def test_a_warmer_temperature_spreads_the_posterior() -> None:
    table = torch.eye(5)
    frames = torch.randn(1, 6, 8)
    flatness = []
    for temperature in (0.1, 1.0, 10.0):
        config = CTCPoolingConfig(vocab_size=5, posterior_temperature=temperature)
        torch.manual_seed(0)
        adapter = build_adapter(config, in_dims=[8], out_dim=5)
        assert isinstance(adapter, CTCPoolingAdapter)
        adapter.anchor(table)
        flatness.append(adapter(frames, torch.tensor([6]))[0].max().item())
    assert flatness == sorted(flatness, reverse=True)
    assert math.isclose(flatness[2], 0.2, abs_tol=0.1)

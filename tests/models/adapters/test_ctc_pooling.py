"""CTC pooling against a loop."""

import itertools
import math
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from small_adapters import build, loop_spikes
from torch import Tensor, nn

from sonant.errors import ModelError
from sonant.models.adapters.base import build_adapter
from sonant.models.adapters.ctc_pooling import CTCPoolingAdapter, CTCPoolingConfig
from sonant.models.alignment import forced_alignment, segments
from sonant.models.candidates import Candidates
from sonant.models.conv_transformer import ConvBlockConfig, ConvTrunkConfig
from sonant.models.encoders.base import zero_padding


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


TRUNK = ConvTrunkConfig(
    blocks=(
        ConvBlockConfig(kernel=5, num_layers=0, dim=16),
        ConvBlockConfig(kernel=5, num_layers=1, num_heads=2, ffn_dim=24),
    ),
    dropout=0.0,
)


def test_by_default_weights_are_named_and_drawn_as_before() -> None:
    torch.manual_seed(0)
    adapter = build_adapter(CTCPoolingConfig(vocab_size=3, hidden_dim=9), in_dims=[8], out_dim=12)
    torch.manual_seed(0)
    head, last, first = nn.Linear(8, 4), nn.Linear(9, 12), nn.Linear(20, 9)
    del last  # drawn, then set to zero
    state = adapter.state_dict()
    assert list(state) == [f"{name}.{kind}" for name in NAMES for kind in ("weight", "bias")]
    assert torch.equal(state["ctc_head.weight"], head.weight)
    assert torch.equal(state["mlp.0.weight"], first.weight)
    assert state["mlp.2.weight"].eq(0).all()


NAMES = ("ctc_head", "norm", "soft_norm", "mlp.0", "mlp.2")


def test_a_trunk_makes_it_a_projector_of_its_own() -> None:
    """All encoders' channels go in, a quarter of the frames comes out; then it is the adapter without a trunk."""
    torch.manual_seed(0)
    adapter = build_adapter(CTCPoolingConfig(vocab_size=3, trunk=TRUNK), in_dims=[5, 3], out_dim=12)
    assert isinstance(adapter, CTCPoolingAdapter)
    plain = build_adapter(CTCPoolingConfig(vocab_size=3), in_dims=[16], out_dim=12)
    assert isinstance(plain, CTCPoolingAdapter)
    plain.load_state_dict({k: v for k, v in adapter.state_dict().items() if not k.startswith("trunk")})
    for one in (adapter, plain):
        one.anchor(torch.randn(3, 12, generator=torch.Generator().manual_seed(1)))
    frames, lengths = torch.randn(2, 21, 8), torch.tensor([21, 9])
    hidden, sizes = adapter.listen(frames, lengths)
    assert hidden.shape == (2, 6, 16)
    assert sizes.tolist() == adapter.output_lengths(lengths).tolist() == [6, 3]
    for found, expected in zip(adapter(frames, lengths), plain(hidden, sizes), strict=True):
        assert torch.equal(found, expected)


def test_the_projector_of_97_million_parameters_can_be_said() -> None:
    """The trunk of the stronger follow-up: two convolutions, six layers of width 1024; its MLP is counted with it."""
    blocks = (ConvBlockConfig(kernel=5, num_layers=0), ConvBlockConfig(kernel=5, ffn_dim=4096))
    config = CTCPoolingConfig(trunk=ConvTrunkConfig(blocks=blocks), head="distance", hidden_dim=2048)
    with torch.device("meta"):
        adapter = build_adapter(config, in_dims=[1024], out_dim=4096, vocab_size=128_256)
    assert isinstance(adapter, CTCPoolingAdapter)
    assert adapter.trunk is not None
    trunk = sum(weight.numel() for weight in adapter.trunk.parameters())
    assert trunk + 1024 * 2048 + 2048 + 2048 * 4096 + 4096 == 96_557_056
    assert sum(weight.numel() for weight in adapter.ctc_head.parameters()) == 1024 * 4097 + 4097  # not 1024 x 128,257
    assert adapter.output_lengths(torch.tensor([100])).tolist() == [25]


def test_the_distance_head_measures_distances() -> None:
    torch.manual_seed(0)
    table = 0.02 * torch.randn(7, 12)
    adapter = build_adapter(
        CTCPoolingConfig(head="distance", distance_temperature=0.3, soft_embedding=False),
        in_dims=[8],
        out_dim=12,
        vocab_size=7,
    )
    assert isinstance(adapter, CTCPoolingAdapter)
    with pytest.raises(ModelError, match=r"call anchor\(table\)"):
        adapter(torch.randn(1, 4, 8), torch.tensor([4]))
    adapter.anchor(table)
    frames = torch.randn(2, 4, 8)
    logits = adapter.ctc_logits(frames)
    assert logits.shape == (2, 4, 8)
    projected = adapter.ctc_head.projection(frames) * table.square().mean().sqrt()
    squares = torch.cdist(projected, table[None]).square()
    torch.testing.assert_close(logits[..., :-1], -squares / (0.3 * table.square().sum(1).mean()), atol=1e-4, rtol=1e-4)
    adapter.ctc_head.requires_grad_(False).projection.weight.zero_()
    adapter.ctc_head.projection.bias.copy_(table[5] / table.square().mean().sqrt())
    assert adapter.ctc_logits(frames)[..., :-1].argmax(-1).eq(5).all()
    torch.testing.assert_close(adapter.ctc_logits(frames)[..., 5], torch.zeros(2, 4), atol=1e-5, rtol=0)


@pytest.mark.parametrize("head", ["linear", "distance"])
def test_logits_of_some_tokens_are_those_of_all_where_they_stand(head: Literal["linear", "distance"]) -> None:
    adapter = build_adapter(CTCPoolingConfig(head=head), in_dims=[8], out_dim=12, vocab_size=7)
    assert isinstance(adapter, CTCPoolingAdapter)
    adapter.anchor(torch.randn(7, 12))
    frames, some = torch.randn(2, 4, 8), torch.tensor([1, 2, 5])
    logits = adapter.ctc_logits(frames, among=Candidates(some, torch.zeros(3)))
    torch.testing.assert_close(logits, adapter.ctc_logits(frames)[..., [1, 2, 5, 7]])


def test_in_the_unit_of_its_table_the_distance_head_is_the_same_for_every_llm() -> None:
    heads = []
    for unit in (1.0, 0.01):
        torch.manual_seed(0)
        adapter = build_adapter(CTCPoolingConfig(head="distance"), in_dims=[8], out_dim=12, vocab_size=5)
        assert isinstance(adapter, CTCPoolingAdapter)
        adapter.anchor(unit * torch.randn(5, 12, generator=torch.Generator().manual_seed(1)))
        heads.append(adapter.ctc_logits(torch.ones(1, 1, 8)))
    torch.testing.assert_close(heads[0], heads[1], atol=1e-4, rtol=1e-4)


def test_pooling_by_what_is_known_to_be_said_is_pooling_by_what_is_heard_if_that_is_right() -> None:
    adapter = build(CTCPoolingConfig(vocab_size=3))
    frames, lengths = torch.randn(3, 17, 8), torch.tensor([17, 12, 5])
    vectors, sizes = adapter(frames, lengths)
    hidden, logits = frames, adapter.ctc_logits(frames)
    rows = [
        [token for token, _ in itertools.groupby(row[:n].argmax(-1).tolist()) if token != 3]
        for row, n in zip(logits, lengths, strict=True)
    ]
    said = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    own = forced_alignment(logits.log_softmax(-1), lengths, said, torch.tensor([len(row) for row in rows]))
    segment, heard, number = segments(own, lengths)
    assert torch.equal(number, sizes)
    pooled = adapter.pool(zero_padding(hidden, lengths), logits, segment, heard, size=int(number.max()))
    for row, size in enumerate(sizes.tolist()):
        torch.testing.assert_close(pooled[row, :size], vectors[row, :size])

"""SpeechMapper's projector: its published size, odd widths, pads and snapping."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_adapters import build
from torch import Tensor

from sonant.errors import ModelError
from sonant.models.adapters.base import build_adapter
from sonant.models.adapters.conv_transformer import ConvTransformerAdapter, ConvTransformerConfig, SnapConfig
from sonant.models.conv_transformer import ConvBlockConfig

BLOCK = ConvBlockConfig(num_layers=1, num_heads=2, ffn_dim=16)
TABLE = F.one_hot(torch.arange(5), 12).float() * 0.02
PAD = F.one_hot(torch.tensor(11), 12).float() * 0.02


def parameters(adapter: Any) -> int:
    return sum(weight.numel() for weight in adapter.parameters())


def test_the_published_projector_has_277_031_936_parameters() -> None:
    with torch.device("meta"):
        adapter = build_adapter(ConvTransformerConfig(), in_dims=[1024], out_dim=4096)
    assert parameters(adapter) == 277_031_936
    assert adapter.output_lengths(torch.tensor([250])).tolist() == [64]  # 10 s at 25 Hz: one vector per 160 ms


@pytest.mark.parametrize("width", [2560, 3584, 4096])
def test_it_builds_and_runs_at_the_width_of_every_llm(width: int) -> None:
    with torch.device("meta"):
        whole: Any = build_adapter(ConvTransformerConfig(), in_dims=[1024], out_dim=width)
    assert whole.head[2].weight.shape == (width, width)
    shallow = (ConvBlockConfig(num_layers=1, out_dim=64), BLOCK)
    config = ConvTransformerConfig(blocks=shallow, hidden_dim=32)
    adapter: Any = build_adapter(config, in_dims=[32], out_dim=width)
    vectors, lengths = adapter(torch.randn(2, 40, 32), torch.tensor([40, 9]))
    assert vectors.shape == (2, 11, width)
    assert lengths.tolist() == [11, 3]
    vectors.square().mean().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in adapter.parameters())


def speaking(*slots: Tensor, lengths: list[int], **options: Any) -> tuple[Tensor, Tensor]:
    """What an anchored adapter whose head says `slots` (T', D) in each clip gives."""
    adapter = build(ConvTransformerConfig(blocks=(BLOCK.model_copy(update={"stride": 1, "kernel": 1}),), **options))
    adapter.anchor(TABLE, PAD)
    adapter.head.forward = lambda hidden: torch.stack(slots)
    vectors, sizes = adapter(torch.randn(len(slots), slots[0].shape[0], 8), torch.tensor(lengths))
    return vectors, sizes


@pytest.mark.parametrize(("keep", "expected"), [(None, [6, 4, 3]), (0, [2, 4, 1]), (1, [3, 4, 1]), (2, [4, 4, 2])])
def test_after_the_first_predicted_pad_as_many_are_kept_as_asked(keep: int | None, expected: list[int]) -> None:
    """Clip 0: two tokens, a pad, a late token; clip 1 no pad at all; clip 2 nothing but pads, of which one stays."""
    one = torch.stack([TABLE[3], TABLE[1], PAD, TABLE[2], PAD, PAD])
    two = torch.stack([TABLE[3], TABLE[1], TABLE[0], TABLE[2], PAD, PAD])  # its pads lie beyond its end
    three = PAD.expand(6, -1)
    vectors, lengths = speaking(one, two, three, lengths=[6, 4, 3], keep_pads=keep)
    assert lengths.tolist() == expected
    assert torch.equal(vectors[1, :4], two[:4])
    assert vectors[0, expected[0] :].eq(0).all()


def test_in_training_no_pad_is_cut_and_nothing_snapped() -> None:
    adapter = build(ConvTransformerConfig(blocks=(BLOCK,), dropout=0.0))
    changed = build(ConvTransformerConfig(blocks=(BLOCK,), dropout=0.0, keep_pads=0, snap=SnapConfig()))
    frames, lengths = torch.randn(2, 9, 8), torch.tensor([9, 4])
    expected, sizes = adapter.train()(frames, lengths)
    found, found_sizes = changed.train()(frames, lengths)
    assert torch.equal(found, expected)
    assert torch.equal(found_sizes, sizes)


def test_snap_with_k_1_returns_a_row_of_the_table() -> None:
    torch.manual_seed(0)
    noisy = torch.cat([TABLE[[3, 0, 4]], PAD[None]]) * 7 + 0.01 * torch.randn(4, 12)
    vectors, _ = speaking(noisy, lengths=[4], snap=SnapConfig(k=1))
    assert torch.equal(vectors[0], torch.stack([TABLE[3], TABLE[0], TABLE[4], PAD]))


def test_snap_mixes_the_k_nearest_by_their_cosines_and_no_pad_with_a_word() -> None:
    slot = TABLE[3] + 0.5 * TABLE[1] + 0.25 * TABLE[2] + 0.75 * PAD
    vectors, _ = speaking(slot[None], lengths=[1], snap=SnapConfig(k=3, temperature=0.5))
    cosines = torch.stack([F.cosine_similarity(slot, row, dim=0) for row in (TABLE[3], TABLE[1])])
    share = (cosines / 0.5).softmax(0)  # the second nearest is the pad
    torch.testing.assert_close(vectors[0, 0], share[0] * TABLE[3] + share[1] * TABLE[1])


def test_a_pad_taken_from_the_table_is_still_a_pad() -> None:
    adapter = build(ConvTransformerConfig(blocks=(BLOCK,), keep_pads=0))
    adapter.anchor(TABLE, TABLE[4])
    slots = torch.stack([TABLE[1], TABLE[4], TABLE[2]])[None]
    assert adapter.lengths_to_first_pad(slots, torch.tensor([3]), keep=0).tolist() == [1]


def test_what_is_missing_or_does_not_fit_is_named() -> None:
    adapter = build_adapter(ConvTransformerConfig(blocks=(BLOCK,), keep_pads=0), in_dims=[8], out_dim=12)
    assert isinstance(adapter, ConvTransformerAdapter)
    with pytest.raises(ModelError, match=r"call anchor\(table, pad\)"):
        adapter.eval()(torch.randn(1, 6, 8), torch.tensor([6]))
    with pytest.raises(ModelError, match=r"table \(5, 12\) and pad \(11,\); expected \(V, 12\) and \(12,\)"):
        adapter.anchor(TABLE, PAD[1:])
    adapter.anchor(TABLE, PAD)
    assert "known" not in adapter.state_dict()

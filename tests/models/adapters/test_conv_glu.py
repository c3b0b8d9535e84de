"""WavLLM's adapter: the published sizes, one vector for four frames, the same alone as in company."""

import pytest
import torch
from torch import nn

from sonant.errors import ModelError
from sonant.models.adapters.base import build_adapter
from sonant.models.adapters.conv_glu import ConvGLUAdapter, ConvGLUConfig

SMALL = ConvGLUConfig(first_dims=(6, 4), dim=8, bottleneck_dim=4, branch_dim=10)


def small() -> ConvGLUAdapter:
    torch.manual_seed(0)
    adapter = build_adapter(SMALL, in_dims=[5, 3], out_dim=7)
    assert isinstance(adapter, ConvGLUAdapter)
    return adapter.eval()


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_each_branch_and_the_fusion_have_the_published_size() -> None:
    with torch.device("meta"):
        adapter = build_adapter(ConvGLUConfig(first_dims=(1280, 512)), in_dims=[1280, 768], out_dim=4096)
    assert isinstance(adapter, ConvGLUAdapter)
    assert [count(branch) for branch in adapter.branches] == [12_002_048, 5_906_432]
    assert count(adapter.fusion) == 16_781_312


@pytest.mark.parametrize(("seconds", "vectors"), [(2.22, 28), (10.99, 138), (17.23, 216), (30, 375), (31, 388)])
def test_a_clip_gives_a_vector_for_four_frames_of_50_hz(seconds: float, vectors: int) -> None:
    frames = torch.tensor([-(-round(seconds * 100) // 2)])
    assert small().output_lengths(frames).tolist() == [vectors]


def test_a_clip_is_the_same_alone_and_beside_a_longer_one() -> None:
    adapter = small()
    frames, lengths = torch.randn(3, 17, 8), torch.tensor([17, 9, 2])
    vectors, sizes = adapter(frames, lengths)
    assert sizes.tolist() == [5, 3, 1]
    for row, (length, size) in enumerate(zip(lengths.tolist(), sizes.tolist(), strict=True)):
        alone, _ = adapter(frames[row : row + 1, :length], torch.tensor([length]))
        torch.testing.assert_close(vectors[row, :size], alone[0])
        assert not vectors[row, size:].any()


def test_the_first_vector_is_what_it_is_by_hand() -> None:
    adapter = small()
    frames = torch.randn(1, 8, 8)
    vectors, _ = adapter(frames, torch.tensor([8]))
    heard = []
    for branch, part in zip(adapter.branches, frames.split([5, 3], dim=2), strict=True):
        padded = nn.functional.pad(part[0], (0, 0, 1, 1))  # (T + 2, in_dim)
        first = [torch.einsum("oik,ki->o", branch.first.weight, padded[t : t + 3]) + branch.first.bias for t in (0, 2)]
        gated = [a * torch.sigmoid(b) for a, b in (f.chunk(2) for f in first)]
        read = torch.stack([torch.zeros_like(gated[0]), *gated])  # the second convolution at its first place
        value, gate = (torch.einsum("oik,ki->o", branch.second.weight, read) + branch.second.bias).chunk(2)
        hidden = value * torch.sigmoid(gate)
        hidden = hidden + branch.norm(branch.up(nn.functional.gelu(branch.down(hidden))))
        heard.append(branch.projection(hidden))
    torch.testing.assert_close(vectors[0, 0], adapter.fusion(torch.cat(heard)))


@pytest.mark.parametrize("first_dims", [(6,), (6, 3)])
def test_widths_that_no_gate_can_halve_are_refused(first_dims: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="one even number for each encoder"):
        build_adapter(ConvGLUConfig(first_dims=first_dims), in_dims=[5, 3], out_dim=7)

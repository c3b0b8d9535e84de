"""One vector that says who speaks and how, and whether the voice changes on the way."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sonant.models.alignment import mean_by_segment


class VoiceVector(nn.Module):
    """Compares the parts of a clip by their mean frames, and tells the outcome in one vector.

        frames   |--- part 1 ---|--- part 2 ---|--- part 3 ---|     num_parts = 3
        means          m1             m2             m3
        vector   MLP(norm(mean of all), cos(m1, m2), cos(m1, m3), cos(m2, m3), log(frames per token heard))

    Cosines are what speaker encoders are made to be compared by; a network of sums learns them poorly from examples.
    Tempo is lost where one vector stands for a token however long it took.
    The MLP ends in zeros: at first the vector says nothing.
    """

    def __init__(self, *, dim: int, out_dim: int, num_parts: int) -> None:
        super().__init__()
        self.num_parts = num_parts
        self.norm = nn.LayerNorm(dim)
        last = nn.Linear(out_dim, out_dim)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        pairs = num_parts * (num_parts - 1) // 2
        self.mlp = nn.Sequential(nn.Linear(dim + pairs + 1, out_dim), nn.GELU(), last)

    def forward(self, frames: Tensor, lengths: Tensor, num_tokens: Tensor) -> Tensor:
        """Returns (A, 1, out_dim) of `frames` (A, T, dim) with `lengths` (A,) in which `num_tokens` (A,) are heard."""
        place = torch.arange(frames.shape[1], device=frames.device)
        real = place < lengths[:, None]
        part = (place * self.num_parts).div(lengths.clamp(min=1)[:, None], rounding_mode="floor")
        means = mean_by_segment(frames, part, real, size=self.num_parts)  # (A, num_parts, dim); zeros where empty
        units = F.normalize(means, dim=-1)
        one, other = torch.triu_indices(self.num_parts, self.num_parts, offset=1, device=frames.device)
        cosines = (units @ units.transpose(1, 2))[:, one, other]
        whole = mean_by_segment(frames, torch.zeros_like(part), real, size=1)[:, 0]
        tempo = (lengths.clamp(min=1) / num_tokens).log()[:, None].to(frames.dtype)
        vector: Tensor = self.mlp(torch.cat([self.norm(whole), cosines, tempo], dim=-1))
        return vector[:, None]

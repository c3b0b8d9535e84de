"""Rotary positions (Su et al. 2021): queries and keys turned by angles that grow with their place."""

import torch
from torch import Tensor

_BASE = 10_000.0


def rotation(num_frames: int, head_dim: int, *, like: Tensor) -> tuple[Tensor, Tensor]:
    """Returns cosine and sine (T, head_dim / 2) of each position's angles, on the device and in the dtype of `like`."""
    places = torch.arange(num_frames, device=like.device, dtype=torch.float32)[:, None]
    speeds = _BASE ** (-torch.arange(0, head_dim, 2, device=like.device) / head_dim)
    angles = places * speeds
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Returns `x` (..., T, head_dim) turned by a `rotation`."""
    cos, sin = turn
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)

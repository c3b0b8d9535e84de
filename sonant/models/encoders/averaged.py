"""An encoder at a lower rate: the mean of each `average` successive frames of another.

frames  a b c d e      average = 2      (a+b)/2  (c+d)/2  e
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from sonant.models.encoders.base import SpeechEncoder, zero_padding


class AveragedEncoder(nn.Module):
    """Frames of `encoder`, ceil(T / average) of them a clip; the last is the mean of what is left.

    Source: SpeechMapper (arXiv 2601.20417), which caches SeamlessM4T's 50 Hz as means of two frames, 25 Hz.
    """

    def __init__(self, encoder: SpeechEncoder, average: int) -> None:
        super().__init__()
        self.encoder = cast("nn.Module", encoder)
        self.average = average
        self.feature_spec = encoder.feature_spec
        self.dim = encoder.dim
        self.frame_rate_hz = encoder.frame_rate_hz / average
        self.architecture: dict[str, Any] = encoder.architecture

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Returns ceil(T / average) (A,) for clips of `lengths` (A,) features that give the encoder's T frames."""
        return -(-self._own_lengths(lengths) // self.average)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Returns frames (A, T, dim) of `features` with `lengths` (A,)."""
        own_lengths = self._own_lengths(lengths)
        return mean_of_frames(self.encoder(features, lengths), own_lengths, self.average)

    def _own_lengths(self, lengths: Tensor) -> Tensor:
        return cast("SpeechEncoder", self.encoder).output_lengths(lengths)


def mean_of_frames(frames: Tensor, lengths: Tensor, window: int) -> Tensor:
    """Returns (A, ceil(T / window), D): the mean of each `window` frames (A, T, D), padding past `lengths` left out."""
    frames = zero_padding(frames, lengths)
    frames = nn.functional.pad(frames, (0, 0, 0, -frames.shape[1] % window))
    starts = torch.arange(0, frames.shape[1], window, device=frames.device)
    counts = (lengths[:, None] - starts).clamp(1, window)
    return frames.unflatten(1, (-1, window)).sum(2) / counts[..., None].to(frames.dtype)

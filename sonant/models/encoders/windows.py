"""Long clips in overlapping windows: an encoder's cost grows with their seconds, not with the square of them.

clip      ........................................
windows   |---- kept ---->..                           about equally long, from whole frames of the clip on;
                      ..<---- kept ---->..             what lies near a border is heard by both, with context,
                                      ..<-- kept --|   and kept once
"""

import math
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from sonant.errors import ModelError
from sonant.models.encoders.base import SpeechEncoder

_AT_ONCE_S = 300.0  # of windows together, where no gradients are kept: memory then does not grow with the clip


class _Window(NamedTuple):
    heard: slice  # features of the clip
    kept: slice  # frames of the window


class Windowed(nn.Module):
    """Stands before an encoder's own class (see `in_windows`): its `forward` hears windows instead of long clips.

    A clip has as many frames as without windows; one that fits a window has the same. What an encoder takes from the
    whole clip (the context of the tiny speaker encoder, a norm over time) it takes from the window.
    """

    window_frames: int  # the most that are encoded in one piece
    side_frames: int  # heard on either side of what is kept: half of what neighbours share
    frame_features: int  # from one frame to the next

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Returns frames (A, T, dim) of `features` (A, F, M) or (A, S) with `lengths` (A,)."""
        if features.shape[1] <= self.window_frames * self.frame_features:
            return cast(Tensor, super().forward(features, lengths))
        clips = [_windows(size, self) for size in lengths.tolist()]
        heard = [clip[window.heard] for clip, windows in zip(features, clips, strict=True) for window in windows]
        own = cast("SpeechEncoder", self)
        at_once = math.inf if torch.is_grad_enabled() else _AT_ONCE_S * own.frame_rate_hz
        together = max(1, int(min(len(heard), at_once / self.window_frames)))
        padded = nn.utils.rnn.pad_sequence(heard, batch_first=True)
        sizes = torch.tensor([len(window) for window in heard], device=lengths.device)
        encoded: list[Tensor] = []
        for some, n in zip(padded.split(together), sizes.split(together), strict=True):
            frames = super().forward(some, n)
            encoded += [f[:t] for f, t in zip(frames.unbind(), own.output_lengths(n).tolist(), strict=True)]
        in_turn = iter(encoded)
        joined = [torch.cat([next(in_turn)[window.kept] for window in windows]) for windows in clips]
        return nn.utils.rnn.pad_sequence(joined, batch_first=True)


def in_windows(encoder: SpeechEncoder, *, window_s: float, overlap_s: float) -> SpeechEncoder:
    """Returns `encoder` itself, which from now on hears clips longer than `window_s` in windows of at most that.

    Neighbours share `overlap_s`, rounded to an even number of frames. Its class becomes a subclass of what it was, as
    with torch's `fully_shard`: parameters keep their names, and a checkpoint made without windows can be given some.

    Raises: ModelError if frames do not fit the windows.
    """
    unit = round(encoder.feature_spec.frame_rate_hz / encoder.frame_rate_hz)
    window, side = int(window_s * encoder.frame_rate_hz + 1e-6), round(overlap_s * encoder.frame_rate_hz / 2)
    shortest = encoder.output_lengths(torch.tensor([(2 * side + 1) * unit], device="cpu"))
    if window <= 2 * side or int(shortest) <= side:
        raise ModelError(
            f"window_s={window_s:g} and overlap_s={overlap_s:g} do not hold the frames of {type(encoder).__name__}, "
            f"{encoder.frame_rate_hz:g} a second; give a longer window_s, or an overlap_s of two frames or more"
        )
    windowed = cast(Any, encoder)
    if not isinstance(encoder, Windowed):
        windowed.__class__ = type(type(encoder).__name__, (Windowed, type(encoder)), {})
    windowed.window_frames, windowed.side_frames, windowed.frame_features = window, side, unit
    return encoder


def _windows(size: int, encoder: Windowed) -> list[_Window]:
    """The windows of a clip of `size` features. Not a method: an encoder may have one of that name."""
    side, unit = encoder.side_frames, encoder.frame_features
    if size <= encoder.window_frames * unit:
        return [_Window(slice(size), slice(None))]
    new = size - 2 * side * unit
    count = -(-new // ((encoder.window_frames - 2 * side) * unit))
    hop = -(-new // (count * unit))  # frames
    windows = []
    for start in range(0, new, hop * unit):
        last = start + hop * unit >= new
        heard = slice(start, size if last else start + (hop + 2 * side) * unit)
        windows.append(_Window(heard, slice(side if start else 0, None if last else side + hop)))
    return windows

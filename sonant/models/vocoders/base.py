"""What makes sound of a voice's mels: one signature for all, whole or in chunks.

log mels (B, F, M) ──▶ vocoder ──▶ samples (B, F * hop), zeros past a row's end
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sonant.audio.mel import MelSpec


class Vocoder(Protocol):
    """Anything that makes sound of log mels as `sonant.audio.mel.log_mel` makes them of sound."""

    @property
    def mel(self) -> MelSpec:
        """The mels it is for."""
        ...

    @property
    def context_frames(self) -> int:
        """Frames on either side that a hop of sound depends on; a chunk waits for those that follow it."""
        ...

    def __call__(self, mels: Tensor, lengths: Tensor) -> Tensor:
        """Returns samples (B, F * hop) of log mels (B, F, M) with `lengths` (B,) frames; zeros past a row's end."""
        ...

    def stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yields samples (S_i,) of one recording whose frames (F_i, M) still come; in all F * hop samples."""
        ...


@dataclass(frozen=True, eq=False)
class Window:
    """Frames of a stream: context that was spoken before, what is to be spoken now, context that follows.

    |  left  |  now: frames start .. |  right  |
    """

    mels: Tensor  # (left + now + right, M)
    start: int  # the stream's number of its first frame, context included
    left: int
    right: int

    def cut(self, samples: Tensor, hop_length: int) -> Tensor:
        """Returns what is to be spoken now of the samples (F * hop,) of all its frames."""
        return samples[self.left * hop_length : (len(self.mels) - self.right) * hop_length]


def windows(chunks: Iterable[Tensor], *, context: int, least: int = 1) -> Iterator[Window]:
    """Yields windows whose middles are the chunks' frames, each once and in order, with `context` on either side.

    Only at the ends of the stream there is less context. Chunks wait until there are `least` frames to speak.
    """
    held: Tensor | None = None
    start, spoken = 0, 0  # numbers of the first frame held, and of the first not yet spoken
    for chunk in chunks:
        held = chunk if held is None else torch.cat([held, chunk])
        ready = start + len(held) - context
        if ready >= spoken + least:
            yield Window(held, start, left=spoken - start, right=context)
            spoken = ready
            held, start = held[max(0, spoken - context - start) :], max(start, spoken - context)
    if held is not None and start + len(held) > spoken:
        yield Window(held, start, left=spoken - start, right=0)


@torch.no_grad()
def stream_windows(vocoder: Vocoder, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yields what `vocoder` makes of each window, without its context: for one that sees no further, the whole."""
    for window in windows(chunks, context=vocoder.context_frames):
        whole = vocoder(window.mels[None], torch.tensor([len(window.mels)], device=window.mels.device))
        yield window.cut(whole[0], vocoder.mel.hop_length)

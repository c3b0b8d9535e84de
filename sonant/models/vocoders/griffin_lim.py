"""Griffin-Lim: sound of log mels without any training, by going to and fro between spectra and sound.

log mels ─ exp ─ pseudo-inverse of the filters, clamped at 0 ─▶ magnitudes ─┐
phases: at first by chance ────────────────────────────────────────────────┴─▶ spectra ─▶ sound ─▶ FFT ─▶ phases ..
"""

from collections.abc import Iterable, Iterator
from functools import cached_property

import torch
from torch import Tensor

from sonant.audio.mel import MelSpec, Synthesis, filters_of, spectra
from sonant.models.vocoders.base import windows

_TINY = 1e-16


class GriffinLim:
    """Sound of log mels as of the `seed`: the same for the same mels, in a batch or alone.

    A stream is spoken in blocks of `block_frames` or more, with `context_frames` on either side. Phases of frames that
    an earlier block held start from where that left them, and blocks fade into each other over half the context, so
    that they agree at the seams. It differs from the whole, where every frame hears of every other.

    Source: Griffin and Lim 1984; momentum: Perraudin et al. 2013, as torchaudio has it (m / (1 + m) of what came
    before is taken away); settings: specs/spectron.md, section 5.
    """

    context_frames = 8

    def __init__(
        self,
        mel: MelSpec | None = None,
        *,
        iterations: int = 60,
        momentum: float = 0.99,
        seed: int = 0,
        block_frames: int = 24,
    ) -> None:
        self.mel = mel or MelSpec()
        self.iterations, self.momentum, self.seed, self.block_frames = iterations, momentum, seed, block_frames

    @torch.no_grad()
    def __call__(self, mels: Tensor, lengths: Tensor) -> Tensor:
        """Returns samples (B, F * hop) of log mels (B, F, M) with `lengths` (B,) frames; zeros past a row's end."""
        synthesis = Synthesis(lengths, mels.shape[1], self.mel)
        magnitudes = self._magnitudes(mels)
        return synthesis(magnitudes * self._phases(magnitudes, self._chance(0, mels.shape[1]), synthesis))

    @torch.no_grad()
    def stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yields samples (S_i,) of one recording whose frames (F_i, M) still come; in all F * hop samples."""
        hop = self.mel.hop_length
        spoken: Tensor | None = None  # what the block before made of the frames that come now
        known: Tensor | None = None  # its phases (F, K) of the frames that this one holds too
        for window in windows(chunks, context=self.context_frames, least=self.block_frames):
            num_frames = len(window.mels)
            synthesis = Synthesis(torch.tensor([num_frames], device=window.mels.device), num_frames, self.mel)
            magnitudes = self._magnitudes(window.mels[None])
            start = self._chance(window.start, num_frames)
            if known is not None:
                start[: len(known)] = known[:num_frames]
            phases = self._phases(magnitudes, start, synthesis)
            samples = synthesis(magnitudes * phases)[0]
            now = window.cut(samples, hop)
            spoken = now.new_zeros(0) if spoken is None else spoken
            fade = min(len(spoken), len(now), self.context_frames * hop // 2)
            share = torch.linspace(0, 1, fade + 2, device=now.device)[1:-1]
            yield torch.cat([(1 - share) * spoken[:fade] + share * now[:fade], now[fade:]])
            following = num_frames - window.right  # the next window starts `context_frames` before this
            spoken = samples[following * hop :]
            known = phases[0, max(0, following - self.context_frames) :]

    @cached_property
    def _inverse(self) -> Tensor:
        return torch.linalg.pinv(filters_of(self.mel).double()).float()  # (M, K)

    def _magnitudes(self, mels: Tensor) -> Tensor:
        return (mels.exp() @ self._inverse.to(mels)).clamp(min=0)

    def _chance(self, first: int, num_frames: int) -> Tensor:
        """Phases (F, K) of unit length for the frames from `first` on: a frame's are its own, whatever is around."""
        turns = [
            torch.rand(self.mel.fft_size // 2 + 1, generator=torch.Generator().manual_seed(self.seed * 1_000_003 + t))
            for t in range(first, first + num_frames)
        ]
        angles = 2 * torch.pi * torch.stack(turns)
        return torch.polar(torch.ones_like(angles), angles)

    def _phases(self, magnitudes: Tensor, start: Tensor, synthesis: Synthesis) -> Tensor:
        """Returns the phases (B, F, K) that fit the magnitudes (B, F, K) best."""
        share = self.momentum / (1 + self.momentum)
        phases = start.to(magnitudes.device).expand(magnitudes.shape)
        before = torch.zeros_like(phases)
        for _ in range(self.iterations):
            now = spectra(synthesis(magnitudes * phases), self.mel)
            phases = now - share * before
            phases = phases / (phases.abs() + _TINY)
            before = now
        return phases

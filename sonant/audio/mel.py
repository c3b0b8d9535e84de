"""What a voice is made of: samples <-> frames of log mels, one every hop, that a vocoder turns into sound again.

    samples  |---hop---|---hop---|---hop---|..      F = ceil(S / hop); zeros lie before, after and in the last hop
    frame 0  [....window around...]                 frame t is centred on its own hop, so frames of a part of a
    frame 1            [....window....]             recording, cut at hops, are that part of its frames

Encoders hear by `sonant.audio.features` instead, each as it was trained to.
"""

import functools
import math
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sonant.audio.features import htk_hz, htk_mel, slaney_hz, slaney_mel, triangles
from sonant.errors import ConfigError


@dataclass(frozen=True)
class MelSpec:
    """How samples become log mels: magnitudes (not powers), triangles of mels, natural logarithm.

    Source: the defaults are those of the best analysis measured for Griffin-Lim at 16 kHz (specs/spectron.md, 5).
    """

    sample_rate_hz: int = 16_000
    num_mels: int = 128
    window_length: int = 800  # samples
    hop_length: int = 200  # samples
    fft_size: int = 1024
    min_hz: float = 20.0
    max_hz: float = 8000.0
    floor: float = 1e-5  # magnitudes below it are raised to it
    scale: Literal["htk", "slaney"] = "htk"  # triangles of height 1 in HTK's mels, or of area 1 in Slaney's

    def __post_init__(self) -> None:
        if self.scale not in ("htk", "slaney"):
            raise ConfigError(f"mel spec: scale is {self.scale!r}; htk and slaney are allowed")
        for field in fields(self):
            if field.name not in ("scale", "min_hz") and (value := getattr(self, field.name)) <= 0:
                raise ConfigError(f"mel spec: {field.name} is {value}; a number above 0 is allowed")
        hop, window, fft = self.hop_length, self.window_length, self.fft_size
        if not hop <= window <= fft or (fft - hop) % 2:
            raise ConfigError(
                f"mel spec: hop_length {hop}, window_length {window}, fft_size {fft}; allowed is hop <= window <= FFT, "
                "hop and FFT both even or both odd"
            )
        if not 0 <= self.min_hz < self.max_hz <= self.sample_rate_hz / 2:
            raise ConfigError(
                f"mel spec: {self.min_hz:g} to {self.max_hz:g} Hz at a rate of {self.sample_rate_hz} Hz; "
                f"give 0 <= min_hz < max_hz <= {self.sample_rate_hz / 2:g}"
            )

    @property
    def frame_rate_hz(self) -> float:
        """Returns frames per second."""
        return self.sample_rate_hz / self.hop_length

    @property
    def log_floor(self) -> float:
        """Returns the log mel of silence, the lowest there is."""
        return math.log(self.floor)

    def unlike(self, other: "MelSpec") -> str:
        """Returns where the two differ, as "hop_length 200 against 256, ..."; empty if nowhere."""
        pairs = [(field.name, getattr(self, field.name), getattr(other, field.name)) for field in fields(self)]
        return ", ".join(f"{name} {mine} against {theirs}" for name, mine, theirs in pairs if mine != theirs)

    def num_frames(self, num_samples: int) -> int:
        """Returns F, the frames that `log_mel` makes of S samples: those of a last hop that is not full, too."""
        return -(-num_samples // self.hop_length)


def log_mel(samples: Tensor, spec: MelSpec) -> Tensor:
    """Returns natural log mels (..., F, M) of samples (..., S), F = ceil(S / hop); differentiable.

    Padding a row with zeros leaves its own frames as they are, but for those whose window reaches into it.
    """
    return mels_of(magnitudes(samples, spec), spec)


def mels_of(magnitude: Tensor, spec: MelSpec) -> Tensor:
    """Returns natural log mels (..., F, M) of magnitudes (..., F, fft_size // 2 + 1)."""
    filters = filters_of(spec).to(magnitude)
    return (magnitude @ filters).clamp(min=spec.floor).log()


def magnitudes(samples: Tensor, spec: MelSpec) -> Tensor:
    """Returns the magnitude spectrum of each frame: (..., F, fft_size // 2 + 1) of samples (..., S)."""
    return spectra(samples, spec).abs()


def spectra(samples: Tensor, spec: MelSpec) -> Tensor:
    """Returns the complex spectrum of each frame: (..., F, fft_size // 2 + 1) of samples (..., S)."""
    side = (spec.fft_size - spec.hop_length) // 2
    missing = spec.num_frames(samples.shape[-1]) * spec.hop_length - samples.shape[-1]
    padded = torch.nn.functional.pad(samples, (side, side + missing))
    if padded.shape[-1] < spec.fft_size:
        return padded.new_zeros(*samples.shape[:-1], 0, spec.fft_size // 2 + 1, dtype=torch.complex64)
    return torch.fft.rfft(padded.unfold(-1, spec.fft_size, spec.hop_length) * window_of(spec).to(padded))


def overlap_add(frames: Tensor, spec: MelSpec) -> Tensor:
    """Returns samples (B, F * hop): frames (B, F, fft_size) laid where `spectra` takes them from, and added up."""
    batch, num_frames, size = frames.shape
    hop = spec.hop_length
    num_hops = -(-size // hop)  # a frame cut into hops: laying it is adding that many rows of hops, each one further
    hops = torch.nn.functional.pad(frames, (0, num_hops * hop - size)).view(batch, num_frames, num_hops, hop)
    laid = frames.new_zeros(batch, num_frames + num_hops - 1, hop)
    for number in range(num_hops):
        laid[:, number : number + num_frames] += hops[:, :, number]
    side = (size - hop) // 2
    return laid.view(batch, -1)[:, side : side + num_frames * hop]


class Synthesis:
    """Samples of complex spectra (B, F, fft_size // 2 + 1): the inverse of `spectra` where there is one.

    Rows end after `lengths` (B,) frames: what follows is zero and counts for nothing, so a row equals itself alone.

    Source: Griffin and Lim 1984, equation 6 (least squares of the windowed frames).
    """

    def __init__(self, lengths: Tensor, num_frames: int, spec: MelSpec) -> None:
        self.spec = spec
        self.real = torch.arange(num_frames, device=lengths.device) < lengths[:, None]  # (B, F)
        self._window = window_of(spec).to(lengths.device)
        weight = overlap_add(self.real[..., None] * self._window.square(), spec)
        self._weight = self.real.repeat_interleave(spec.hop_length, dim=1) / weight.clamp(min=1e-3)

    def __call__(self, spectrum: Tensor) -> Tensor:
        """Returns samples (B, F * hop)."""
        frames = torch.fft.irfft(spectrum, n=self.spec.fft_size) * self._window
        return overlap_add(frames * self.real[..., None], self.spec) * self._weight


@functools.cache
def filters_of(spec: MelSpec) -> Tensor:
    """Returns the filters: (fft_size // 2 + 1, M) float32, triangles in Hz between edges even in mels."""
    bins_hz = np.linspace(0.0, spec.sample_rate_hz / 2, spec.fft_size // 2 + 1)
    to_mel, to_hz = (htk_mel, htk_hz) if spec.scale == "htk" else (slaney_mel, slaney_hz)
    edges = to_hz(np.linspace(to_mel(spec.min_hz), to_mel(spec.max_hz), spec.num_mels + 2))
    heights = 1.0 if spec.scale == "htk" else 2.0 / (edges[2:] - edges[:-2])
    return torch.from_numpy(triangles(bins_hz, edges) * heights).to(torch.float32)


@functools.cache
def window_of(spec: MelSpec) -> Tensor:
    """Returns the periodic Hann window in the middle of fft_size samples: (fft_size,) float32."""
    left = (spec.fft_size - spec.window_length) // 2
    window = torch.hann_window(spec.window_length)
    return torch.nn.functional.pad(window, (left, spec.fft_size - spec.window_length - left))

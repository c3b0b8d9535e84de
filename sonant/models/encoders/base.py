"""What every speech encoder promises, and the masks all of them use.

    features (A, F, M) or (A, S), lengths (A,)  ->  frames (A, T, dim)

T is the largest of `output_lengths(lengths)` or more; frames at or past a clip's output length are zeros, and a clip's
frames do not depend on the clips it shares a batch with.
"""

from typing import Any, Literal, Protocol, Self

import pydantic
import torch
from torch import Tensor

from sonant.audio.features import FeatureSpec
from sonant.config import Config

EncoderKind = Literal["tiny", "tiny_speaker", "whisper", "wavlm", "seamless", "parakeet", "wav2vec2_bert"]


class EncoderConfig(Config):
    """Which speech encoder: weights at `path`, or random weights from an `architecture`."""

    kind: EncoderKind
    path: str | None = None  # hub id, folder, or a part shipped with Sonant ("tiny/encoder")
    architecture: dict[str, Any] | None = None  # the keys of the encoder's config.json; random weights
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    num_layers: int | None = None  # keep the first layers only (and the final norm); None: all of them
    pad_to_30s: bool = False  # whisper only: encode 30 s however short the clip is, as its authors do
    weighted_states: bool = False  # wavlm only: the sum of all its states by trained `layer_weights`, not the last one
    length_adapter: bool = True  # seamless only: False ends at the last layer, 50 Hz, as SpeechMapper does
    average: int = pydantic.Field(default=1, gt=0)  # one frame is the mean of so many: a lower rate
    window_s: float | None = pydantic.Field(
        default=None, gt=0
    )  # longer clips in windows; None: only Whisper's, of 30 s
    overlap_s: float | None = pydantic.Field(default=None, ge=0)  # that neighbours share; None: a tenth of a window

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if (self.path is None) == (self.architecture is None):
            raise ValueError(f"encoder {self.kind}: give either `path` (weights) or `architecture` (random weights)")
        if self.pad_to_30s and self.kind != "whisper":
            raise ValueError(f"encoder {self.kind}: pad_to_30s is an option of whisper only; remove it")
        if self.weighted_states and self.kind != "wavlm":
            raise ValueError(f"encoder {self.kind}: weighted_states is an option of wavlm only; remove it")
        if not self.length_adapter and self.kind != "seamless":
            raise ValueError(f"encoder {self.kind}: length_adapter is an option of seamless only; remove it")
        if self.window_s is not None and self.window_s <= (self.overlap_s or 0):
            raise ValueError(
                f"encoder {self.kind}: windows of {self.window_s:g} s cannot share {self.overlap_s:g} s; "
                "give a longer window_s or a shorter overlap_s"
            )
        return self


class SpeechEncoder(Protocol):
    """An `nn.Module` that turns features of audio into frames; the only one to compute their number."""

    feature_spec: FeatureSpec  # the features it reads
    dim: int  # width of a frame
    frame_rate_hz: float  # frames a second
    architecture: dict[str, Any]  # EncoderConfig(kind=..., architecture=this) builds the same module

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Returns the number of frames (A,) int64 of clips with `lengths` (A,) feature frames or samples."""

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Returns frames (A, T, dim) of `features` (A, F, M) or (A, S) whose first `lengths` (A,) entries are real."""

    def __call__(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Returns `forward(features, lengths)`."""


def valid_mask(lengths: Tensor, size: int) -> Tensor:
    """Returns (A, size) bool: true at the first `lengths[a]` places of row a.

    lengths = [2, 3], size = 4  ->  x x . .
                                    x x x .
    """
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def zero_padding(frames: Tensor, lengths: Tensor) -> Tensor:
    """Returns `frames` (A, T, ...) with everything past `lengths` (A,) set to zero (NaN there as well)."""
    mask = valid_mask(lengths, frames.shape[1])
    return frames.masked_fill(~mask.view(*mask.shape, *[1] * (frames.dim() - 2)), 0)


def conv_lengths(lengths: Tensor, *, kernel: int, stride: int, padding: int = 0) -> Tensor:
    """Returns how many outputs (A,) a convolution over time gives for `lengths` (A,) inputs; never below zero."""
    return (torch.div(lengths + 2 * padding - kernel, stride, rounding_mode="floor") + 1).clamp(min=0)

"""The tiny speaker encoder: who speaks and how, in frames that lie beside those of the tiny encoder.

    log-mel (A, F, 80) ─ conv /2 ─ conv /2 ─ layer · context ─ layer · context ─ layer
                                      │              │                │            │      each normed: 4 states
                                      └──────────────┴──── sum_i w_i state_i ──────┴───> (A, T, dim)    25 Hz

Its mels keep what the tiny encoder's leave out: how loud a clip is, the mean spectrum of a voice, and (by a window of
64 ms) the pitch. What is said matters little to it.
"""

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from sonant.audio.features import FeatureSpec
from sonant.models.encoders.base import EncoderConfig, zero_padding
from sonant.models.encoders.tiny_trunk import TinyTrunk, TrunkShape, load_weights, read_shape
from sonant.models.encoders.weighted import layer_weights, weighted_sum


class TinySpeakerArchitecture(TrunkShape):
    """The shape of a tiny speaker encoder; what stands in its config.json."""

    dim: int = Field(default=96, gt=0)
    num_layers: int = Field(default=3, gt=0)
    feed_forward_dim: int = Field(default=192, gt=0)


class TinySpeakerEncoder(TinyTrunk):
    """Frames at 25 Hz, as many as the tiny encoder's: ceil(ceil(F / 2) / 2) for a clip of F mel frames.

    The mean of any second of frames tells voices apart by cosine; a linear map of the mean over a clip tells manners,
    and whether the voice changed. `layer_weights` are the logits of the sum, zero as shipped; a recipe may train them
    alone (`encoders.1.layer_weights` in a freeze plan).

    Source: layers: see `tiny_trunk`; the context is the pooling of Desplanques et al. 2020 (ECAPA-TDNN), mean and
    deviation over the clip, given back to every frame; weighted sum: see `weighted`.
    """

    model_type = "sonant_tiny_speaker_encoder"

    def __init__(self, config: EncoderConfig) -> None:
        shape, spec = read_shape(config, TinySpeakerArchitecture, model_type=self.model_type, spec=speaker_features())
        super().__init__(shape, spec)
        self.contexts = nn.ModuleList(_Context(shape.dim) for _ in range(shape.num_layers - 1))
        self.norms = nn.ModuleList(nn.LayerNorm(shape.dim) for _ in range(shape.num_layers + 1))
        self.layer_weights = layer_weights(shape.num_layers + 1)
        load_weights(self, config)
        self.to(getattr(torch, config.dtype))

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Returns frames (A, T, dim) of log-mel `features` (A, F, M) with `lengths` (A,)."""
        # Decades above silence, which is then zero, as padding is: learning is twice as fast from there.
        decades = features - math.log10(self.feature_spec.log_floor)
        states = [norm(state) for norm, state in zip(self.norms, self.states(decades, lengths), strict=True)]
        return zero_padding(weighted_sum(states, self.layer_weights), self.output_lengths(lengths))

    def after_layer(self, number: int, hidden: Tensor, mask: Tensor) -> Tensor:
        """Returns `hidden` (A, T, dim) with the clip's context in every frame; the last layer has none."""
        return self.contexts[number](hidden, mask) if number < len(self.contexts) else hidden


class _Context(nn.Module):
    """Adds to every frame what mean and deviation over the clip say: how a voice moves, and whether it changes."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.inner = nn.Linear(dim, dim // 2)
        self.outer = nn.Linear(2 * (dim // 2), dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x: (A, T, dim); mask: (A, T) true where real."""
        real = mask[..., None]
        count = real.sum(1).clamp(min=1)
        inner = self.inner(self.norm(x)).masked_fill(~real, 0)
        mean = inner.sum(1) / count
        variance = ((inner - mean[:, None]).square() * real).sum(1) / count
        # The epsilon keeps the slope of the root finite where a clip is one frame long.
        return x + self.outer(torch.cat([mean, (variance + 1e-5).sqrt()], dim=-1))[:, None]


def speaker_features() -> FeatureSpec:
    """Returns the features of the tiny speaker encoder: 80 mels every 10 ms of 64 ms each, not normalised by clip.

    The floor lies some 50 dB below speech, so that silence of every kind is alike.
    """
    return FeatureSpec("log_mel", n_fft=1024, window_length=1024, framing="zeros", log_floor=1e-3, pad_short=True)

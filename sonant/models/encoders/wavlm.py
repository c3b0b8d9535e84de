"""WavLM over raw samples."""

import threading
import warnings

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from sonant.audio.features import FeatureSpec
from sonant.errors import ModelError
from sonant.models.encoders.base import EncoderConfig, conv_lengths, valid_mask, zero_padding
from sonant.models.encoders.weighted import layer_weights, weighted_sum
from sonant.models.parts import PartClass, architecture_of, load_part

_PART = PartClass(
    model_class=transformers.WavLMModel,
    model_types=("wavlm",),
    layers_key="num_hidden_layers",
    # Masks drawn from numpy's global state would make resumed runs differ; an unused mask vector stops DDP.
    fixed={"layerdrop": 0.0, "apply_spec_augment": False, "mask_time_prob": 0.0, "mask_feature_prob": 0.0},
)

_FILTERS = threading.Lock()
_MISMATCH = "Support for mismatched key_padding_mask"


def quiet_masks() -> None:
    """Silences one warning of torch for good: transformers gives it a float bias beside a bool mask; both are right.

    `warnings.catch_warnings` would put back, in one thread, the filters of a moment ago of all others.
    """
    with _FILTERS:
        if not any(_MISMATCH in str(pattern) for _, pattern, *_ in warnings.filters):
            warnings.filterwarnings("ignore", message=_MISMATCH)


class WavLMEncoder(nn.Module):
    """Frames of WavLM at 50 Hz; a clip shorter than one frame (400 samples, 25 ms) has none.

    Models whose first layer normalises over time ("group", the base ones) take the mean and variance over the clip's
    own samples, never over padding. Models with layer norm (the large ones) read samples of zero mean, unit variance.
    With `weighted_states` frames are the layer-weighted sum of what the first layer reads and all layers give.
    Source: Chen et al. 2022, through transformers' `WavLMModel`; equal to it on one clip without padding.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.model = load_part(
            _PART,
            path=config.path,
            architecture=config.architecture,
            dtype=config.dtype,
            num_layers=config.num_layers,
        )
        settings = self.model.config
        self.layer_weights = layer_weights(settings.num_hidden_layers + 1) if config.weighted_states else None
        if settings.add_adapter:
            raise ModelError("wavlm: add_adapter=true is not supported; choose a checkpoint without it")
        self.architecture = architecture_of(settings)
        self.feature_spec = FeatureSpec.waveform(normalize=settings.feat_extract_norm == "layer")
        self.dim: int = settings.hidden_size
        self.convolutions = tuple(zip(settings.conv_kernel, settings.conv_stride, strict=True))
        hop_length, self.min_samples = 1, 1
        for kernel, stride in reversed(self.convolutions):
            self.min_samples = (self.min_samples - 1) * stride + kernel
            hop_length *= stride
        self.frame_rate_hz = self.feature_spec.frame_rate_hz / hop_length

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Returns the frames (A,) of clips of `lengths` (A,) samples: seven convolutions without padding."""
        for kernel, stride in self.convolutions:
            lengths = conv_lengths(lengths, kernel=kernel, stride=stride)
        return lengths

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Returns frames (A, T, dim) of samples (A, S) with `lengths` (A,)."""
        samples = features.to(self.model.dtype)
        samples = F.pad(samples, (0, max(0, self.min_samples - samples.shape[1])))
        hidden = self._convolve(zero_padding(samples, lengths), lengths)
        hidden, _ = self.model.feature_projection(hidden)  # (A, T, dim)
        output_lengths = self.output_lengths(lengths)
        mask = valid_mask(output_lengths.clamp(min=1), hidden.shape[1])
        quiet_masks()
        if self.layer_weights is None:
            read = self.model.encoder(hidden, attention_mask=mask).last_hidden_state
        else:
            read = weighted_sum(self._states(hidden, mask), self.layer_weights)
        return zero_padding(read, output_lengths)

    def _states(self, hidden: Tensor, mask: Tensor) -> list[Tensor]:
        """What the first layer reads and what every layer gives, (A, T, dim) each; the last one as frames else are.

        transformers' own loop, which keeps no states (its recorder sits above the part that is replaced here).
        """
        encoder, norm_first = self.model.encoder, not self.model.config.do_stable_layer_norm
        hidden = hidden.masked_fill(~mask[..., None], 0)
        hidden = hidden + encoder.pos_conv_embed(hidden)
        hidden = encoder.dropout(encoder.layer_norm(hidden) if norm_first else hidden)
        states, bias = [hidden], None
        for index, layer in enumerate(encoder.layers):
            hidden, bias = layer(hidden, attention_mask=mask, position_bias=bias, index=index)
            states.append(hidden)
        return states if norm_first else [*states[:-1], encoder.layer_norm(states[-1])]

    def _convolve(self, samples: Tensor, lengths: Tensor) -> Tensor:
        """(A, S) -> (A, T, C): transformers' feature extractor, but for the norm over time, which skips padding."""
        hidden = samples[:, None]
        for layer, (kernel, stride) in zip(self.model.feature_extractor.conv_layers, self.convolutions, strict=True):
            norm = getattr(layer, "layer_norm", None)
            lengths = conv_lengths(lengths, kernel=kernel, stride=stride)
            if isinstance(norm, nn.GroupNorm):
                hidden = layer.activation(_norm_over_time(layer.conv(hidden), norm, lengths))
            else:
                hidden = layer(hidden)
        return hidden.transpose(1, 2)


def _norm_over_time(hidden: Tensor, norm: nn.GroupNorm, lengths: Tensor) -> Tensor:
    """Returns `norm` of (A, C, T) with one group a channel, its statistics over the first `lengths` (A,) places.

    In float32, whatever the model is in: 20 s of squares are more than a float16 holds.
    """
    mask = valid_mask(lengths, hidden.shape[2])[:, None]
    count = lengths.clamp(min=1)[:, None, None]
    exact = hidden.float()
    mean = (exact * mask).sum(dim=2, keepdim=True) / count
    variance = ((exact - mean).square() * mask).sum(dim=2, keepdim=True) / count
    normed = ((exact - mean) * torch.rsqrt(variance + norm.eps)).to(hidden.dtype)
    return normed * norm.weight[:, None] + norm.bias[:, None]

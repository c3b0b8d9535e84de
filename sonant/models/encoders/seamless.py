"""The speech encoder of SeamlessM4T v2 (w2v-BERT 2.0 with a length adapter)."""

from typing import Any

import transformers
from torch import Tensor, nn

from sonant.audio.features import FeatureSpec
from sonant.models.encoders.base import EncoderConfig, conv_lengths, valid_mask, zero_padding
from sonant.models.parts import PartClass, architecture_of, load_part

_PART = PartClass(
    model_class=transformers.models.seamless_m4t_v2.modeling_seamless_m4t_v2.SeamlessM4Tv2SpeechEncoder,
    model_types=("seamless_m4t_v2",),
    layers_key="speech_encoder_layers",
    fixed={"speech_encoder_layerdrop": 0.0},
    key_mapping={r"^speech_encoder\.": ""},
)


class SeamlessEncoder(nn.Module):
    """Frames of SeamlessM4T v2's speech encoder: 50 Hz mel pairs in, 6.25 Hz out with the published length adapter.

    With `length_adapter` off, the last layer's states at 50 Hz: all that comes behind is left out.

    Source: Seamless Communication 2023, through transformers' `SeamlessM4Tv2SpeechEncoder`; equal to it on one clip.
    Differs from it in a batch: its adapter's convolution reads padded frames at the end of shorter clips, ours zeros.
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
        if not config.length_adapter:
            self.model.intermediate_ffn = self.model.adapter = self.model.inner_layer_norm = None
        settings = self.model.config
        self.architecture = architecture_of(settings)
        self.feature_spec = FeatureSpec.seamless()
        self.dim: int = settings.hidden_size
        self.frame_rate_hz = self.feature_spec.frame_rate_hz  # 50 Hz
        for layer in self._adapter_layers():
            self.frame_rate_hz /= layer.stride

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Returns the frames (A,) of clips of `lengths` (A,) feature frames: n // 8 + 1 with the published adapter."""
        for layer in self._adapter_layers():
            lengths = length_adapter_lengths(layer, lengths)
        return lengths

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Returns frames (A, T, dim) of stacked log-mels (A, F, 160) with `lengths` (A,)."""
        model = self.model
        hidden = model.feature_projection(zero_padding(features, lengths).to(model.dtype))
        mask = valid_mask(lengths.clamp(min=1), hidden.shape[1])
        hidden = model.encoder(hidden, attention_mask=mask)
        if model.intermediate_ffn is None:
            return zero_padding(hidden, lengths)
        hidden = hidden + 0.5 * model.intermediate_ffn(hidden)
        for layer in self._adapter_layers():
            hidden, lengths = run_length_adapter(layer, hidden, lengths)
        return zero_padding(model.inner_layer_norm(hidden), lengths)

    def _adapter_layers(self) -> list[Any]:
        return list(self.model.adapter.layers) if self.model.adapter is not None else []


def length_adapter_lengths(layer: Any, lengths: Tensor) -> Tensor:
    """Returns the frames (A,) that one length adapter layer makes of `lengths` (A,); a clip without frames has none."""
    outputs = conv_lengths(lengths, kernel=layer.kernel_size, stride=layer.stride, padding=layer.stride // 2)
    return outputs * (lengths > 0)


def run_length_adapter(layer: Any, hidden: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Returns transformers' adapter `layer` over `hidden` (A, T, D) as (A, T', D), and the new lengths (A,).

    Both strided convolutions see zeros past a clip's end, as they do when the clip is alone.
    """
    residual = zero_padding(layer.residual_layer_norm(hidden), lengths).transpose(1, 2)
    residual = layer.activation(layer.residual_conv(residual)).transpose(1, 2)
    hidden = zero_padding(layer.self_attn_layer_norm(hidden), lengths).transpose(1, 2)
    hidden = layer.activation(layer.self_attn_conv(hidden)).transpose(1, 2)
    lengths = length_adapter_lengths(layer, lengths)
    mask = valid_mask(lengths.clamp(min=1), hidden.shape[1])[:, None, None]
    hidden, _ = layer.self_attn(hidden, attention_mask=(~mask).to(hidden.dtype) * -1e4)
    hidden = layer.self_attn_dropout(hidden) + residual
    return hidden + layer.ffn(layer.ffn_layer_norm(hidden)), lengths

"""Wav2Vec2-BERT (w2v-BERT 2.0)."""

from typing import Any

import transformers
from torch import Tensor, nn

from sonant.audio.features import FeatureSpec
from sonant.models.encoders.base import EncoderConfig, valid_mask, zero_padding
from sonant.models.encoders.seamless import length_adapter_lengths, run_length_adapter
from sonant.models.parts import PartClass, architecture_of, load_part

_PART = PartClass(
    model_class=transformers.Wav2Vec2BertModel,
    model_types=("wav2vec2-bert",),
    layers_key="num_hidden_layers",
    # As for WavLM: no masks from numpy's global state, no parameter without a gradient.
    fixed={"layerdrop": 0.0, "apply_spec_augment": False, "mask_time_prob": 0.0, "mask_feature_prob": 0.0},
)


class Wav2Vec2BertEncoder(nn.Module):
    """Frames of Wav2Vec2-BERT at 50 Hz, slower by its length adapter where a checkpoint has one.

    Source: Seamless Communication 2023, through transformers' `Wav2Vec2BertModel`; equal to it on one clip.
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
        self.architecture = architecture_of(settings)
        self.feature_spec = FeatureSpec.seamless()
        self.dim: int = settings.output_hidden_size if settings.add_adapter else settings.hidden_size
        self.frame_rate_hz = self.feature_spec.frame_rate_hz  # 50 Hz
        for layer in self._adapter_layers():
            self.frame_rate_hz /= layer.stride

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Returns the frames (A,) of clips of `lengths` (A,) feature frames: as many, but for a length adapter."""
        for layer in self._adapter_layers():
            lengths = length_adapter_lengths(layer, lengths)
        return lengths

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Returns frames (A, T, dim) of stacked log-mels (A, F, 160) with `lengths` (A,)."""
        model = self.model
        hidden, _ = model.feature_projection(zero_padding(features, lengths).to(model.dtype))
        mask = valid_mask(lengths.clamp(min=1), hidden.shape[1])
        hidden = model.encoder(hidden, attention_mask=mask).last_hidden_state
        if model.intermediate_ffn is not None:
            hidden = hidden + 0.5 * model.intermediate_ffn(hidden)
        if model.adapter is not None and model.adapter.proj is not None:
            hidden = model.adapter.proj_layer_norm(model.adapter.proj(hidden))
        for layer in self._adapter_layers():
            hidden, lengths = run_length_adapter(layer, hidden, lengths)
        return zero_padding(hidden, lengths)

    def _adapter_layers(self) -> list[Any]:
        return list(self.model.adapter.layers) if self.model.adapter is not None else []

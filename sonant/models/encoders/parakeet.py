"""Parakeet's FastConformer encoder (NeMo's, as transformers writes it)."""

import math
from typing import Self

import transformers
from torch import Tensor, nn

from sonant.audio.features import FeatureSpec
from sonant.models.encoders.base import EncoderConfig, conv_lengths
from sonant.models.encoders.fast_conformer import encode, pack_blocks
from sonant.models.parts import PartClass, architecture_of, load_part

_PART = PartClass(
    model_class=transformers.ParakeetEncoder,
    model_types=("parakeet_encoder", "parakeet_ctc", "parakeet_tdt", "parakeet_rnnt"),
    layers_key="num_hidden_layers",
    fixed={"layerdrop": 0.0},
    nested_key="encoder_config",
    key_mapping={r"^encoder\.": ""},
)


class ParakeetEncoder(nn.Module):
    """Frames of a FastConformer at 12.5 Hz: mel frames of 10 ms, one in eight.

    Its batch norm always uses its running statistics, in training too: a clip's frames then never depend on the
    clips it shares a batch with, and one step on two ranks equals one step on one. Differs from NeMo in that.
    Source: Rekesh et al. 2023, with the modules of transformers' `ParakeetEncoder`; equal to it on one clip.
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
        pack_blocks(self.model)
        settings = self.model.config
        self.architecture = architecture_of(settings)
        self.feature_spec = FeatureSpec.parakeet(num_mels=settings.num_mel_bins)
        self.dim: int = settings.hidden_size
        self.num_halvings = int(math.log2(settings.subsampling_factor))
        self.kernel: int = settings.subsampling_conv_kernel_size
        self.stride: int = settings.subsampling_conv_stride
        self.frame_rate_hz = self.feature_spec.frame_rate_hz / self.stride**self.num_halvings
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Returns itself in training or evaluation mode, the batch norms always in evaluation mode."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.eval()
        return self

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Returns the frames (A,) of clips of `lengths` (A,) mel frames: ceil(n / 8) for the published factor."""
        for _ in range(self.num_halvings):
            lengths = conv_lengths(lengths, kernel=self.kernel, stride=self.stride, padding=(self.kernel - 1) // 2)
        return lengths

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Returns frames (A, T, dim) of log-mels (A, F, M) with `lengths` (A,)."""
        return encode(self.model, features.to(self.model.dtype), lengths)

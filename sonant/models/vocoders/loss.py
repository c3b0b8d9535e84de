"""What a vocoder is taught by: log mels of its sound and of the true one, by windows of several lengths.

    samples ── log_mel ─ worse on purpose ─▶ vocoder ─▶ sound ─ log_mel x 4 ─┐
       └───────────────────────────────────────────────────── log_mel x 4 ─┴─▶ mean of |difference|

A long window sees pitch, a short one when a pulse or a burst comes. Mels made worse (blurred in time and across mels,
noisy) are what a voice predicts; the sound is to be that of the true ones.
"""

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor, nn

from sonant.audio.features import FeatureSpec
from sonant.audio.mel import MelSpec, log_mel
from sonant.batch import Batch
from sonant.config import Config
from sonant.models.losses import LossOutput, unwrap
from sonant.models.vocoders.vocos import Vocos

SAMPLES = FeatureSpec.waveform(normalize=False)


class VocoderLossConfig(Config):
    """How the windows are weighted, and how much worse than true mels those may be that the vocoder gets."""

    long: float = Field(default=0.25, ge=0)
    own: float = Field(default=1.0, ge=0)
    short: float = Field(default=0.5, ge=0)
    shortest: float = Field(default=0.25, ge=0)
    worse_probability: float = Field(default=0.5, ge=0, le=1)
    blur: float = Field(default=0.3, ge=0, le=0.33)  # weight of either neighbour, at most
    noise: float = Field(default=0.3, ge=0)  # deviation in log units, at most


class VocoderLoss:
    """Sums over the frames of a batch's recordings (kind "waveform"); the weight is their number. Chance is torch's."""

    def __init__(self, mel: MelSpec, config: VocoderLossConfig) -> None:
        self.mel, self.config = mel, config
        # A hundredth of speech is quiet enough where no voice is to be built of it.
        self.specs = {
            "own": mel,
            "long": replace(mel, window_length=1600, hop_length=400, fft_size=2048, floor=1e-3),
            "short": replace(mel, num_mels=64, window_length=400, hop_length=100, fft_size=512, floor=1e-3),
            "shortest": replace(mel, num_mels=32, window_length=200, hop_length=50, fft_size=256, floor=1e-3),
        }

    def weight(self, batch: Batch) -> float:
        """Returns the number of frames."""
        return float(self._lengths(batch).sum())

    def __call__(self, model: nn.Module, batch: Batch) -> LossOutput:
        """Returns the weighted sum; each window's mean difference is reported apart."""
        vocoder = unwrap(model)
        assert isinstance(vocoder, Vocos)
        samples, sizes, lengths = batch.features[SAMPLES], batch.feature_lengths[SAMPLES], self._lengths(batch)
        true = log_mel(samples, self.mel)
        sound = model(self._worse(true), lengths)
        weight, total, parts = self.weight(batch), samples.new_zeros(()), {}
        for name, spec in self.specs.items():
            truth = true if spec == self.mel else log_mel(samples, spec)
            gaps = (log_mel(sound, spec)[:, : truth.shape[1]] - truth).abs().mean(-1)  # (B, F)
            own = torch.arange(gaps.shape[1], device=gaps.device) * spec.hop_length < sizes[:, None]
            gap = (gaps * own).sum() * (spec.hop_length / self.mel.hop_length)
            total = total + getattr(self.config, name) * gap
            parts[name] = (gap.detach(), weight)
        return LossOutput(total, weight, parts)

    def _lengths(self, batch: Batch) -> Tensor:
        num_samples = batch.feature_lengths[SAMPLES]
        return -(-num_samples // self.mel.hop_length)

    def _worse(self, mels: Tensor) -> Tensor:
        """Returns the mels (B, F, M), some rows of them blurred and noisy."""
        config, num = self.config, len(mels)

        def drawn(most: float) -> Tensor:
            chosen = torch.rand(num, 1, 1) < config.worse_probability
            return (most * torch.rand(num, 1, 1) * chosen).to(mels.device)

        for dim in (1, 2):
            share = drawn(config.blur)
            mels = (1 - 2 * share) * mels + share * (_shifted(mels, dim, 1) + _shifted(mels, dim, -1))
        return mels + drawn(config.noise) * torch.randn(mels.shape).to(mels.device)


def _shifted(values: Tensor, dim: int, by: int) -> Tensor:
    """The neighbours along `dim`; the end is its own."""
    places = (torch.arange(values.shape[dim], device=values.device) + by).clamp(0, values.shape[dim] - 1)
    return values.index_select(dim, places)

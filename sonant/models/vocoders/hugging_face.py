"""Vocoders of transformers from a folder: SpeechT5HifiGan (HiFi-GAN) and UnivNetModel.

Which mels they are for, the folder says: a `mel.json` with the values of a `MelSpec` where they were trained on ours,
else `preprocessor_config.json`, else what the model's feature extractor does by itself.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from sonant.audio.mel import MelSpec
from sonant.config import Config, validate
from sonant.errors import ModelError
from sonant.models.parts import PartClass, load_part
from sonant.models.vocoders.base import windows


@dataclass(frozen=True)
class Taste:
    """What a vocoder is fed: mels, then `slope` x log mel + `offset` (log10, or a range)."""

    mel: MelSpec
    slope: float = 1.0
    offset: float = 0.0


class _MelFile(Config):
    mel: MelSpec


class HuggingFaceVocoder:
    """A vocoder of transformers. Rows are spoken one by one, as its convolutions would hear the padding.

    UnivNet's noise is a function of the `seed` and a frame's number, so a stream equals the whole.
    """

    def __init__(self, model: transformers.PreTrainedModel, taste: Taste, *, where: str, seed: int = 0) -> None:
        self.model, self.mel, self.seed = model.eval(), taste.mel, seed
        self._taste = taste
        self._noisy = isinstance(model, transformers.UnivNetModel)
        config = model.config
        made = math.prod(config.resblock_stride_sizes if self._noisy else config.upsample_rates)
        mels = config.num_mel_bins if self._noisy else config.model_in_dim
        if (made, mels) != (self.mel.hop_length, self.mel.num_mels):
            raise ModelError(
                f"{where}: its net makes {made} samples of {mels} mels, its mel settings say hop_length "
                f"{self.mel.hop_length} and num_mels {self.mel.num_mels}; correct mel.json or preprocessor_config.json"
            )
        self.context_frames = _univnet_context(config) if self._noisy else _hifigan_context(config)

    def to(self, device: torch.device | str) -> "HuggingFaceVocoder":
        """Returns itself, its net on `device`."""
        self.model.to(device)
        return self

    def __call__(self, mels: Tensor, lengths: Tensor) -> Tensor:
        """Returns samples (B, F * hop) of log mels (B, F, M) with `lengths` (B,) frames; zeros past a row's end."""
        samples = mels.new_zeros(len(mels), mels.shape[1] * self.mel.hop_length)
        for row, length in enumerate(lengths.tolist()):
            if length:
                samples[row, : length * self.mel.hop_length] = self._sound(mels[row, :length], first=0)
        return samples

    def stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yields samples (S_i,) of one recording whose frames (F_i, M) still come: the same as of the whole."""
        for window in windows(chunks, context=self.context_frames):
            yield window.cut(self._sound(window.mels, first=window.start), self.mel.hop_length)

    @torch.no_grad()
    def _sound(self, mels: Tensor, *, first: int) -> Tensor:
        """Samples (F * hop,) of one row (F, M), whose first frame is number `first` of the recording."""
        fed = self._taste.slope * mels + self._taste.offset
        if not self._noisy:
            return torch.as_tensor(self.model(fed[None])[0])
        num_frames = len(fed)
        if num_frames < (least := 4):  # its first convolution mirrors three frames
            quiet = self._taste.slope * self.mel.log_floor + self._taste.offset
            fed = torch.nn.functional.pad(fed, (0, 0, 0, least - num_frames), value=quiet)
        channels = self.model.config.model_in_channels
        noise = [
            torch.randn(channels, generator=torch.Generator().manual_seed(self.seed * 1_000_003 + t))
            for t in range(first, first + len(fed))
        ]
        sound = self.model(fed[None], noise_sequence=torch.stack(noise)[None].to(fed.device)).waveforms[0]
        return torch.as_tensor(sound[: num_frames * self.mel.hop_length])


def load_hugging_face(path: str, *, model_type: str) -> HuggingFaceVocoder:
    """Returns the vocoder in a folder or of a hub id. Raises: ModelError for weights or settings that do not fit."""
    model_class, tasting = _KINDS[model_type]
    part = PartClass(model_class=model_class, model_types=(model_type,), layers_key="")
    model = load_part(part, path=path, architecture=None, dtype="float32", num_layers=None)
    folder = Path(path)
    said = next((f for f in (folder / "mel.json", folder / "preprocessor_config.json") if f.is_file()), None)
    try:
        values = json.loads(said.read_text(encoding="utf-8")) if said is not None else {}
        if said is not None and said.name == "mel.json":
            taste = Taste(validate(_MelFile, {"mel": values}, where=f"{folder}/mel.json").mel)
        else:
            taste = tasting(values)
    except (ValueError, TypeError) as error:
        raise ModelError(f"{said or path}: says no mels that can be made ({error}); write it again") from None
    return HuggingFaceVocoder(model, taste, where=path)


def speecht5_taste(values: dict[str, Any]) -> Taste:
    """Returns what SpeechT5's vocoder is fed: log10. Its frames lie half a hop earlier than ours, as does the sound."""
    ears = transformers.SpeechT5FeatureExtractor(**values)
    mel = MelSpec(
        sample_rate_hz=ears.sampling_rate,
        num_mels=ears.num_mel_bins,
        window_length=ears.sample_size,
        hop_length=ears.sample_stride,
        fft_size=ears.n_fft,
        min_hz=float(ears.fmin),
        max_hz=float(ears.fmax),
        floor=ears.mel_floor,
        scale="slaney",
    )
    return Taste(mel, slope=1 / math.log(10))


def univnet_taste(values: dict[str, Any]) -> Taste:
    """Returns what UnivNet is fed: natural logarithms, brought to [-1, 1] if its feature extractor does so."""
    ears = transformers.UnivNetFeatureExtractor(**values)
    mel = MelSpec(
        sample_rate_hz=ears.sampling_rate,
        num_mels=ears.num_mel_bins,
        window_length=ears.win_length,
        hop_length=ears.hop_length,
        fft_size=ears.n_fft,
        min_hz=float(ears.fmin),
        max_hz=float(ears.fmax),
        floor=ears.compression_clip_val,
        scale="slaney",
    )
    loudness = math.log(ears.compression_factor)
    if not ears.do_normalize:
        return Taste(mel, offset=loudness)
    slope = 2 / (ears.normalize_max - ears.normalize_min)
    return Taste(mel, slope=slope, offset=slope * (loudness - ears.normalize_min) - 1)


_KINDS: dict[str, tuple[Any, Callable[[dict[str, Any]], Taste]]] = {
    "speecht5_hifigan": (transformers.SpeechT5HifiGan, speecht5_taste),
    "hifigan": (transformers.SpeechT5HifiGan, speecht5_taste),  # as older folders call it
    "univnet": (transformers.UnivNetModel, univnet_taste),
}
MODEL_TYPES = tuple(_KINDS)


def _hifigan_context(config: Any) -> int:
    """Frames on either side: every layer's reach in samples of its rate, divided by that rate."""
    widest = max(
        sum((kernel - 1) // 2 * (dilation + 1) for dilation in dilations)
        for kernel, dilations in zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True)
    )
    return _reach(3, config.upsample_rates, config.upsample_kernel_sizes, [widest] * len(config.upsample_rates))


def _univnet_context(config: Any) -> int:
    reach = (config.kernel_predictor_conv_size - 1) // 2
    predictor = 2 + (2 * config.kernel_predictor_num_blocks + 1) * reach
    strides = config.resblock_stride_sizes
    widths = [
        sum((dilation + 1) * (kernel - 1) // 2 + 1 for dilation in dilations)
        for kernel, dilations in zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True)
    ]
    # A kernel counts for all samples of its frame.
    return _reach(3, strides, [2 * stride for stride in strides], widths) + predictor + 1


def _reach(first: int, rates: Sequence[int], kernels: Sequence[int], widths: Sequence[int]) -> int:
    total, rate = Fraction(first), 1
    for stride, kernel, width in zip(rates, kernels, widths, strict=True):
        total += Fraction(-(-kernel // stride), rate)
        rate *= stride
        total += Fraction(width, rate)
    return math.ceil(total + Fraction(3, rate))

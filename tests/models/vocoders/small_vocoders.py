"""Clips and tiny vocoders for tests."""

import json
from pathlib import Path

import torch
from torch import Tensor
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig, UnivNetConfig, UnivNetModel

from sonant.audio.mel import MelSpec
from sonant.models.vocoders.vocos import Vocos, VocosConfig

SMALL = MelSpec(num_mels=32)


def buzz(seconds: float = 0.8, *, pitch_hz: float = 140.0) -> Tensor:
    """A gliding buzz of twenty harmonics (S,) with a pause in it."""
    times = torch.arange(int(16_000 * seconds)) / 16_000
    phase = 2 * torch.pi * (pitch_hz * times + 30 * times**2)
    sound = torch.stack([torch.sin(k * phase) / k for k in range(1, 21)]).sum(0)
    return 0.05 * sound * ((times % 0.5) < 0.4)


def small_vocos(*, steps: int = 2) -> Vocos:
    """Random weights on small mels."""
    torch.manual_seed(0)
    config = VocosConfig(mel=SMALL, dim=16, num_layers=2, hidden_dim=24, kernel_size=5, steps=steps)
    return Vocos(config).eval()


def hifigan_folder(folder: Path, *, mel: MelSpec | None) -> Path:
    """A random SpeechT5HifiGan, hop 200 of 32 mels, with the mels it says it is for."""
    torch.manual_seed(0)
    config = SpeechT5HifiGanConfig(
        model_in_dim=32,
        upsample_initial_channel=16,
        upsample_rates=[5, 5, 8],
        upsample_kernel_sizes=[11, 11, 16],
        resblock_kernel_sizes=[3, 7],
        resblock_dilation_sizes=[[1, 3], [1, 3]],
        initializer_range=0.2,
    )
    SpeechT5HifiGan(config).save_pretrained(folder)
    return _with_mel(folder, mel)


def univnet_folder(folder: Path, *, mel: MelSpec | None) -> Path:
    """A random UnivNetModel, hop 200 of 32 mels, with the mels it says it is for."""
    torch.manual_seed(0)
    config = UnivNetConfig(
        model_in_channels=8,
        model_hidden_channels=8,
        num_mel_bins=32,
        resblock_kernel_sizes=[3, 3],
        resblock_stride_sizes=[20, 10],
        resblock_dilation_sizes=[[1, 3], [1, 9]],
        kernel_predictor_num_blocks=1,
        kernel_predictor_hidden_channels=8,
        initializer_range=0.3,
    )
    UnivNetModel(config).save_pretrained(folder)
    return _with_mel(folder, mel)


def _with_mel(folder: Path, mel: MelSpec | None) -> Path:
    if mel is not None:
        values = {name: getattr(mel, name) for name in ("num_mels", "window_length", "hop_length", "fft_size")}
        (folder / "mel.json").write_text(json.dumps(values))
    return folder

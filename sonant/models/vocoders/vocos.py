"""A small neural vocoder: a convolutional net writes spectra, a few steps make them fit each other and the mels.

    log mels (B, F, M) ─ conv ─ [ depthwise conv · norm · wide · narrow ] x N ─┬─▶ magnitudes, phases ─▶ spectra
                                                                               └─▶ mels, sharpened
    spectra ─ inverse FFT, overlap, add ─▶ sound ─ FFT ─▶ phases: those of the sound, magnitudes: scaled to the mels
       ▲                                                                                                    │
       └──────────────────────────────────────────── x steps ──────────────────────────────────────────────┘

Everything is a function of `context_frames` on either side, and beyond the ends lies silence: a chunk with its context,
a row of a batch and the whole give the same samples.

Source: Vocos (Siuzdak 2023) for net and inverse FFT; without its discriminators. The steps are ours: Griffin and Lim's
with momentum (Perraudin et al. 2013), but scaling by mels instead of to fixed magnitudes, and learnt through.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

import safetensors.torch
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sonant.audio.mel import MelSpec, Synthesis, filters_of, mels_of, spectra
from sonant.config import Config, validate
from sonant.errors import ModelError
from sonant.models.vocoders.base import stream_windows

MODEL_TYPE = "sonant_vocos"
_MOST = 6.0  # log units by which one step scales a magnitude at most


class VocosConfig(Config):
    """The shape of the net; what stands in its config.json."""

    mel: MelSpec = MelSpec()
    dim: int = Field(default=128, gt=0)
    num_layers: int = Field(default=4, ge=0)
    hidden_dim: int = Field(default=384, gt=0)
    kernel_size: int = Field(default=7, gt=0)  # frames; odd
    steps: int = Field(default=12, ge=0)  # more come nearer the mels, each for three frames more of context


class Vocos(nn.Module):
    """Sound of log mels. `mel` and `context_frames` as of every vocoder."""

    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        if config.kernel_size % 2 == 0:
            raise ModelError(f"kernel_size {config.kernel_size}: a frame is the middle of its kernel; give an odd one")
        self.config, self.mel = config, config.mel
        dim, num_bins = config.dim, config.mel.fft_size // 2 + 1
        self.embed = nn.Conv1d(config.mel.num_mels, dim, 3)
        self.embed_norm = nn.LayerNorm(dim)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 2 * num_bins)
        self.sharpen = nn.Linear(dim, config.mel.num_mels)
        nn.init.zeros_(self.sharpen.weight)
        nn.init.zeros_(self.sharpen.bias)
        self.momentum = nn.Parameter(torch.tensor(0.5))
        self.power = nn.Parameter(torch.tensor(1.0))
        filters = filters_of(config.mel)
        # What a bin hears of the mels' gains; bins below and above all filters hear nothing.
        self.register_buffer("spread", (filters / filters.sum(1, keepdim=True).clamp(min=1e-6)).T, persistent=False)
        self.register_buffer("areas", filters.sum(0).log(), persistent=False)
        self.spread: Tensor
        self.areas: Tensor

    @property
    def _net_context(self) -> int:
        return 1 + len(self.layers) * (self.config.kernel_size // 2)

    @property
    def context_frames(self) -> int:
        """Returns the frames on either side that a hop of sound depends on."""
        # Two windows overlap, or a window and a hop.
        mel = self.mel
        overlapping = (mel.window_length - 1) // mel.hop_length
        heard = ((mel.window_length + mel.hop_length) // 2 - 1) // mel.hop_length
        return self._net_context + self.config.steps * overlapping + heard

    def forward(self, mels: Tensor, lengths: Tensor) -> Tensor:
        """Returns samples (B, F * hop) of log mels (B, F, M) with `lengths` (B,) frames; zeros past a row's end."""
        synthesis = Synthesis(lengths, mels.shape[1], self.mel)
        mels = mels.masked_fill(~synthesis.real[..., None], self.mel.log_floor)
        spectrum, wanted = self._first(mels)
        before: Tensor | None = None
        for _ in range(self._num_steps()):
            now = spectra(synthesis(spectrum), self.mel)
            magnitude = now.abs()
            gain = (wanted - mels_of(magnitude, self.mel)).clamp(-_MOST, _MOST) @ self.spread
            pushed = now if before is None else now - self.momentum * before
            spectrum = pushed * (magnitude * (self.power * gain).exp() / (pushed.abs() + self.mel.floor))
            before = now
        return synthesis(spectrum)

    def stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yields samples (S_i,) of one recording whose frames (F_i, M) still come: the same as of the whole."""
        return stream_windows(self, chunks)

    def _num_steps(self) -> int:
        """All steps; in training by chance fewer, so that the net's first spectra must be worth something."""
        most = self.config.steps
        return int(torch.randint(min(2, most), most + 1, ())) if self.training else most

    def _first(self, mels: Tensor) -> tuple[Tensor, Tensor]:
        """The net: first spectra (B, F, K) of log mels (B, F, M), and the mels (B, F, M) to be reached."""
        side = self._net_context
        heights = F.pad(mels - self.mel.log_floor, (0, 0, side, side))  # above silence, of which there is more outside
        hidden = self.embed_norm(self.embed(heights.transpose(1, 2) / 4.0).transpose(1, 2))
        for layer in self.layers:
            hidden = layer(hidden)
        hidden = self.norm(hidden)
        log_magnitude, phase = self.head(hidden).chunk(2, dim=-1)
        log_magnitude = (log_magnitude + (mels - self.areas) @ self.spread).clamp(max=_MOST)
        return torch.polar(log_magnitude.exp(), phase), mels + self.sharpen(hidden)

    def save(self, folder: Path) -> None:
        """Writes config.json and model.safetensors, the weights as float16."""
        folder.mkdir(parents=True, exist_ok=True)
        values = {"model_type": MODEL_TYPE, **self.config.model_dump(mode="json")}
        (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        weights = {name: tensor.to(torch.float16).contiguous() for name, tensor in self.state_dict().items()}
        safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """Returns the vocoder of `save`, in eval mode. Raises: ModelError or ConfigError for a folder that is not."""
        try:
            values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            weights = safetensors.torch.load_file(folder / "model.safetensors")
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            raise ModelError(f"{folder}: cannot read this vocoder ({error}); give the folder that was saved") from None
        values.pop("model_type", None)
        vocoder = cls(validate(VocosConfig, values, where=f"{folder}/config.json"))
        try:
            vocoder.load_state_dict(weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(f"{folder}: its weights do not fit its config.json ({reason})") from None
        return vocoder.eval()


class _Layer(nn.Module):
    """ConvNeXt: every channel over its neighbourhood, then a frame by itself; `kernel_size // 2` frames go each side.

    Source: Liu et al. 2022.
    """

    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        dim = config.dim
        self.side = config.kernel_size // 2
        self.conv = nn.Conv1d(dim, dim, config.kernel_size, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.wide = nn.Linear(dim, config.hidden_dim)
        self.narrow = nn.Linear(config.hidden_dim, dim)
        self.scale = nn.Parameter(torch.full((dim,), 1.0 / config.num_layers))

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, F - 2 * side, dim) of x (B, F, dim)."""
        near = self.conv(x.transpose(1, 2)).transpose(1, 2)
        return x[:, self.side : x.shape[1] - self.side] + self.scale * self.narrow(F.gelu(self.wide(self.norm(near))))

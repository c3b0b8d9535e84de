"""What turns frames into the width of a body, and its states into frames: pre-net, post-net, refiner."""

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sonant.models.speech_head.config import SpeechHeadConfig
from sonant.models.speech_head.draws import Draws

_KERNEL = 5


class PreNet(nn.Module):
    """Linear, ReLU, dropout, Linear: the r frames of a step -> the width of the body."""

    def __init__(self, config: SpeechHeadConfig, *, width: int) -> None:
        super().__init__()
        self.dropout, self.at_test = config.prenet_dropout, config.prenet_dropout_at_test
        self.inner = nn.Linear(config.frames_per_step * config.mel.num_mels, config.prenet_dim)
        self.outer = nn.Linear(config.prenet_dim, width)

    def forward(self, frames: Tensor, draws: Draws) -> Tensor:
        """Returns (S, T, width) of the frames (S, T, r * M) of each step."""
        inner = F.relu(self.inner(frames))
        if self.training or self.at_test:
            inner = draws.dropout(inner, self.dropout, purpose="prenet")
        output: Tensor = self.outer(inner)
        return output


@dataclass(frozen=True, eq=False)
class Drawn:
    """The frames (S, T, r * M) of each step, what they are drawn around and, of a latent, the log of its variance."""

    frames: Tensor
    mean: Tensor | None = None
    log_variance: Tensor | None = None


class PostNet(nn.Module):
    """Linear, ReLU, Linear: a state -> the r frames of a step."""

    def __init__(self, config: SpeechHeadConfig, *, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, config.postnet_dim)
        self.outer = nn.Linear(config.postnet_dim, config.frames_per_step * config.mel.num_mels)

    def forward(self, hidden: Tensor, draws: Draws, *, purpose: str = "frames") -> Drawn:
        """Returns the frames of states (S, T, width)."""
        return Drawn(self.outer(F.relu(self.inner(hidden))))


class LatentPostNet(nn.Module):
    """z = mean + deviation * noise, then z + a three-layer net of z. In eval, `temperature` scales the noise.

    Source: MELLE (arXiv 2407.08551), section 3.
    """

    def __init__(self, config: SpeechHeadConfig, *, width: int) -> None:
        super().__init__()
        size, inner = config.frames_per_step * config.mel.num_mels, config.postnet_dim
        self.temperature = config.temperature
        self.mean = nn.Linear(width, size)
        self.log_variance = nn.Linear(width, size)
        self.net = nn.Sequential(
            nn.Linear(size, inner), nn.ReLU(), nn.Linear(inner, inner), nn.ReLU(), nn.Linear(inner, size)
        )

    def forward(self, hidden: Tensor, draws: Draws, *, purpose: str = "frames") -> Drawn:
        """Returns the frames drawn for states (S, T, width)."""
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        scale = 1.0 if self.training else self.temperature
        z = mean
        if scale:
            z = mean + scale * (0.5 * log_variance).exp() * draws.normal(mean, purpose=purpose)
        return Drawn(z + self.net(z), mean, log_variance)


class EnergyPostNet(nn.Module):
    """A net of state and noise whose outputs are samples: two blocks, each scaled and shifted by the noise.

    Around a mean, they are what is added to the frames of a plain post-net.
    Source: the energy distance head of SLED (arXiv 2505.13181); sizes and the mean are ours.
    """

    def __init__(self, config: SpeechHeadConfig, *, width: int) -> None:
        super().__init__()
        inner = config.postnet_dim
        self.temperature, self.noise_dim = config.temperature, config.noise_dim
        self.inner = nn.Linear(width, inner)
        self.norms = nn.ModuleList(nn.LayerNorm(inner, elementwise_affine=False) for _ in range(2))
        self.modulations = nn.ModuleList(nn.Linear(config.noise_dim, 2 * inner) for _ in range(2))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(inner, inner), nn.GELU(), nn.Linear(inner, inner)) for _ in range(2)
        )
        self.outer = nn.Linear(inner, config.frames_per_step * config.mel.num_mels)
        self.mean = PostNet(config, width=width) if config.around_mean else None

    def forward(self, hidden: Tensor, draws: Draws, *, purpose: str = "frames") -> Drawn:
        """Returns one sample for each state (S, T, width); another `purpose` gives another sample."""
        noise = draws.normal(hidden[..., :1].expand(*hidden.shape[:2], self.noise_dim), purpose=purpose)
        noise = noise * (1.0 if self.training else self.temperature)
        x = self.inner(hidden)
        for norm, modulation, block in zip(self.norms, self.modulations, self.blocks, strict=True):
            scale, shift = modulation(noise).chunk(2, dim=-1)
            x = x + block(norm(x) * (1 + scale) + shift)
        if self.mean is None:
            return Drawn(self.outer(x))
        mean: Tensor = self.mean(hidden, draws).frames
        return Drawn(mean + self.outer(x), mean)


def make_postnet(config: SpeechHeadConfig, *, width: int) -> "PostNet | LatentPostNet | EnergyPostNet":
    """Returns the post-net of a configuration."""
    if config.arm == "energy":
        return EnergyPostNet(config, width=width)
    return LatentPostNet(config, width=width) if config.latent else PostNet(config, width=width)


class Refiner(nn.Module):
    """Coarse frames plus what causal convolutions over them say: frames can go out as they come.

    MELLE's convolutions look both ways, which no stream can.
    """

    def __init__(self, config: SpeechHeadConfig) -> None:
        super().__init__()
        sizes = [config.mel.num_mels, *[config.refine_dim] * (config.refine_layers - 1), config.mel.num_mels]
        self.convs = nn.ModuleList(nn.Conv1d(a, b, _KERNEL) for a, b in itertools.pairwise(sizes))

    def forward(self, frames: Tensor, past: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Returns refined frames (S, F, M) of coarse ones, and what the next ones need to know of their past."""
        x, seen = frames, []
        for i, conv in enumerate(self.convs):
            before = x.new_zeros(x.shape[0], _KERNEL - 1, x.shape[2]) if past is None else past[i]
            x = torch.cat([before, x], dim=1)
            seen.append(x[:, -(_KERNEL - 1) :])
            x = conv(x.transpose(1, 2)).transpose(1, 2)
            if i + 1 < len(self.convs):
                x = torch.tanh(x)
        return frames + x, seen

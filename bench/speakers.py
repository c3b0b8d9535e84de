"""Who and how, read by a linear probe from the mean frame of either shipped encoder: the second must earn its place.

Probes learn on training speakers and are measured on speakers whose variants none of them, and no encoder, has heard;
two of those twelve variants are near-copies of one that trains.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.figure import RUNS, Figure, at_least, at_most, reported
from sonant.audio.features import extract
from sonant.audio.io import load
from sonant.chat.messages import Conversation
from sonant.data.manifest import Manifest
from sonant.evaluate.metrics.verification import equal_error_rate
from sonant.models.encoders.base import EncoderConfig, EncoderKind, SpeechEncoder
from sonant.models.encoders.load import load_encoder
from sonant.synth.world.text import Split
from sonant.synth.world.voice_pairs import write_pairs

NUM_CLIPS = {"train": 6000, "dev": 768, "test": 1536}
NUM_PAIRS = {"train": 3000, "dev": 1200, "test": 1200}
PAUSE_S = 0.35
PARTS: dict[str, EncoderKind] = {"tiny/speaker-encoder": "tiny_speaker", "tiny/encoder": "tiny"}


@dataclass(frozen=True)
class Heard:
    """Mean frames of pairs joined (N, D) and of their first clips (N, D), and what is true of them."""

    joined: Tensor
    clips: Tensor
    is_one: Tensor  # (N,) 1.0 where there is one speaker
    in_one_manner: Tensor  # (N,) bool
    manners: Tensor  # (N,) class indices


def measure(split: Split = "test") -> list[Figure]:
    folder = (RUNS / "voice_pairs").absolute()
    paths = [write_pairs(folder, s, num_clips=NUM_CLIPS[s], num_pairs=NUM_PAIRS[s]) for s in ("train", split)]
    figures = []
    for part, kind in PARTS.items():
        encoder = load_encoder(EncoderConfig(kind=kind, path=part))
        learnt, asked = (listen(encoder, path) for path in paths)
        who = probe(learnt.joined, torch.stack([1 - learnt.is_one, learnt.is_one], dim=1))
        told = who(asked.joined)[:, 1] - who(asked.joined)[:, 0]
        alike = asked.in_one_manner
        same, any_two = (equal_error(told[rows], asked.is_one[rows]) for rows in (alike, ~alike))
        how = probe(learnt.clips, F.one_hot(learnt.manners).float())
        right = 100 * float((how(asked.clips).argmax(1) == asked.manners).float().mean())
        names = [f"{part}: {what}" for what in ("one speaker or two, EER", "the same, in two manners", "manner")]
        if kind == "tiny_speaker":
            figures += [at_most(names[0], 5.0, [same], "%"), reported(names[1], [any_two], "%")]
            figures += [at_least(names[2], 90.0, [right], "%")]
        else:
            figures += [reported(n, [v], "%") for n, v in zip(names, (same, any_two, right), strict=True)]
    return figures


def equal_error(told: Tensor, truth: Tensor) -> float:
    """Returns the equal error rate in percent."""
    return equal_error_rate(told.double().numpy(), truth.bool().numpy()).value


@torch.no_grad()
def listen(encoder: SpeechEncoder, path: Path) -> Heard:
    """Returns what an encoder makes of a manifest of pairs."""
    rows = list(Manifest(path))
    manners = sorted({row.extra["manners"][0] for row in rows})
    means = [_means(encoder, list(_samples(rows[first : first + 25]))) for first in range(0, len(rows), 25)]
    both = torch.cat(means)
    return Heard(
        joined=both[0::2],
        clips=both[1::2],
        is_one=torch.tensor([float(row.reference == "yes") for row in rows]),
        in_one_manner=torch.tensor([row.task == "verification" for row in rows]),
        manners=torch.tensor([manners.index(row.extra["manners"][0]) for row in rows]),
    )


class Probe:
    """A linear map of standardised means."""

    def __init__(self, means: Tensor) -> None:
        self.centre, self.spread = means.mean(0), means.std(0) + 1e-4
        self.map = torch.nn.Linear(means.shape[1], 1)

    def __call__(self, means: Tensor) -> Tensor:
        """Returns logits (N, C)."""
        logits: Tensor = self.map((means - self.centre) / self.spread).detach()
        return logits


def probe(means: Tensor, targets: Tensor) -> Probe:
    """Returns the logistic regression of `targets` (N, C), shares of classes, with a small penalty."""
    torch.manual_seed(0)
    found = Probe(means)
    found.map = torch.nn.Linear(means.shape[1], targets.shape[1])
    optimizer = torch.optim.LBFGS(found.map.parameters(), max_iter=500, line_search_fn="strong_wolfe")
    inputs = (means - found.centre) / found.spread

    def loss() -> float:
        optimizer.zero_grad()
        total = F.cross_entropy(found.map(inputs), targets) + 1e-3 * found.map.weight.square().sum()
        total.backward()
        return float(total.detach())

    optimizer.step(loss)
    return found


def _samples(rows: Sequence[Conversation]) -> Iterator[Tensor]:
    """Each pair joined, then its first clip."""
    pause = np.zeros(round(PAUSE_S * 16_000), np.float32)
    for row in rows:
        first, second = (load(part.source, sample_rate_hz=16_000) for part in row.audio_parts)
        yield torch.from_numpy(np.concatenate([first, pause, second]))
        yield torch.from_numpy(first)


def _means(encoder: SpeechEncoder, samples: Sequence[Tensor]) -> Tensor:
    mels = [extract(clip, encoder.feature_spec) for clip in samples]
    lengths = torch.tensor([len(m) for m in mels])
    frames = encoder(torch.nn.utils.rnn.pad_sequence(mels, batch_first=True), lengths)
    return frames.sum(1) / encoder.output_lengths(lengths)[:, None]

"""What a speaker encoder is taught by: pairs of clips, apart and joined, read through linear heads.

    clip a ─┬───────────────── frames ── mean ─▶ speaker · throat · manner · one speaker
    clip b ─┴─ a ‥pause‥ b ── frames ─┬─ mean ─▶ one speaker or two?        each frame ─▶ still the first voice?
               or b ‥‥ a              └─ mean of each clip, or of a second of it ─▶ speaker and throat (cosine with
                                         a margin), same speaker as any other of the batch (cosine), manner

Every head is linear on means of frames, so what they learn an adapter can read.
Source: additive margin softmax (Wang et al. 2018).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sonant.audio.features import FeatureSpec, extract
from sonant.batch import Batch
from sonant.config import Config
from sonant.models.encoders.tiny_speaker import TinySpeakerEncoder
from sonant.models.losses import LossOutput, unwrap

WINDOW = 25  # frames: the second by which a voice must be known


class VoiceLossConfig(Config):
    """Weights of the parts, and how pairs are joined."""

    pause_s: tuple[float, float] = (0.2, 0.5)
    margin: float = 0.1  # of the cosine to one's own speaker or throat
    scale: float = 20.0
    speaker: float = 0.3
    throat: float = 1.0
    same: float = 1.0
    manner: float = 4.0
    alone: float = 2.0
    still: float = 1.0


@dataclass(frozen=True)
class VoiceTruth:
    """What is true of the two clips of a row: class indices."""

    speakers: tuple[int, int]
    throats: tuple[int, int]
    manners: tuple[int, int]


class VoiceStudent(nn.Module):
    """The encoder and the heads that it is taught through."""

    def __init__(self, encoder: TinySpeakerEncoder, *, num_speakers: int, num_throats: int, num_manners: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.speakers = nn.Parameter(torch.randn(num_speakers, encoder.dim))
        self.throats = nn.Parameter(torch.randn(num_throats, encoder.dim))
        self.manner = nn.Linear(encoder.dim, num_manners)
        self.alone = nn.Linear(encoder.dim, 1)  # of a whole recording: is there only one speaker?
        self.still = nn.Linear(encoder.dim, 1)  # of a frame: is this the voice that the recording began with?
        self.same = nn.Parameter(torch.tensor([math.log(10.0), 0.5]))  # log slope and threshold of cosines


@dataclass(frozen=True)
class Joined:
    """Recordings of two clips each: mels (B, F, M), lengths (B,), and spans (B, 2, 2): where in frames clips lie.

    spans[row, place] = first frame, end; a frame on the border of a clip belongs to none.
    """

    mels: Tensor
    lengths: Tensor
    spans: Tensor


def join(mels: Tensor, lengths: Tensor, *, order: Tensor, pauses: Tensor, silence: Tensor) -> Joined:
    """Returns pairs joined: mels (2B, F, M) and lengths (2B,) of clips, those of a pair in successive rows.

    order: (B, 2), [0, 1] or [1, 0].   pauses: (B,) in mel frames.   silence: (M,), a mel frame without sound.
    """
    recordings, spans, silence = [], [], silence.to(mels.device)
    for row, (places, pause) in enumerate(zip(order.tolist(), pauses.tolist(), strict=True)):
        first, second = (mels[2 * row + place, : int(lengths[2 * row + place])] for place in places)
        recordings.append(torch.cat([first, silence.expand(pause, -1), second]))
        start, end = len(first) + pause, len(recordings[-1])
        spans.append([[0, len(first) // 4], [-(-start // 4), end // 4]])
    sizes = torch.tensor([len(recording) for recording in recordings], device=mels.device)
    padded = nn.utils.rnn.pad_sequence(recordings, batch_first=True)
    return Joined(padded, sizes, torch.tensor(spans, device=mels.device))


def span_means(frames: Tensor, spans: Tensor) -> Tensor:
    """Returns the means (B, D) of `frames` (B, T, D) over [first, end) of `spans` (B, 2); zeros where that is empty."""
    places = torch.arange(frames.shape[1], device=frames.device)
    inside = ((places >= spans[:, :1]) & (places < spans[:, 1:])).to(frames.dtype)
    return torch.einsum("btd,bt->bd", frames, inside) / inside.sum(1, keepdim=True).clamp(min=1)


def whole(lengths: Tensor) -> Tensor:
    """Returns the spans (B, 2) of whole clips of `lengths` (B,) frames."""
    return torch.stack([torch.zeros_like(lengths), lengths], dim=1)


def silence_of(spec: FeatureSpec) -> Tensor:
    """Returns a mel frame (M,) in which nothing sounds."""
    return extract(torch.zeros(spec.min_samples), spec)[0]


class VoiceLoss:
    """Sums over the pairs of a batch; the weight is their number. Chance is torch's: seed it.

    truths: row id -> what is true of its clips.
    """

    def __init__(self, truths: Mapping[str, VoiceTruth], *, spec: FeatureSpec, config: VoiceLossConfig) -> None:
        self.truths, self.spec, self.config = truths, spec, config
        self.silence = silence_of(spec)
        self.pauses = [round(seconds * spec.frame_rate_hz) for seconds in config.pause_s]

    def weight(self, batch: Batch) -> float:
        """Returns the number of pairs."""
        return float(batch.num_rows)

    def __call__(self, model: nn.Module, batch: Batch) -> LossOutput:
        """Returns the weighted sum; each part, per pair, is reported apart."""
        student = unwrap(model)
        assert isinstance(student, VoiceStudent)
        config, num, encoder = self.config, batch.num_rows, student.encoder
        mels, lengths = batch.features[self.spec], batch.feature_lengths[self.spec]
        swapped = torch.randint(2, (num, 1))
        order = torch.cat([swapped, 1 - swapped], dim=1)
        joined = join(mels, lengths, order=order, pauses=self._draw_pauses(num), silence=self.silence)
        frames, sizes = encoder(joined.mels, joined.lengths), encoder.output_lengths(joined.lengths)
        alone, alone_sizes = encoder(mels[::2], lengths[::2]), encoder.output_lengths(lengths[::2])
        single = span_means(alone, whole(alone_sizes))
        means = [span_means(frames, _window(joined.spans[:, place])) for place in (0, 1)]
        speakers, throats, manners = (each.to(mels.device) for each in self._classes(batch.ids, order))
        one_speaker = (speakers[:num] == speakers[num : 2 * num]).float()
        everything = torch.cat([*means, single])
        logits = torch.cat([student.alone(span_means(frames, whole(sizes))), student.alone(single)])[:, 0]
        only = torch.cat([one_speaker, torch.ones_like(one_speaker)])
        shares = torch.tensor([1.0, 0.2], device=mels.device).repeat_interleave(num)  # a clip by itself is easy
        losses = {
            "speaker": self._nearest(everything, student.speakers, speakers),
            "throat": self._nearest(everything, student.throats, throats),
            "same": _same(means, speakers, throats, student.same),
            "manner": F.cross_entropy(student.manner(everything), manners),
            "alone": (F.binary_cross_entropy_with_logits(logits, only, reduction="none") * shares).sum() / num,
            "still": _still(student.still(frames)[..., 0], joined.spans, one_speaker),
        }
        total = sum((getattr(config, name) * loss for name, loss in losses.items()), mels.new_zeros(()))
        parts = {name: (loss.detach() * num, float(num)) for name, loss in losses.items()}
        return LossOutput(total * num, self.weight(batch), parts)

    def _classes(self, ids: Sequence[str], order: Tensor) -> list[Tensor]:
        """Speakers, throats and manners (3B,) of all first places, all second places and all single clips."""
        truths = [self.truths[id] for id in ids]
        classes = []
        for of_row in ([t.speakers for t in truths], [t.throats for t in truths], [t.manners for t in truths]):
            by_clip = torch.tensor(of_row)
            by_place = by_clip.gather(1, order)
            classes.append(torch.cat([by_place[:, 0], by_place[:, 1], by_clip[:, 0]]))
        return classes

    def _nearest(self, means: Tensor, centres: Tensor, classes: Tensor) -> Tensor:
        cosines = F.normalize(means, dim=-1) @ F.normalize(centres, dim=-1).T
        own = self.config.margin * F.one_hot(classes, len(centres))
        return F.cross_entropy(self.config.scale * (cosines - own), classes)

    def _draw_pauses(self, num: int) -> Tensor:
        low, high = self.pauses
        return torch.randint(low, high + 1, (num,))


def _same(means: Sequence[Tensor], speakers: Tensor, throats: Tensor, line: Tensor) -> Tensor:
    """Cross entropy of "the same speaker" for every first with every second clip of the batch.

    A pair's own two clips count as much as all the others; one throat with two accents is left out: nobody knows it.
    """
    firsts, seconds = (F.normalize(mean, dim=-1) for mean in means)
    num = len(firsts)
    same = speakers[:num, None] == speakers[None, num : 2 * num]
    known = same | (throats[:num, None] != throats[None, num : 2 * num])
    weights = known * torch.where(torch.eye(num, dtype=torch.bool, device=known.device), num / 2, 0.5)
    logits = line[0].exp() * (firsts @ seconds.T - line[1])
    losses = F.binary_cross_entropy_with_logits(logits, same.float(), reduction="none")
    return (losses * weights).sum() / weights.sum()


def _still(logits: Tensor, spans: Tensor, one_speaker: Tensor) -> Tensor:
    """Mean cross entropy over the frames (B, T) of both clips; the first clip's, always the first voice, count less."""
    places = torch.arange(logits.shape[1], device=logits.device)
    first, second = ((places >= spans[:, i, :1]) & (places < spans[:, i, 1:]) for i in (0, 1))
    target = torch.where(second, one_speaker[:, None], 1.0)
    weights = second.float() + 0.3 * first.float()
    return (F.binary_cross_entropy_with_logits(logits, target, reduction="none") * weights).sum() / weights.sum()


def _window(spans: Tensor) -> Tensor:
    """Half of the spans (B, 2) as they are, half cut to a second somewhere inside, where they are longer."""
    room = (spans[:, 1] - spans[:, 0] - WINDOW).clamp(min=0)
    chance, uncut = torch.rand(len(spans)).to(spans.device), torch.rand(len(spans), 1).to(spans.device)
    first = spans[:, 0] + (chance * (room + 1)).long()
    cut = torch.stack([first, torch.minimum(spans[:, 1], first + WINDOW)], dim=1)
    return torch.where(uncut < 0.5, cut, spans)

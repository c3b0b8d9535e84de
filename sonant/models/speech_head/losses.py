"""What a speech head is taught by: distances between frames and between their differences, and when to go on and stop.

l(a, b) = |a - b|_1 + |a - b|_2^2, as means over what is there
mel     = l(x, y) + sum over k of l(x[:, :, k:] - x[:, :, :-k], ...) over bins, and over frames
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sonant.batch import Batch
from sonant.errors import ModelError, TrainingError
from sonant.models.losses import LossOutput, TokenLoss, unwrap
from sonant.models.speech_head.config import SpeechLossConfig
from sonant.models.speech_head.states import SpokenFrames
from sonant.models.speech_lm import SpeechLM, SpeechLMOutput


class SpeechLoss:
    """The text's loss plus that of the frames; a sum over supervised tokens.

    Each spoken row's frames give means, which count as much as the row's supervised tokens: so any split into batches
    gives the same total, and divided by the weight it is the mean text loss plus the mean frame loss of spoken rows.
    Parts: the text's, and "mel", "pointer", "stop", "kl", "flux" unweighted.
    """

    def __init__(self, text: TokenLoss, config: SpeechLossConfig) -> None:
        self.text, self.config = text, config

    def weight(self, batch: Batch) -> float:
        """Returns the weight of the text's loss."""
        return self.text.weight(batch)

    def __call__(self, model: nn.Module, batch: Batch) -> LossOutput:
        """Returns the sum over the batch; a batch without speech passes through the head at weight zero.

        Raises: ModelError if the model has no speech head; TrainingError for a spoken row without supervised text,
        without mels, or, with a pointer, without marks.
        """
        lm = cast(SpeechLM, unwrap(model))
        head = lm.speech_head
        if head is None:
            raise ModelError("this model has no speech head; set speech_head, or train with TokenLoss")
        output: SpeechLMOutput = model(batch)
        text = self.text.of_output(lm, batch, output)
        total, parts = self.config.text * text.total, dict(text.parts)
        if batch.spoken is None:
            return LossOutput(total + (0.0 * lm.speak_silence(output) if lm.training else 0.0), text.weight, parts)
        spoken = batch.spoken
        shares = _shares(batch)
        frames = head(lm.spoken_states(batch, output), spoken.mels, spoken.mel_lengths, word_starts=spoken.word_starts)
        weight = float(shares.sum())
        for name, values in frame_losses(frames, self.config).items():
            losses = (shares * values).sum()
            total = total + (1.0 if name == "mel" else getattr(self.config, name)) * losses
            parts[name] = (losses.detach(), weight)
        return LossOutput(total, text.weight, parts)


def frame_losses(frames: SpokenFrames, config: SpeechLossConfig) -> dict[str, Tensor]:
    """Returns the parts of the loss, (S,) each: a mean over each row's own frames or steps, not yet weighted."""
    parts: dict[str, Tensor] = {}
    if frames.other is not None:
        parts["mel"] = config.energy * energy(frames)
        if frames.mean is not None:
            parts["mel"] = parts["mel"] + reconstruction(frames.mean, frames.target, frames.valid, config)
    else:
        parts["mel"] = reconstruction(frames.coarse, frames.target, frames.valid, config)
    if frames.refined is not None:
        parts["mel"] = parts["mel"] + reconstruction(frames.refined, frames.target, frames.valid, config)
    if frames.mean is not None and frames.log_variance is not None:
        parts["kl"] = _mean(kl_to_target(frames.mean, frames.log_variance, frames.target), frames.valid)
    if config.flux:
        parts["flux"] = flux(frames.coarse if frames.mean is None else frames.mean, frames.target, frames.valid)
    if frames.stop_logits is not None:
        positive = torch.tensor(config.stop_positive, device=frames.last.device)
        parts["stop"] = _steps_bce(frames.stop_logits, frames.last.float(), frames, pos_weight=positive)
    if frames.advance_logits is not None and frames.advance is not None:
        parts["pointer"] = _steps_bce(frames.advance_logits, frames.advance, frames)
    return parts


def reconstruction(x: Tensor, y: Tensor, valid: Tensor, config: SpeechLossConfig) -> Tensor:
    """Returns (S,) L_s + L_f + L_t of frames x and y (S, F, M), of which valid (S, F) count.

    D_k z = z[t + k] - z[t] is a difference of lag k, no k-th derivative; it counts where both frames do.
    Source: Spectron (arXiv 2305.15255), section 3.3, with means for sums.
    """
    error = x - y  # differences of x less differences of y are differences of this
    total = _distance(error, valid, config)
    for k in config.mel_deltas:
        total = total + _distance(error[:, :, k:] - error[:, :, :-k], valid, config)
    for k in config.time_deltas:
        total = total + _distance(error[:, k:] - error[:, :-k], valid[:, k:] & valid[:, :-k], config)
    return total


def energy(frames: SpokenFrames) -> Tensor:
    """Returns (S,) the mean over steps of d(a, y) + d(b, y) - d(a, b) for two samples a, b; d is the distance of steps.

    Its expectation is least where samples are distributed as y is. d is divided by the root of its dimensions.
    Source: SLED (arXiv 2505.13181), section 3.
    """
    assert frames.other is not None
    num_steps = frames.last.shape[1]

    def distance(a: Tensor, b: Tensor) -> Tensor:
        """(S, T)"""
        error = ((a - b) * frames.valid[..., None]).unflatten(1, (num_steps, -1)).flatten(2)
        return (error.square().sum(-1) + 1e-8).sqrt() / error.shape[2] ** 0.5

    a, b, y = frames.coarse, frames.other, frames.target
    return _row_mean(distance(a, y) + distance(b, y) - distance(a, b), frames.steps)


def kl_to_target(mean: Tensor, log_variance: Tensor, target: Tensor) -> Tensor:
    """Returns KL(N(mean, variance) || N(target, I)) of each dimension: 1/2 (s^2 + (m - y)^2 - 1 - ln s^2)."""
    return 0.5 * (log_variance.exp() + (mean - target).square() - 1 - log_variance)


def flux(mean: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Returns (S,) minus the mean of |mean_t - y_(t-1)|: the more a frame moves, the less."""
    return -_mean((mean[:, 1:] - target[:, :-1]).abs(), valid[:, 1:])


def _distance(error: Tensor, valid: Tensor, config: SpeechLossConfig) -> Tensor:
    return _mean(config.l1 * error.abs() + config.l2 * error.square(), valid)


def _mean(values: Tensor, valid: Tensor) -> Tensor:
    """(S,): the mean of values (S, F, M) over valid frames (S, F) and all bins; 0 where there are none."""
    return _row_mean(values.mean(-1), valid)


def _row_mean(values: Tensor, valid: Tensor) -> Tensor:
    return values.masked_fill(~valid, 0.0).sum(1) / valid.sum(1).clamp(min=1)


def _steps_bce(logits: Tensor, target: Tensor, frames: SpokenFrames, *, pos_weight: Tensor | None = None) -> Tensor:
    losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none", pos_weight=pos_weight)
    return _row_mean(losses, frames.steps)


def _shares(batch: Batch) -> Tensor:
    """(S,) what the means of each spoken row count: its supervised tokens."""
    spoken = batch.spoken
    assert spoken is not None
    shares = batch.loss_mask[spoken.row, 1:].sum(dim=1)
    wrong = (shares <= 0) | (spoken.mel_lengths <= 0)
    if wrong.any():
        names = ", ".join(repr(batch.ids[row]) for row in spoken.row[wrong].tolist())
        raise TrainingError(
            f"{int(wrong.sum())} spoken rows have no supervised text or no mels: {names}; what is spoken must be "
            "written in the answer, and examples made with voice=model.voice_spec"
        )
    return shares

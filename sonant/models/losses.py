"""Losses: sums over supervised tokens, never means, so that any split into batches and ranks adds up to one number."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.utils.checkpoint import checkpoint

from sonant.batch import Batch
from sonant.errors import ModelError, TrainingError
from sonant.models.llm import final_hidden
from sonant.models.lora import lora_disabled
from sonant.models.speech_lm import SpeechLM, SpeechLMOutput, eval_mode
from sonant.models.splice import Spliced

_UNNAMED = "other"  # rows without a task


@dataclass(frozen=True, eq=False)
class LossOutput:
    """A loss to divide by the weight of all batches and ranks together, and what each task contributed."""

    total: Tensor  # () with gradient, a sum
    weight: float  # of the supervised tokens in `total`
    parts: dict[str, tuple[Tensor, float]]  # task -> (sum without gradient, weight)


class TokenLoss:
    """Cross entropy of the supervised tokens, each times its weight in the loss mask.

        position   0 1 2 3 4        the hidden state at t - 1 predicts the label at t,
        label      u a a A A        be position t - 1 text or audio
        mask       0 0 0 1 1   ->   only hidden states 2 and 3 ever meet the head

    Logits are made for `chunk_tokens` positions at a time and made again in the backward pass, so memory does not grow
    with sequence length times vocabulary.

    kl_weight adds the KL divergence to the LLM without LoRA at the supervised positions of text-only rows: speech
    training then costs less text skill. It is reported as part "kl" and normalised by the same weight as the rest.

    over: what the sum is divided by. "prompt_and_answer" adds the written prompts' tokens (`batch.prompt_lengths`), so
    that rows of long prompts count less; the answers' tokens are still all that is predicted (WavLLM's code).
    """

    def __init__(
        self,
        *,
        kl_weight: float = 0.0,
        over: Literal["answer", "prompt_and_answer"] = "answer",
        chunk_tokens: int = 2048,
    ) -> None:
        self.kl_weight = kl_weight
        self.over = over
        self.chunk_tokens = chunk_tokens

    def weight(self, batch: Batch) -> float:
        """Returns the sum of the loss mask over tokens that something predicts, with the prompts' tokens if asked."""
        prompts = float(batch.prompt_lengths.sum()) if self.over == "prompt_and_answer" else 0.0
        return batch.num_target_tokens + prompts

    def __call__(self, model: nn.Module, batch: Batch) -> LossOutput:
        """Returns the sum over the batch. Without any target it is zero and can still be differentiated."""
        output: SpeechLMOutput = model(batch)
        return self.of_output(cast(SpeechLM, unwrap(model)), batch, output)

    def of_output(self, lm: SpeechLM, batch: Batch, output: SpeechLMOutput) -> LossOutput:
        """Returns the sum over a batch that the model has read already."""
        rows, columns, weights = predicting(output.spliced)
        hidden, labels = output.hidden[rows, columns], output.spliced.labels[rows, columns + 1]
        losses = weights * in_chunks(partial(cross_entropy, lm), hidden, labels, chunk_tokens=self.chunk_tokens)
        parts = task_parts(batch, rows, losses, weights)
        total = losses.sum()
        if self.kl_weight:
            kl, kl_part = self._kl(lm, batch, output, (rows, columns))
            total = total + self.kl_weight * kl
            parts["kl"] = kl_part
        return LossOutput(total, self.weight(batch), parts)

    def _kl(
        self, lm: SpeechLM, batch: Batch, output: SpeechLMOutput, where: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, float]]:
        is_text = torch.ones(batch.num_rows, dtype=torch.bool, device=output.hidden.device)
        is_text[batch.audio_row] = False
        reference = torch.zeros_like(output.hidden)
        # Sharded ranks gather the LLM's weights together: then a row is read although its result counts nothing.
        read = is_text if is_text.any() or not distributed.is_initialized() else ~is_text
        if read.any():
            with torch.no_grad(), eval_mode(lm.llm), lora_disabled(lm.llm):
                rows, lengths = output.spliced.inputs_embeds[read], output.spliced.lengths[read]
                reference[read] = final_hidden(lm.llm, rows, lengths).to(reference.dtype)
        chosen = is_text[where[0]]
        rows, columns = where[0][chosen], where[1][chosen]
        weights = output.spliced.loss_mask[rows, columns + 1]
        divergence = in_chunks(
            partial(kl_divergence, lm),
            output.hidden[rows, columns],
            reference[rows, columns],
            chunk_tokens=self.chunk_tokens,
        )
        total = (weights * divergence).sum()
        return total, (total.detach(), float(weights.sum()))


class CTCLoss:
    """CTC of each clip's transcript, for an encoder with `ctc_logits` (blank = the last id).

    The transcript is the supervised tokens of the row without `stop_ids` (an end of turn is no sound). One audio a row.
    """

    def __init__(self, *, stop_ids: Iterable[int]) -> None:
        self.stop_ids = torch.tensor(sorted(stop_ids), dtype=torch.int64)

    def weight(self, batch: Batch) -> float:
        """Returns the number of transcript tokens."""
        return float(self._is_target(batch).sum())

    def __call__(self, model: nn.Module, batch: Batch) -> LossOutput:
        """Returns the sum over the batch.

        Raises: ModelError if the encoder has no CTC head; TrainingError, with the row ids, if a row has not exactly one
        audio or fewer frames than its transcript needs (a token a frame, one more between equal neighbours).
        """
        encoder = cast(Any, unwrap(model))
        if not hasattr(encoder, "ctc_logits"):
            raise ModelError(f"{type(encoder).__name__} has no CTC head; train the tiny encoder, or use TokenLoss")
        if batch.audio_row.tolist() != list(range(batch.num_rows)):
            counts = torch.bincount(batch.audio_row, minlength=batch.num_rows).tolist()
            wrong = [f"{row!r} has {n}" for row, n in zip(batch.ids, counts, strict=True) if n != 1]
            raise TrainingError(f"CTC needs one audio a row: {', '.join(wrong)}; give transcription rows only")
        lengths = batch.feature_lengths[encoder.feature_spec]
        frames = model(batch.features[encoder.feature_spec], lengths)
        log_probs = encoder.ctc_logits(frames).float().log_softmax(-1)  # (A, T, V + 1)
        num_frames, is_target = encoder.output_lengths(lengths), self._is_target(batch)
        _refuse_infeasible(batch, is_target, num_frames)
        losses = F.ctc_loss(
            log_probs.transpose(0, 1),
            batch.token_ids[is_target],
            num_frames,
            is_target.sum(1),
            blank=log_probs.shape[2] - 1,
            reduction="none",
        )
        rows = torch.arange(batch.num_rows, device=losses.device)
        parts = task_parts(batch, rows, losses, is_target.sum(1).float())
        return LossOutput(losses.sum(), self.weight(batch), parts)

    def _is_target(self, batch: Batch) -> Tensor:
        return (batch.loss_mask > 0) & ~torch.isin(batch.token_ids, self.stop_ids.to(batch.token_ids.device))


def unwrap(model: nn.Module) -> nn.Module:
    """Returns the model inside DistributedDataParallel, or `model` itself."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def task_parts(batch: Batch, rows: Tensor, losses: Tensor, weights: Tensor) -> dict[str, tuple[Tensor, float]]:
    """Returns task -> (sum of losses, sum of weights); losses, weights (N,) belong to `rows` (N,) of the batch."""
    sums = losses.new_zeros(batch.num_rows).index_add(0, rows, losses.detach())
    row_weights = losses.new_zeros(batch.num_rows).index_add(0, rows, weights.to(losses.dtype)).tolist()
    parts: dict[str, tuple[Tensor, float]] = {}
    for row, task in enumerate(batch.tasks):
        total, weight = parts.get(task or _UNNAMED, (sums.new_zeros(()), 0.0))
        parts[task or _UNNAMED] = (total + sums[row], weight + row_weights[row])
    return parts


def predicting(spliced: Spliced) -> tuple[Tensor, Tensor, Tensor]:
    """Returns rows (N,) and columns (N,) of the positions that predict a supervised token, and its weight (N,)."""
    mask = spliced.loss_mask[:, 1:]
    rows, columns = mask.nonzero(as_tuple=True)
    return rows, columns, mask[rows, columns]


def in_chunks(
    function: Callable[[Tensor, Tensor], Tensor], hidden: Tensor, other: Tensor, *, chunk_tokens: int
) -> Tensor:
    """Returns `function(hidden, other)` (N,), made of `chunk_tokens` positions at a time, and again going backward."""
    chunks = list(zip(hidden.split(chunk_tokens), other.split(chunk_tokens), strict=True))
    if len(chunks) == 1 or not torch.is_grad_enabled():  # one chunk alone would gain nothing from being made twice
        return torch.cat([function(*chunk) for chunk in chunks])
    return torch.cat([checkpoint(function, *chunk, use_reentrant=False) for chunk in chunks])


def cross_entropy(lm: SpeechLM, hidden: Tensor, labels: Tensor) -> Tensor:
    """Returns -log p (N,) of labels (N,) after hidden states (N, D)."""
    return F.cross_entropy(lm.logits(hidden).float(), labels, reduction="none")


def kl_divergence(lm: SpeechLM, hidden: Tensor, reference: Tensor) -> Tensor:
    """Returns KL(reference || model) over the vocabulary (N,), of hidden states (N, D) of both."""
    with torch.no_grad():
        target = lm.logits(reference).float().log_softmax(-1)
    return F.kl_div(lm.logits(hidden).float().log_softmax(-1), target, reduction="none", log_target=True).sum(-1)


def _refuse_infeasible(batch: Batch, is_target: Tensor, num_frames: Tensor) -> None:
    faults = []
    for row, available in enumerate(num_frames.tolist()):
        tokens = batch.token_ids[row][is_target[row]]
        needed = len(tokens) + int((tokens[1:] == tokens[:-1]).sum())
        if needed > available:
            faults.append(f"{batch.ids[row]!r} needs {needed} frames and has {available}")
    if faults:
        raise TrainingError(
            f"{len(faults)} of {batch.num_rows} rows cannot be aligned by CTC: {'; '.join(faults)}; leave these "
            "rows out, or give longer audio"
        )

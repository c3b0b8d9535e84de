"""SpeechMapper's first stage: a projector learns to say a transcript in token embeddings, and no LLM runs.

published   slot i of the output is token i, pads follow:   alpha MSE_word + (10 - alpha) MSE_pad - gamma cos
aligned     CTC says which frames are token i; their vector: ctc + l1 + cosine + contrast, each with its weight

Both are sums: of clips (published, whose terms are means inside a clip) or of tokens (aligned). What they need of a row
is the transcript of its clips; whether it is an ASR row or any other is nothing to them.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import pydantic
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sonant.audio.features import FeatureSpec
from sonant.batch import Batch, Example
from sonant.config import Config
from sonant.errors import ModelError, TrainingError
from sonant.models.adapters.ctc_pooling import CTCPoolingAdapter
from sonant.models.alignment import forced_alignment, segments
from sonant.models.candidates import Candidates, draw_candidates
from sonant.models.encoders.base import valid_mask
from sonant.models.losses import LossOutput, unwrap
from sonant.models.projector import Head, Projector


class PublishedMappingConfig(Config):
    """Left-justified targets and mean squared errors. Defaults: arXiv 2601.20417."""

    kind: Literal["published"] = "published"
    alpha: float = pydantic.Field(5.0, ge=0, le=10)  # weight of the words; the pads' is 10 - alpha
    gamma: float = pydantic.Field(100.0, ge=0)  # weight of the cosine
    divide_by_rms: bool = False  # of the table: entries of about 1e-2 make the squared error vanish beside the cosine


class AlignedMappingConfig(Config):
    """A vector a token, compared with that token's embedding; a weight of 0 leaves its term out."""

    kind: Literal["aligned"] = "aligned"
    ctc: float = pydantic.Field(1.0, gt=0)  # without it nothing aligns
    l1: float = pydantic.Field(1.0, ge=0)  # mean absolute difference of the entries
    cosine: float = pydantic.Field(1.0, ge=0)  # 1 - cosine
    contrast: float = pydantic.Field(0.1, ge=0)  # cross entropy over cosines with the vocabulary
    temperature: float = pydantic.Field(0.1, gt=0)  # of it
    # CTC and contrast tell the batch's own tokens apart, and so many that are drawn to stand for all others; None: all
    negatives: int | None = pydantic.Field(1024, gt=0)
    divide_by_rms: bool = True  # the l1, by the table's root mean square
    centred: bool = True  # cosines of vectors less the table's mean, which all embeddings share


MappingConfig = Annotated[PublishedMappingConfig | AlignedMappingConfig, pydantic.Field(discriminator="kind")]


@dataclass(frozen=True)
class LeftJustified:
    """What every slot of an output should be.

    tokens    the  cat            lengths 5
    targets   the  cat  pad pad pad
    is_word    x    x    x  .   .      with the first pad: it says that the text ends here
    is_pad     .    .    .  x   x
    """

    targets: Tensor  # (A, T', D), zeros past the lengths
    is_word: Tensor  # (A, T') bool
    is_pad: Tensor  # (A, T') bool


class MappingLoss:
    """The loss of a projector over the transcribed clips of a batch (`Batch.transcript_ids`); its parts are the terms.

    A clip whose transcript is not known counts nothing.
    """

    def __init__(self, config: PublishedMappingConfig | AlignedMappingConfig) -> None:
        self.config = config

    def weight(self, batch: Batch) -> float:
        """Returns the number of transcribed clips (published) or of their tokens (aligned)."""
        counts = batch.transcript_lengths
        return float((counts > 0).sum() if self.config.kind == "published" else counts.sum())

    def __call__(self, model: nn.Module, batch: Batch) -> LossOutput:
        """Returns the sum over the batch; without a transcribed clip it is zero and can still be differentiated.

        Raises: TrainingError, with the ids, if the text of a row does not fit into its audio.
        """
        projector = unwrap(model)
        assert isinstance(projector, Projector)
        known = batch.transcript_lengths > 0
        if not bool(known.any()):
            return LossOutput(projector.at_rest(), 0.0, {})
        head = projector.head_for(batch)
        frames, lengths = batch.features[projector.spec][known], batch.feature_lengths[projector.spec][known]
        ids, counts = batch.transcript_ids[known], batch.transcript_lengths[known]
        places = [batch.ids[row] for row in batch.audio_row[known].tolist()]
        faults = [
            f"{place!r} {fault}"
            for place, said, count, length in zip(places, ids.tolist(), counts.tolist(), lengths.tolist(), strict=True)
            if (fault := self.misfit(head, said[:count], length))
        ]
        if faults:
            raise TrainingError(f"{len(faults)} of {len(places)} clips do not fit: {'; '.join(faults)}; leave them out")
        terms = mapping_terms(self.config, head, (frames, lengths), (ids, counts))
        total = torch.stack([_weight_of(self.config, name) * term for name, term in terms.items()]).sum()
        if len(projector.heads) > 1:
            total = total + projector.at_rest()
        weight = self.weight(batch)
        return LossOutput(total, weight, {name: (term.detach(), weight) for name, term in terms.items()})

    def refuse_misfit(self, head: Head, spec: FeatureSpec, example: Example) -> None:
        """Raises TrainingError for a row that this loss would refuse, so that it can be left out, and counted."""
        for frames, said in zip(example.features[spec], example.transcript_ids, strict=True):
            if fault := self.misfit(head, said.tolist(), len(frames)):
                raise TrainingError(f"{example.id!r} {fault}")

    def misfit(self, head: Head, token_ids: Sequence[int], num_frames: int) -> str:
        """Returns why a text cannot be said in so many frames; nothing if it can.

        published: the tokens and one pad need a slot each. aligned: a token needs a frame, one more between equals.
        """
        if not token_ids:
            return ""
        slots = int(head.adapter.output_lengths(torch.tensor([num_frames])))
        extra = 1 if self.config.kind == "published" else sum(a == b for a, b in itertools.pairwise(token_ids))
        needed, unit = len(token_ids) + extra, "vectors" if self.config.kind == "published" else "frames"
        return f"needs {needed} {unit} and has {slots}" if needed > slots else ""


def left_justified(token_ids: Tensor, counts: Tensor, lengths: Tensor, *, table: Tensor, pad: Tensor) -> LeftJustified:
    """Returns the targets of outputs that are `lengths` (A,) long, for `counts` (A,) of token_ids (A, N).

    Shapes: table (V, D), pad (D,). Slots past a clip's own length have no target: the batch's padding costs nothing.

    Raises: ModelError for a text that leaves no slot for a pad; none is ever cut.
    """
    if bool((counts >= lengths).any()):
        worst = int((counts - lengths).argmax())
        raise ModelError(
            f"{int(counts[worst])} tokens and a pad do not fit into {int(lengths[worst])} vectors; leave this row out"
        )
    size = int(lengths.max())
    slots = torch.arange(size, device=lengths.device)
    ids = F.pad(token_ids, (0, max(0, size - token_ids.shape[1])))[:, :size]
    real = valid_mask(lengths, size)
    is_token = slots < counts[:, None]
    targets = torch.where(is_token[..., None], table[ids], pad.to(table)) * real[..., None]
    is_word = slots <= counts[:, None]
    return LeftJustified(targets, is_word & real, ~is_word & real)


def grouped_mse(vectors: Tensor, slots: LeftJustified) -> tuple[Tensor, Tensor]:
    """Returns the mean squared error of each clip's words (A,) and pads (A,); 0 where there is none of them."""
    errors = (vectors.float() - slots.targets.float()).square().mean(-1)
    return _clip_mean(errors, slots.is_word), _clip_mean(errors, slots.is_pad)


def mapping_terms(
    config: PublishedMappingConfig | AlignedMappingConfig,
    head: Head,
    heard: tuple[Tensor, Tensor],
    said: tuple[Tensor, Tensor],
) -> dict[str, Tensor]:
    """Returns the terms of a mapping loss, each summed, not weighted, as () tensors.

    heard: frames (A, T, E) and their numbers (A,); said: token ids (A, N) right-padded, and their counts (A,) from 1.
    """
    if isinstance(config, PublishedMappingConfig):
        return _published_terms(config, head, heard, said)
    return _aligned_terms(config, head, heard, said)


def _published_terms(
    config: PublishedMappingConfig, head: Head, heard: tuple[Tensor, Tensor], said: tuple[Tensor, Tensor]
) -> dict[str, Tensor]:
    vectors, lengths = head.adapter(*heard)
    slots = left_justified(*said, lengths, table=head.table, pad=head.pad)
    scale = head.rms**2 if config.divide_by_rms else 1.0
    word, pad = grouped_mse(vectors, slots)
    cosine = _clip_mean(F.cosine_similarity(vectors.float(), slots.targets.float(), dim=-1), slots.is_word)
    terms = {"word": word / scale, "pad": pad / scale, "cosine": cosine}
    return {name: term.sum() for name, term in terms.items()}


def _aligned_terms(
    config: AlignedMappingConfig, head: Head, heard: tuple[Tensor, Tensor], said: tuple[Tensor, Tensor]
) -> dict[str, Tensor]:
    adapter, (ids, counts) = head.adapter, said
    if not isinstance(adapter, CTCPoolingAdapter):
        raise ModelError(f"{type(adapter).__name__} aligns nothing; the aligned loss needs an adapter ctc_pooling")
    real = valid_mask(counts, ids.shape[1])
    among = draw_candidates(ids[real], vocab_size=adapter.vocab_size, num_drawn=config.negatives)
    hidden, lengths = adapter.listen(*heard)
    logits = adapter.ctc_logits(hidden, among=among)
    if among is None:
        scores, places = logits.float(), ids
    else:
        scores, places = logits.float() + F.pad(among.log_weights, (0, 1)), among.places(ids)
    log_probs = scores.log_softmax(-1)
    blank = log_probs.shape[-1] - 1
    ctc = F.ctc_loss(log_probs.transpose(0, 1), places, lengths, counts, blank=blank, reduction="sum")
    own = forced_alignment(log_probs.detach(), lengths, places, counts)
    segment, spoken, _ = segments(own, lengths)
    vectors = adapter.pool(hidden, logits, segment, spoken, size=ids.shape[1], among=among)
    return {"ctc": ctc} | _vector_terms(config, head, vectors[real].float(), ids[real], among)


def _vector_terms(
    config: AlignedMappingConfig, head: Head, vectors: Tensor, ids: Tensor, among: Candidates | None
) -> dict[str, Tensor]:
    """The terms that compare (M, D) vectors with the embeddings of ids (M,)."""
    table, terms = head.table, {}
    targets = table[ids].float()
    centre = head.centre if config.centred else torch.zeros_like(head.centre)
    if config.l1:
        terms["l1"] = (vectors - targets).abs().mean(-1).sum() / (head.rms if config.divide_by_rms else 1.0)
    if config.cosine:
        terms["cosine"] = (1 - F.cosine_similarity(vectors - centre, targets - centre, dim=-1)).sum()
    if config.contrast:
        known = table if among is None else table[among.token_ids]
        cosines = F.normalize(vectors - centre, dim=-1) @ F.normalize(known.float() - centre, dim=-1).T
        logits, places = cosines / config.temperature, ids
        if among is not None:
            logits, places = logits + among.log_weights, among.places(ids)
        terms["contrast"] = F.cross_entropy(logits, places, reduction="sum")
    return terms


def _weight_of(config: PublishedMappingConfig | AlignedMappingConfig, name: str) -> float:
    if isinstance(config, AlignedMappingConfig):
        return float(getattr(config, name))
    return {"word": config.alpha, "pad": 10 - config.alpha, "cosine": -config.gamma}[name]


def _clip_mean(values: Tensor, mask: Tensor) -> Tensor:
    """(A, T') -> (A,): the mean over the slots of `mask`, 0 without any."""
    return (values * mask).sum(1) / mask.sum(1).clamp(min=1)

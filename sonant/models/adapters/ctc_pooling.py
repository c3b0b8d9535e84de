"""An adapter that gives one vector for each token heard."""

from collections.abc import Sequence
from typing import Literal

import pydantic
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sonant.config import Config
from sonant.errors import ModelError
from sonant.models.encoders.base import valid_mask, zero_padding


class CTCPoolingConfig(Config):
    """Pools the frames of each token that a CTC head hears."""

    kind: Literal["ctc_pooling"] = "ctc_pooling"
    vocab_size: int | None = None  # tokens without blank; None: the language model's
    hidden_dim: int | None = None  # None: the language model's width
    soft_embedding: bool = True  # start as a cascade: expected embedding of the token heard
    scale: float = 1.0  # of that embedding
    posterior_temperature: float = pydantic.Field(1.0, gt=0.0)
    blank_penalty: float = pydantic.Field(0.0, ge=0.0)  # nats; keeps tokens that a greedy recogniser would drop


class CTCPoolingAdapter(nn.Module):
    """One vector for each token that a CTC head hears: a soft cascade that can learn to say more.

    A spike is a run of frames with the same best token, blank aside; its segment also holds the blanks before it.
    Blanks after the last spike are left out; a clip without a spike is one segment. `blank_penalty` is taken from the
    blank's logit first: what greedy CTC leaves out is lost to any reader, an uncertain token need not be believed.

        best token   _ _ a a _ b b c _ _         (_ = blank, the last of the V + 1 classes)
        segment      1 1 1 1 2 2 2 3 . .    ->   3 vectors

    vector = scale * soft + MLP(norm(mean frame of the segment), norm(soft))
    soft   = mean over the spike's frames of softmax(logits without blank / temperature) @ embedding table

    With two encoders the CTC head reads the first one's channels, the MLP all: the first hears what is said.

    The MLP ends in zeros, so at the start the vectors are expected token embeddings. Set the table by `anchor`.
    Without `soft_embedding` there is neither table nor zeros: vector = MLP(norm(mean frame)).
    Source: after LegoSLM (Ma et al. 2025). Differs from it in one vector a spike, not a frame, and in the MLP.
    """

    table: Tensor | None  # (V, D), frozen; not saved: it belongs to the language model

    def __init__(self, config: CTCPoolingConfig, *, in_dims: Sequence[int], out_dim: int, vocab_size: int) -> None:
        super().__init__()
        in_dim = sum(in_dims)
        self.in_dim, self.out_dim, self.vocab_size = in_dim, out_dim, vocab_size
        self.heard_dim = in_dims[0]
        self.scale, self.temperature, self.soft = config.scale, config.posterior_temperature, config.soft_embedding
        self.blank_penalty = config.blank_penalty
        self.ctc_head = nn.Linear(self.heard_dim, vocab_size + 1)
        self.norm = nn.LayerNorm(in_dim)
        self.soft_norm = nn.LayerNorm(out_dim) if self.soft else None
        hidden_dim = config.hidden_dim or out_dim
        last = nn.Linear(hidden_dim, out_dim)
        if self.soft:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(nn.Linear(in_dim + self.soft * out_dim, hidden_dim), nn.GELU(), last)
        self.register_buffer("table", None, persistent=False)

    def anchor(self, table: Tensor) -> None:
        """Sets the embedding table (V, out_dim) of the tokens that the CTC head tells apart; it is not trained.

        Raises: ModelError if its shape does not fit, or if the adapter was built without soft embeddings.
        """
        if not self.soft or table.shape != (self.vocab_size, self.out_dim):
            expected = f"({self.vocab_size}, {self.out_dim})" if self.soft else "none (soft_embedding is off)"
            raise ModelError(f"adapter ctc_pooling: embedding table {tuple(table.shape)}; expected {expected}")
        self.table = table.detach()

    def ctc_logits(self, frames: Tensor) -> Tensor:
        """Returns logits (A, T, V + 1) of `frames` (A, T, in_dim); blank is the last."""
        logits: Tensor = self.ctc_head(frames[..., : self.heard_dim])
        return logits

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Returns the most vectors (A,) that `lengths` (A,) frames can give: one a frame, never none."""
        return lengths.clamp(min=1)

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Returns vectors (A, T', out_dim) of `frames` (A, T, in_dim), and their real lengths (A,)."""
        frames = zero_padding(frames, lengths)
        logits = self.ctc_logits(frames)
        best = torch.cat([logits[..., :-1], logits[..., -1:] - self.blank_penalty], dim=-1).argmax(dim=-1)
        segment, heard, output_lengths = spikes(best, lengths, blank=self.vocab_size)
        size = int(output_lengths.max()) if len(lengths) else 1
        vectors = self.norm(mean_by_segment(frames, segment, segment >= 0, size=size))
        if not self.soft:
            return zero_padding(self.mlp(vectors), output_lengths), output_lengths
        soft = mean_by_segment(self._expected_embeddings(logits, heard), segment, heard, size=size)
        assert self.soft_norm is not None
        vectors = self.scale * soft + self.mlp(torch.cat([vectors, self.soft_norm(soft)], dim=-1))
        return zero_padding(vectors, output_lengths), output_lengths

    def _expected_embeddings(self, logits: Tensor, heard: Tensor) -> Tensor:
        """(A, T, V + 1) -> (A, T, D), computed at the frames `heard` (A, T) only: the vocabulary may be large."""
        if self.table is None:
            raise ModelError("adapter ctc_pooling: no embedding table; call anchor(table) or set soft_embedding=false")
        posterior = (logits[heard][:, :-1].float() / self.temperature).softmax(dim=-1)
        expected = logits.new_zeros(*heard.shape, self.out_dim)
        expected[heard] = (posterior.to(self.table.dtype) @ self.table).to(expected.dtype)
        return expected


def spikes(best: Tensor, lengths: Tensor, *, blank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns segment (A, T) int64 from 0, -1 outside; heard (A, T) bool: a spike's own frames; the segments' number.

    `best` (A, T) is each frame's best class, `lengths` (A,) its real frames. A clip without a spike is one segment,
    heard throughout.
    """
    real = valid_mask(lengths, best.shape[1])
    best = best.masked_fill(~real, blank)
    heard = best != blank
    starts = heard & (best != F.pad(best, (1, 0), value=blank)[:, :-1])
    count = starts.sum(dim=1)
    # Frames of spike i have seen i + 1 starts, the blanks before it i.
    segment = starts.cumsum(dim=1) - heard.long()
    silent = (count == 0)[:, None]
    segment = segment.masked_fill(~real | (~silent & (segment >= count[:, None])), -1)
    return segment, heard | (silent & real), count.clamp(min=1)


def mean_by_segment(frames: Tensor, segment: Tensor, used: Tensor, *, size: int) -> Tensor:
    """Returns means (A, size, D) of those `frames` (A, T, D) that are `used` (A, T), by `segment` (A, T).

    A segment without a used frame gives zeros.
    """
    # (A, size, T): which frames each segment averages
    member = (segment[:, None] == torch.arange(size, device=segment.device)[:, None]) & used[:, None]
    weight = member.to(frames.dtype) / member.sum(dim=2, keepdim=True).clamp(min=1)
    return weight.to(frames.dtype) @ frames

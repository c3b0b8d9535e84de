"""An adapter that gives one vector for each token heard."""

from collections.abc import Sequence
from typing import Literal

import pydantic
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sonant.config import Config
from sonant.errors import ModelError
from sonant.models.adapters.voice import VoiceVector
from sonant.models.alignment import mean_by_segment, spikes
from sonant.models.candidates import Candidates
from sonant.models.conv_transformer import ConvTrunk, ConvTrunkConfig
from sonant.models.encoders.base import zero_padding


class CTCPoolingConfig(Config):
    """Pools the frames of each token that a CTC head hears."""

    kind: Literal["ctc_pooling"] = "ctc_pooling"
    trunk: ConvTrunkConfig | None = None  # before the CTC head, for an encoder that has not learned to spell
    head: Literal["linear", "distance"] = "linear"  # distance: to the LLM's embeddings, no weights for each token
    distance_temperature: float = pydantic.Field(0.1, gt=0.0)
    vocab_size: int | None = pydantic.Field(None, ge=1)  # tokens without blank; None: the language model's
    hidden_dim: int | None = pydantic.Field(None, ge=1)  # None: the language model's width
    soft_embedding: bool = True  # start as a cascade: expected embedding of the token heard
    scale: float = 1.0  # of that embedding
    posterior_temperature: float = pydantic.Field(1.0, gt=0.0)
    blank_penalty: float = pydantic.Field(0.0, ge=0.0)  # nats; keeps tokens that a greedy recogniser would drop
    voice_parts: int = pydantic.Field(0, ge=0)  # of a clip, compared in a vector before the tokens; 0: no such vector


class CTCPoolingAdapter(nn.Module):
    """One vector for each token that a CTC head hears: a soft cascade that can learn to say more.

    A spike is a run of frames with the same best token, blank aside; its segment also holds the blanks before it.
    Blanks after the last spike are left out; a clip without a spike is one segment. `blank_penalty` is taken from the
    blank's logit first: what greedy CTC leaves out is lost to any reader, an uncertain token need not be believed.

        best token   _ _ a a _ b b c _ _         (_ = blank, the last of the V + 1 classes)
        segment      1 1 1 1 2 2 2 3 . .    ->   3 vectors

    vector = scale * soft + MLP(norm(mean frame of the segment), norm(soft))
    soft   = mean over the spike's frames of softmax(logits without blank / temperature) @ embedding table

    With two encoders the CTC head reads the first one's channels, the MLP all: the first hears what is said. With a
    trunk, which reads all channels, "frame" means one of its output, and both read all of it.

    The MLP ends in zeros, so at the start the vectors are expected token embeddings. Set the table by `anchor`.
    Without `soft_embedding` there is neither table nor zeros: vector = MLP(norm(mean frame)).

    With `voice_parts` one more vector comes first (`VoiceVector`), of the last encoder's frames: tokens are short, and
    who speaks shows in the whole.
    Source: after LegoSLM (Ma et al. 2025). Differs from it in one vector a spike, not a frame, and in the MLP; the
    distance head after DirectSpeech2LLM.
    """

    table: Tensor | None  # (V, D), frozen; not saved: it belongs to the language model
    mean_square: Tensor | None  # () float32, of the lengths of its rows

    def __init__(self, config: CTCPoolingConfig, *, in_dims: Sequence[int], out_dim: int, vocab_size: int) -> None:
        super().__init__()
        self.in_dim, self.out_dim, self.vocab_size = sum(in_dims), out_dim, vocab_size
        self.scale, self.temperature, self.soft = config.scale, config.posterior_temperature, config.soft_embedding
        self.blank_penalty = config.blank_penalty
        self.trunk = ConvTrunk(config.trunk, in_dim=self.in_dim) if config.trunk is not None else None
        dim, self.heard_dim = self.in_dim, in_dims[0]
        if self.trunk is not None:
            dim = self.heard_dim = self.trunk.out_dim
        self.ctc_head: nn.Linear | DistanceHead = (
            nn.Linear(self.heard_dim, vocab_size + 1)
            if config.head == "linear"
            else DistanceHead(self.heard_dim, out_dim, temperature=config.distance_temperature)
        )
        self.voice = (
            VoiceVector(dim=in_dims[-1], out_dim=out_dim, num_parts=config.voice_parts) if config.voice_parts else None
        )
        self.norm = nn.LayerNorm(dim)
        self.soft_norm = nn.LayerNorm(out_dim) if self.soft else None
        hidden_dim = config.hidden_dim or out_dim
        last = nn.Linear(hidden_dim, out_dim)
        if self.soft:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(nn.Linear(dim + self.soft * out_dim, hidden_dim), nn.GELU(), last)
        self.register_buffer("table", None, persistent=False)
        self.register_buffer("mean_square", None, persistent=False)

    @property
    def needs_table(self) -> bool:
        """Whether it works only after `anchor`."""
        return self.soft or isinstance(self.ctc_head, DistanceHead)

    def anchor(self, table: Tensor) -> None:
        """Sets the embedding table (V, out_dim) of the tokens that the CTC head tells apart; it is not trained.

        Raises: ModelError if its shape does not fit, or if the adapter was built to do without.
        """
        if not self.needs_table or table.shape != (self.vocab_size, self.out_dim):
            expected = f"({self.vocab_size}, {self.out_dim})" if self.needs_table else "none (soft_embedding is off)"
            raise ModelError(f"adapter ctc_pooling: embedding table {tuple(table.shape)}; expected {expected}")
        self.table = table.detach()
        self.mean_square = _squares(self.table).mean()

    def listen(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Returns what is pooled, (A, T', H), zeros past their lengths, and the lengths (A,): the trunk's output.

        Without a trunk, the `frames` (A, T, in_dim) and `lengths` (A,) themselves.
        """
        if self.trunk is None:
            return zero_padding(frames, lengths), lengths
        hidden, lengths = self.trunk(frames, lengths)
        return hidden, lengths

    def ctc_logits(self, hidden: Tensor, *, among: Candidates | None = None) -> Tensor:
        """Returns logits (A, T', V + 1) of what `listen` gives (A, T', H); blank is the last.

        among: the C tokens to tell apart, if not all: (A, T', C + 1) then, not weighted.
        """
        heard = hidden[..., : self.heard_dim]
        if isinstance(self.ctc_head, DistanceHead):
            logits: Tensor = self.ctc_head(heard, self._embeddings(among), self.mean_square)
            return logits
        if among is None:
            return self.ctc_head(heard)
        classes = F.pad(among.token_ids, (0, 1), value=self.vocab_size)
        return F.linear(heard, self.ctc_head.weight[classes], self.ctc_head.bias[classes])

    def pool(
        self,
        hidden: Tensor,
        logits: Tensor,
        segment: Tensor,
        heard: Tensor,
        *,
        size: int,
        among: Candidates | None = None,
    ) -> Tensor:
        """Returns the vectors (A, size, out_dim) of a segmentation: what is heard (`spikes`), or known to be said.

        Shapes: hidden (A, T', H), and what `ctc_logits` gives for it; segment (A, T') int64 and heard (A, T') bool as
        `sonant.models.alignment.segments` gives them. Vectors of segments that a clip lacks mean nothing.
        """
        vectors = self.norm(mean_by_segment(hidden, segment, segment >= 0, size=size))
        if not self.soft:
            return self.mlp(vectors)
        soft = mean_by_segment(self._expected_embeddings(logits, heard, among), segment, heard, size=size)
        assert self.soft_norm is not None
        return self.scale * soft + self.mlp(torch.cat([vectors, self.soft_norm(soft)], dim=-1))

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Returns the most vectors (A,) that `lengths` (A,) frames can give: one a frame and the voice; never none."""
        most = (lengths if self.trunk is None else self.trunk.output_lengths(lengths)).clamp(min=1)
        return most if self.voice is None else most + 1

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Returns vectors (A, T', out_dim) of `frames` (A, T, in_dim), and their real lengths (A,)."""
        hidden, heard_lengths = self.listen(frames, lengths)
        logits = self.ctc_logits(hidden)
        best = torch.cat([logits[..., :-1], logits[..., -1:] - self.blank_penalty], dim=-1).argmax(dim=-1)
        segment, heard, output_lengths = spikes(best, heard_lengths, blank=self.vocab_size)
        size = int(output_lengths.max()) if len(lengths) else 1
        vectors = self.pool(hidden, logits, segment, heard, size=size)
        if self.voice is not None:
            voice = self.voice(frames[..., -self.voice.norm.normalized_shape[0] :], lengths, output_lengths)
            vectors, output_lengths = torch.cat([voice.to(vectors.dtype), vectors], dim=1), output_lengths + 1
        return zero_padding(vectors, output_lengths), output_lengths

    def _expected_embeddings(self, logits: Tensor, heard: Tensor, among: Candidates | None) -> Tensor:
        """(A, T, V + 1) -> (A, T, D), computed at the frames `heard` (A, T) only: the vocabulary may be large."""
        table = self._embeddings(among)
        scores = logits[heard][:, :-1].float() / self.temperature
        posterior = (scores if among is None else scores + among.log_weights).softmax(dim=-1)
        expected = logits.new_zeros(*heard.shape, self.out_dim)
        expected[heard] = (posterior.to(table.dtype) @ table).to(expected.dtype)
        return expected

    def _embeddings(self, among: Candidates | None) -> Tensor:
        if self.table is None:
            raise ModelError(
                "adapter ctc_pooling: no embedding table; call anchor(table) or set soft_embedding=false, head=linear"
            )
        return self.table if among is None else self.table[among.token_ids]


class DistanceHead(nn.Module):
    """A CTC head whose weights are the LLM's embeddings: the nearer a frame's projection, the likelier the token.

        logit of token v = -|p - e_v|^2 / (temperature * mean |e|^2)        p: the frame's projection, e_v: its row
        logit of blank   = linear(frame) - 1 / temperature                  at p = 0, that of an average token

    Source: DirectSpeech2LLM's CTC over distances; the units and the blank are our choice.
    """

    def __init__(self, in_dim: int, out_dim: int, *, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.projection = nn.Linear(in_dim, out_dim)
        self.blank = nn.Linear(in_dim, 1)

    def forward(self, frames: Tensor, table: Tensor, mean_square: Tensor) -> Tensor:
        """Returns logits (A, T, V + 1) float32 of `frames` (A, T, in_dim).

        table: embeddings (V, out_dim) of all tokens, or of those that are told apart; mean_square: () of all.
        """
        # A projection of the table's own scale at the start: the same for tables of any unit.
        projected = self.projection(frames).float() * mean_square.div(table.shape[1]).sqrt()
        products = (projected.to(table.dtype) @ table.T).float()
        distances = projected.square().sum(dim=-1, keepdim=True) - 2 * products + _squares(table)
        tokens = -distances / (self.temperature * mean_square)
        return torch.cat([tokens, self.blank(frames).float() - 1 / self.temperature], dim=-1)


def _squares(table: Tensor) -> Tensor:
    """The squared lengths (V,) float32 of a table's rows."""
    return torch.linalg.vector_norm(table, dim=-1, dtype=torch.float32).square()

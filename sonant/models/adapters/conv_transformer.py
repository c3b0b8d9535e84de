"""SpeechMapper's projector: frames to a fixed number of vectors, tokens first and pads after them."""

from typing import Literal

import pydantic
import torch
from torch import Tensor, nn

from sonant.config import Config
from sonant.errors import ModelError
from sonant.models.conv_transformer import ConvTrunk, ConvTrunkConfig
from sonant.models.embedding_table import nearest
from sonant.models.encoders.base import valid_mask, zero_padding


class SnapConfig(Config):
    """Replaces a vector by a mix of the real embeddings nearest to it; k = 1 is the nearest one itself."""

    k: int = pydantic.Field(8, ge=1)
    temperature: float = pydantic.Field(0.05, gt=0.0)  # of the softmax over cosines


class ConvTransformerConfig(ConvTrunkConfig):
    """SpeechMapper's projector. Defaults: as published (277,031,936 parameters from width 1024 to 4096)."""

    kind: Literal["conv_transformer"] = "conv_transformer"
    hidden_dim: int | None = None  # of the head; None: the language model's width
    pad_id: int | None = None  # reserved token whose embedding is the pad; None: one is made (`pad_vector`)
    keep_pads: int | None = pydantic.Field(None, ge=0)  # pads the LLM gets to read; None: all
    snap: SnapConfig | None = None


class ConvTransformerAdapter(nn.Module):
    """A trunk, then linear, GELU, linear. Slot i of a clip stands for token i of what is said, whenever it is said.

        25 Hz        x x x x x x x x x x x x        T' = 1 + floor(a / 2), a = 1 + floor(T / 2)
        6.25 Hz      y1  y2  pad pad                a pad is a slot nearer to the pad vector than to any token

    In evaluation, and only then, `keep_pads` cuts a clip after so many pads from its first one on (a clip keeps one
    vector at least), and `snap` replaces what is left; both need `anchor`. Source: arXiv 2601.20417, whose LLM reads
    all pads and raw vectors; the head's form is inferred from the published size.
    """

    known: Tensor | None  # (V + 1, D) the LLM's table and, last, the pad; frozen; not saved: they are not ours

    def __init__(self, config: ConvTransformerConfig, *, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.in_dim, self.out_dim = in_dim, out_dim
        self.pad_id, self.keep_pads, self.snap = config.pad_id, config.keep_pads, config.snap
        self.trunk = ConvTrunk(config, in_dim=in_dim)
        hidden_dim = config.hidden_dim or out_dim
        self.head = nn.Sequential(nn.Linear(self.trunk.out_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, out_dim))
        self.register_buffer("known", None, persistent=False)

    @property
    def needs_table(self) -> bool:
        """Whether it answers only after `anchor`."""
        return self.keep_pads is not None or self.snap is not None

    def anchor(self, table: Tensor, pad: Tensor) -> None:
        """Copies the LLM's embedding table (V, out_dim) and the pad vector (out_dim,); neither is trained.

        Raises: ModelError if a shape does not fit.
        """
        if table.dim() != 2 or table.shape[1] != self.out_dim or pad.shape != (self.out_dim,):
            raise ModelError(
                f"adapter conv_transformer: table {tuple(table.shape)} and pad {tuple(pad.shape)}; "
                f"expected (V, {self.out_dim}) and ({self.out_dim},)"
            )
        self.known = torch.cat([table.detach(), pad.detach()[None].to(table)])

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Returns how many vectors (A,) clips of `lengths` (A,) frames give; at most, if pads are cut."""
        return self.trunk.output_lengths(lengths)

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Returns vectors (A, T', out_dim) of `frames` (A, T, in_dim), and their lengths (A,)."""
        hidden, lengths = self.trunk(frames, lengths)
        vectors = self.head(hidden)
        if not self.training and self.keep_pads is not None:
            lengths = self.lengths_to_first_pad(vectors, lengths, keep=self.keep_pads)
            vectors = vectors[:, : int(lengths.max())] if len(lengths) else vectors
        if not self.training and self.snap is not None:
            vectors = self._snapped(vectors, self.snap)
        return zero_padding(vectors, lengths), lengths

    def lengths_to_first_pad(self, vectors: Tensor, lengths: Tensor, *, keep: int) -> Tensor:
        """Returns how many of `lengths` (A,) vectors (A, T', D) stand before a clip's first pad, and `keep` more.

        Never less than one, of a clip that has any.
        """
        known = self._known()
        is_pad = _pads(known)[nearest(vectors, known)[1][..., 0]] | ~valid_mask(lengths, vectors.shape[1])
        num_tokens = (~is_pad).cumprod(dim=1).sum(dim=1)
        return torch.minimum((num_tokens + keep).clamp(min=1), lengths)

    def _snapped(self, vectors: Tensor, snap: SnapConfig) -> Tensor:
        known = self._known()
        cosines, ids = nearest(vectors, known, k=min(snap.k, len(known)))
        is_pad = _pads(known)[ids]
        # A pad is no word: where it is nearest it stays alone, elsewhere it has no share.
        weights = cosines.masked_fill(is_pad != is_pad[..., :1], -torch.inf).div(snap.temperature).softmax(dim=-1)
        return (weights.to(known.dtype)[..., None, :] @ known[ids]).squeeze(-2).to(vectors.dtype)

    def _known(self) -> Tensor:
        if self.known is None:
            raise ModelError(
                "adapter conv_transformer: keep_pads and snap need the LLM's table; call anchor(table, pad)"
            )
        return self.known


def _pads(known: Tensor) -> Tensor:
    """(V + 1,) bool: the pad, and the row of the table that it is taken from, if it is one."""
    return (known == known[-1]).all(dim=1)

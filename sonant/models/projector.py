"""A projector alone: frames of an encoder in, vectors of an LLM's embedding space out, and the LLM itself nowhere.

frames ── trunk ──┬── head ─▶ vectors near the embeddings of one LLM
                  └── head ─▶ ... of another, if there are several
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sonant.audio.features import FeatureSpec
from sonant.batch import Batch
from sonant.errors import CheckpointError, ModelError
from sonant.models.adapters.base import Adapter, build_adapter
from sonant.models.adapters.conv_transformer import ConvTransformerAdapter
from sonant.models.adapters.ctc_pooling import CTCPoolingAdapter
from sonant.models.build import SpeechLMConfig
from sonant.models.embedding_table import nearest, pad_vector, read_embedding_table
from sonant.models.encoders.base import SpeechEncoder
from sonant.models.speech_lm import SpeechLM


@dataclass(frozen=True)
class Reading:
    """What an output says when every vector is read as the token nearest to it, up to the first pad."""

    said: tuple[int, ...]  # the tokens of the text
    token_ids: tuple[int, ...]
    cosines: tuple[float, ...]  # of vector i with token i of the text, for those that both have
    norm_ratios: tuple[float, ...]  # their lengths, predicted / the token's


class Head(nn.Module):
    """An adapter and the embedding table (V, D) that its vectors are measured by; the table is never trained or saved.

    pad_id: see `sonant.models.embedding_table.pad_vector`.
    """

    table: Tensor  # (V, D)
    pad: Tensor  # (D,)
    centre: Tensor  # (D,) float32, the mean embedding
    rms: Tensor  # () float32, of the table's entries

    def __init__(self, adapter: Adapter, table: Tensor, *, pad_id: int | None = None) -> None:
        super().__init__()
        self._adapter = cast("nn.Module", adapter)
        table = table.detach()
        pad = pad_vector(table, pad_id)
        if isinstance(adapter, CTCPoolingAdapter) and adapter.needs_table:
            adapter.anchor(table[: adapter.vocab_size])
        if isinstance(adapter, ConvTransformerAdapter):
            adapter.anchor(table, pad)
        facts = {
            "table": table,
            "pad": pad,
            "centre": table.float().mean(0),
            "rms": table.float().square().mean().sqrt(),
        }
        for name, value in facts.items():
            self.register_buffer(name, value, persistent=False)

    @property
    def adapter(self) -> Adapter:
        """The adapter."""
        return cast("Adapter", self._adapter)

    @torch.no_grad()
    def read(self, frames: Tensor, lengths: Tensor, token_ids: Tensor, counts: Tensor) -> list[Reading]:
        """Returns what each clip's output says, beside its text.

        Shapes: frames (A, T, E), of which lengths (A,) count; token_ids (A, N), of which counts (A,) count.
        Pads are known only to adapters whose outputs have them: one that pools says by itself how much is said.
        """
        vectors, sizes = self.adapter(frames, lengths)
        pools = isinstance(self.adapter, CTCPoolingAdapter)
        known = self.table if pools else torch.cat([self.table, self.pad[None]])
        best = nearest(vectors, known)[1][..., 0]  # (A, T')
        is_pad = (known == self.pad).all(-1)[best]
        readings = []
        for row, (size, count) in enumerate(zip(sizes.tolist(), counts.tolist(), strict=True)):
            said = size if pools else int((~is_pad[row, :size]).cumprod(0).sum())
            both = min(said, count)
            found, wanted = vectors[row, :both].float(), self.table[token_ids[row, :both]].float()
            readings.append(
                Reading(
                    tuple(token_ids[row, :count].tolist()),
                    tuple(best[row, :said].tolist()),
                    tuple(torch.cosine_similarity(found, wanted, dim=-1).tolist()),
                    tuple((found.norm(dim=-1) / wanted.norm(dim=-1)).tolist()),
                )
            )
        return readings


class Projector(nn.Module):
    """One head, or several on one trunk: a batch is for the head that its rows' task names, else for the first.

    spec: the frames it reads.

    Raises: ModelError if heads are to share a trunk and have none.
    """

    def __init__(self, heads: Mapping[str, Head], *, spec: FeatureSpec) -> None:
        super().__init__()
        self.spec = spec
        first, *others = heads.values()
        for other in others:
            if getattr(first.adapter, "trunk", None) is None:
                raise ModelError(
                    f"{type(first.adapter).__name__} has no trunk to share; train a projector for each LLM"
                )
            other.adapter.trunk = first.adapter.trunk  # type: ignore[attr-defined]
        self.heads = nn.ModuleDict(heads)

    def head(self, name: str) -> Head:
        """Returns a head by its name."""
        return cast("Head", self.heads[name])

    def head_for(self, batch: Batch) -> Head:
        """Returns the head whose tokens the transcripts are written in."""
        name = batch.tasks[0]
        return self.head(name if name in self.heads else next(iter(self.heads)))

    def read(self, batches: Iterable[Batch]) -> list[Reading]:
        """Returns what the first head says of every clip (see `Head.read`), computed where the weights are."""
        head, device = self.head(next(iter(self.heads))), next(self.parameters()).device
        readings: list[Reading] = []
        for batch in (batch.to(device) for batch in batches):
            frames, lengths = batch.features[self.spec], batch.feature_lengths[self.spec]
            readings += head.read(frames, lengths, batch.transcript_ids, batch.transcript_lengths)
        return readings

    def borrow_ctc_head(self, encoder: SpeechEncoder) -> None:
        """Starts the first head's CTC from the encoder's own. Raises: ModelError if their sizes differ."""
        own = getattr(encoder, "ctc_head", None)
        mine = getattr(self.head(next(iter(self.heads))).adapter, "ctc_head", None)
        if not isinstance(own, nn.Linear) or not isinstance(mine, nn.Linear) or own.weight.shape != mine.weight.shape:
            raise ModelError(f"{type(encoder).__name__} has no CTC head of this projector's size; borrow none")
        mine.load_state_dict(own.state_dict())

    def save(self, folder: Path) -> None:
        """Writes each head's adapter, with its trunk, to folder/NAME.safetensors."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in self.heads:
            adapter = cast("nn.Module", self.head(name).adapter)
            save_file({key: value.contiguous() for key, value in adapter.state_dict().items()}, folder / _file(name))

    def at_rest(self) -> Tensor:
        """Returns a zero () that depends on every trained parameter: each takes part in every micro-batch of a rank."""
        return 0.0 * torch.stack([p.sum() for p in self.parameters() if p.requires_grad]).sum()


def build_projector(config: SpeechLMConfig, *, spec: FeatureSpec, others: Mapping[str, str]) -> Projector:
    """Returns the projector of a model that is still to be built: one head "llm", and one for each of `others`.

    others: name -> folder or hub id of further LLMs. Of an LLM only its table is read; weights start random, so seed
    torch first.

    Raises: ModelError if a table cannot be read or the heads cannot share a trunk.
    """
    if config.llm.path is None:
        raise ModelError("llm: has an architecture and no weights, so that there is no embedding table; give its path")
    paths = {"llm": config.llm.path, **others}
    heads = {}
    for name, path in paths.items():
        table = read_embedding_table(path)
        adapter = build_adapter(config.adapter, in_dims=[spec.dim], out_dim=table.shape[1], vocab_size=len(table))
        heads[name] = Head(adapter, table, pad_id=getattr(config.adapter, "pad_id", None))
    return Projector(heads, spec=spec)


def load_projector(model: SpeechLM, folder: Path, *, name: str = "llm") -> None:
    """Fills `model.adapter` with what `Projector.save` wrote. Raises: CheckpointError if it does not fit."""
    path = folder / _file(name)
    try:
        model.adapter.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{path}: cannot be read as this model's adapter ({str(error).strip()})") from None


def _file(name: str) -> str:
    return f"{name}.safetensors"

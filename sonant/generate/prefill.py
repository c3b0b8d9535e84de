"""Reading prompts into a cache: each beginning once, each prompt once.

```
asked        system prompt, question 1        read    system prompt ─┬─ question 1 ─┬─ answer
             system prompt, question 1                               │              └─ another answer to it
             system prompt, question 2                               └─ question 2 ─── answer
```
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import torch
from torch import Tensor

from sonant.batch import Batch
from sonant.generate.kv_cache import KVCache
from sonant.generate.llm_step import CachedLLM, sees_everything
from sonant.models.llm import token_embeddings
from sonant.models.packing import Pack
from sonant.models.speech_lm import SpeechLM
from sonant.models.splice import Spliced, pad_left

_SHORTEST = 16  # tokens of a beginning that is worth keeping
_KEPT = 4  # beginnings


@dataclass(eq=False)
class Beginning:
    """Tokens that prompts began with, and what the LLM made of them: a cache of one row."""

    token_ids: list[int]
    cache: KVCache


class Beginnings:
    """The beginnings that were read last. What comes before the first recording of a prompt is text, and may recur."""

    def __init__(self, model: SpeechLM) -> None:
        self.model, self._kept = model, list[Beginning]()
        self._possible = sees_everything(model.llm)

    def of(self, batch: Batch, read: CachedLLM) -> Beginning | None:
        """Returns what all prompts of the batch begin with; None if that is short or would have to be read for one."""
        ids = _common(_openings(batch))
        if not self._possible or len(ids) < _SHORTEST:
            return None
        known = max(self._kept, key=lambda kept: _shared(kept.token_ids, ids), default=None)
        shared = 0 if known is None else _shared(known.token_ids, ids)
        if known is not None and shared >= _SHORTEST and (batch.num_rows == 1 or shared == len(ids)):
            self._keep(known)
            return Beginning(ids[:shared], known.cache)
        if batch.num_rows == 1:
            return None
        made = Beginning(ids, _read_one(self.model, ids, read))
        self._keep(made)
        return made

    def learn(self, batch: Batch, cache: KVCache) -> None:
        """Keeps the beginning of a prompt that was read alone."""
        (ids,) = _openings(batch) if batch.num_rows == 1 else [[]]
        if self._possible and len(ids) >= _SHORTEST and all(_shared(k.token_ids, ids) < len(ids) for k in self._kept):
            self._keep(Beginning(ids, cache.beginning(0, len(ids))))

    def _keep(self, beginning: Beginning) -> None:
        ids = beginning.token_ids
        others = [kept for kept in self._kept if _shared(kept.token_ids, ids) < len(kept.token_ids)]
        self._kept = [beginning, *others][:_KEPT]


def prefill(
    model: SpeechLM, spliced: Spliced, read: CachedLLM, *, beginning: Beginning | None = None
) -> tuple[KVCache, Tensor]:
    """Returns a cache of the prompts and the logits (B, V) float32 of what each says next.

    beginning: what stands in the cache already of all of them.
    """
    embeds, lengths = spliced.inputs_embeds, spliced.lengths
    if beginning is None:
        cache, known = KVCache(embeds.device, embeds.dtype), 0
    else:
        known = len(beginning.token_ids)
        cache = beginning.cache.repeated(len(embeds), known)
        embeds, lengths = embeds[:, known:], lengths - known
    last: Tensor | int = -1
    places = torch.arange(embeds.shape[1], device=embeds.device)
    cache.open(embeds.shape[1], rows=len(embeds))
    if sees_everything(model.llm):  # nothing sees the padding on its right: no mask, and the fastest kernels
        pack = Pack.of(lengths, embeds.shape[1])
        hidden = read(embeds, (known + places).expand(len(embeds), -1), cache, pack)
        cache.hide(places < lengths[:, None])
        last = lengths - 1
    else:  # where columns are counted each row must end at the last
        embeds, mask = pad_left(embeds, lengths)
        cache.hide(mask)
        hidden = read(embeds, known + (mask.cumsum(1) - 1).clamp(min=0), cache)
    ends = hidden[torch.arange(len(hidden), device=hidden.device), last]
    return cache, model.logits(ends).float()


@dataclass(frozen=True, eq=False)
class Distinct:
    """The prompts of a batch without repetition, and which of them each row asks: n answers to one need it once."""

    batch: Batch
    index: Tensor | None  # (B,) int64; None: each row its own


def distinct(batch: Batch) -> Distinct:
    """Returns the rows that differ in what is read or heard; ids and tasks are those of the first of equal rows."""
    segments = _segments(batch)
    alike: dict[object, list[int]] = {}  # by all but what is heard
    index: list[int] = []
    chosen: list[int] = []
    for row, key in enumerate(_keys(batch, segments)):
        others = alike.setdefault(key, [])
        same = next((other for other in others if _sound_alike(batch, segments[chosen[other]], segments[row])), None)
        if same is None:
            others.append(same := len(chosen))
            chosen.append(row)
        index.append(same)
    if len(chosen) == batch.num_rows:
        return Distinct(batch, None)
    return Distinct(_rows(batch, chosen, segments), torch.tensor(index, device=batch.token_ids.device))


def _segments(batch: Batch) -> list[list[int]]:
    """Which segments each row hears."""
    segments: list[list[int]] = [[] for _ in range(batch.num_rows)]
    for segment, row in enumerate(batch.audio_row.tolist()):
        segments[row].append(segment)
    return segments


def _keys(batch: Batch, segments: Sequence[Sequence[int]]) -> Iterator[object]:
    rows = [x.tolist() for x in (batch.token_ids, batch.token_lengths, batch.prompt_ids, batch.prompt_lengths)]
    heard = [x.tolist() for x in (batch.audio_position, *batch.feature_lengths.values())]
    for row, mine in enumerate(segments):
        yield str([x[row] for x in rows]), tuple(x[segment] for x in heard for segment in mine)


def _sound_alike(batch: Batch, mine: list[int], its: list[int]) -> bool:
    return all(torch.equal(x[mine], x[its]) for x in batch.features.values())


def _rows(batch: Batch, rows: list[int], segments: Sequence[list[int]]) -> Batch:
    """These rows of a batch that is asked, with what they hear."""
    heard = [segment for row in rows for segment in segments[row]]
    numbers = [number for number, row in enumerate(rows) for _ in segments[row]]
    return replace(
        batch,
        ids=tuple(batch.ids[row] for row in rows),
        tasks=tuple(batch.tasks[row] for row in rows),
        **{
            name: getattr(batch, name)[rows]
            for name in ("token_ids", "token_lengths", "loss_mask", "prompt_ids", "prompt_lengths")
        },
        audio_row=batch.audio_row.new_tensor(numbers),
        audio_position=batch.audio_position[heard],
        transcript_ids=batch.transcript_ids[heard],
        transcript_lengths=batch.transcript_lengths[heard],
        features={spec: x[heard] for spec, x in batch.features.items()},
        feature_lengths={spec: x[heard] for spec, x in batch.feature_lengths.items()},
    )


def _openings(batch: Batch) -> list[list[int]]:
    """The tokens of each prompt before its first recording; without one, all but the last, which must be read."""
    ends = (batch.token_lengths - 1).tolist()
    for row, position in zip(batch.audio_row.tolist(), batch.audio_position.tolist(), strict=True):
        ends[row] = min(ends[row], position)
    return [ids[:end] for ids, end in zip(batch.token_ids.tolist(), ends, strict=True)]


def _common(openings: Sequence[list[int]]) -> list[int]:
    shortest, longest = min(openings), max(openings)  # in order, these two differ first
    return shortest[: _shared(shortest, longest)]


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _read_one(model: SpeechLM, token_ids: Sequence[int], read: CachedLLM) -> KVCache:
    embeds = token_embeddings(model.llm, torch.tensor([token_ids], device=next(model.llm.parameters()).device))
    cache = KVCache(embeds.device, embeds.dtype)
    cache.open(len(token_ids), rows=1)
    read(embeds, torch.arange(len(token_ids), device=embeds.device)[None], cache)
    return cache

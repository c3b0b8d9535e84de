"""Prefill, then one token a step out of the cache, for a batch of unequal prompts.

right-padded, as training sees it      left-padded, so that every row ends at the same place
a a t t .                              . a a t t | y1 y2 y3
t t t . .            ->                . . t t t | y1 <stop>       leaves the batch, and its cache with it
"""

import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from sonant.batch import Batch
from sonant.errors import RequestError
from sonant.generate.sampling import GenerationConfig, Sampler, loops
from sonant.models.lora import lora_disabled, scaled_lora
from sonant.models.speech_lm import SpeechLM


@dataclass(frozen=True)
class Step:
    """One decoding step of the rows that are still talking."""

    rows: list[int]  # (B',) which row of the batch each line is
    token_ids: Tensor  # (B',) int64, what each row says next
    logits: Tensor  # (B', V) float32, from which it was drawn


@dataclass
class _Decoding:
    """The rows that still talk: what they attend to and what they have said."""

    rows: list[int]
    cache: DynamicCache
    attention_mask: Tensor  # (B', L) bool; True where a row has something to attend to
    said: list[list[int]]
    scale: Tensor | None = None  # (B', ...) of each row's LoRA: from its prompt, once

    def keep(self, lines: Sequence[int]) -> None:
        """Drops every line but these from the batch and from the cache."""
        index = torch.tensor(lines, device=self.attention_mask.device)
        self.cache.batch_select_indices(index)
        self.attention_mask = self.attention_mask[index]
        self.rows = [self.rows[i] for i in lines]
        self.said = [self.said[i] for i in lines]
        self.scale = None if self.scale is None else self.scale[index]


@torch.no_grad()
def decode(
    model: SpeechLM, batch: Batch, *, config: GenerationConfig, stop_ids: frozenset[int], lora: bool = True
) -> Iterator[Step]:
    """Yields the steps of a batch of prompts until every row has stopped or said `max_new_tokens` tokens.

    A stop token is yielded too and ends its row, as does a loop of `max_repeats`. With `lora=False` the base LLM
    answers.

    Raises: RequestError if prompt and answer do not fit the LLM's context.
    """
    # A generator must not leave LoRA switched off or scaled while its caller does other things, such as answering
    # another request: the context wraps each call.
    scale = model.lora_scale(batch) if lora else None
    with _voice(model, scale, lora=lora):
        state, logits = _prefill(model, batch, max_new_tokens=config.max_new_tokens)
    state.scale = scale
    sampler = Sampler(config, [zlib.crc32(name.encode()) for name in batch.ids])
    for step in range(config.max_new_tokens):
        token_ids = sampler(logits, rows=state.rows, previous=state.said)
        yield Step(rows=list(state.rows), token_ids=token_ids, logits=logits)
        for said, token in zip(state.said, token_ids.tolist(), strict=True):
            said.append(token)
        going = [line for line, said in enumerate(state.said) if not _is_over(said, stop_ids, config.max_repeats)]
        if not going or step + 1 == config.max_new_tokens:
            return
        if len(going) < len(state.rows):
            state.keep(going)
            token_ids = token_ids[torch.tensor(going, device=token_ids.device)]
        with _voice(model, state.scale, lora=lora):
            logits = _next_logits(model, state, token_ids)


def generate(
    model: SpeechLM, batch: Batch, *, config: GenerationConfig, stop_ids: frozenset[int], lora: bool = True
) -> list[list[int]]:
    """Returns what each row of the batch says: a list of token ids, the stop token included if it was reached."""
    said: list[list[int]] = [[] for _ in batch.ids]
    for step in decode(model, batch, config=config, stop_ids=stop_ids, lora=lora):
        for row, token in zip(step.rows, step.token_ids.tolist(), strict=True):
            said[row].append(token)
    return said


def _is_over(said: Sequence[int], stop_ids: frozenset[int], max_repeats: int | None) -> bool:
    return said[-1] in stop_ids or (max_repeats is not None and loops(said, times=max_repeats))


def _voice(model: SpeechLM, scale: Tensor | None, *, lora: bool) -> AbstractContextManager[object]:
    return scaled_lora(model.llm, scale) if lora else lora_disabled(model.llm)


def _prefill(model: SpeechLM, batch: Batch, *, max_new_tokens: int) -> tuple[_Decoding, Tensor]:
    """Returns the state after the prompts and the (B, V) logits of each row's first answer token."""
    assert not model.training, "decoding runs in eval mode"
    spliced = model.embed(batch)
    longest = spliced.inputs_embeds.shape[1]
    limit = model.positions
    if limit is not None and longest + max_new_tokens > limit:
        raise RequestError(
            f"the prompt is {longest} positions long and {max_new_tokens} new tokens were asked for; "
            f"this LLM holds {limit}: shorten the audio or the text, or lower max_new_tokens"
        )
    embeds, mask = _pad_left(spliced.inputs_embeds, spliced.lengths)
    cache = DynamicCache()
    out = model.llm(
        inputs_embeds=embeds,
        attention_mask=mask.long(),
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    rows = list(range(len(batch.ids)))
    return _Decoding(rows=rows, cache=cache, attention_mask=mask, said=[[] for _ in rows]), out.logits[:, -1].float()


def _next_logits(model: SpeechLM, state: _Decoding, token_ids: Tensor) -> Tensor:
    """Returns the (B', V) logits after `token_ids` (B',), which join the cache."""
    state.attention_mask = torch.cat([state.attention_mask, state.attention_mask.new_ones(len(state.rows), 1)], dim=1)
    out = model.llm(
        input_ids=token_ids[:, None],
        attention_mask=state.attention_mask.long(),
        position_ids=state.attention_mask.sum(1, keepdim=True) - 1,
        past_key_values=state.cache,
        use_cache=True,
    )
    logits: Tensor = out.logits[:, -1].float()
    return logits


def _pad_left(embeds: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (B, L, D) with every row moved to the right end, and its (B, L) bool mask."""
    width = embeds.shape[1]
    column = torch.arange(width, device=embeds.device) - (width - lengths[:, None])  # (B, L) place in the original
    mask = column >= 0
    source = column.clamp(min=0)[..., None].expand_as(embeds)
    return embeds.gather(1, source) * mask[..., None], mask

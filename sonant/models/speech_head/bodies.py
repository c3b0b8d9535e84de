"""What lies between pre-net and post-net: the LLM itself, or causal layers that read the text's letters.

Both run over many steps at once and step by step out of a cache; what they give is the same.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache

from sonant.errors import ModelError
from sonant.models.llm import final_hidden
from sonant.models.lora import scaled_lora
from sonant.models.rotary import rotate, rotation
from sonant.models.speech_head.config import SpeechHeadConfig
from sonant.models.speech_head.states import LLMContext
from sonant.models.speech_head.word_pointer import Script


@dataclass
class OwnCache:
    """Keys and values of each layer's past steps (S, H, T, dim / H), and how many steps have been."""

    past: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    num_steps: int = 0

    def select(self, index: Tensor) -> None:
        """Keeps the rows `index`."""
        self.past = [(key[index], value[index]) for key, value in self.past]


class OwnBody(nn.Module):
    """Causal layers with rotary positions; each also attends to letters: of the pointer's word, or all."""

    def __init__(self, config: SpeechHeadConfig) -> None:
        super().__init__()
        self.window, self.head_dim = config.window, config.dim // config.num_heads
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, inputs: Tensor, script: Script, pointer: Tensor | None, cache: OwnCache | None = None) -> Tensor:
        """Returns states (S, T, dim) of the inputs of T steps that follow those in `cache`; it takes them in."""
        cache = OwnCache() if cache is None else cache
        before, size = cache.num_steps, inputs.shape[1]
        cos, sin = rotation(before + size, self.head_dim, like=inputs)
        kept = cache.past[0][0].shape[2] if cache.past else 0
        places = torch.arange(before - kept, before + size, device=inputs.device)
        distance = places[kept:, None] - places
        seen = (distance >= 0) if self.window is None else (distance >= 0) & (distance < self.window)
        slot = script.letter_slot[:, None]  # (S, 1, C)
        read = ((slot >= 0) if pointer is None else slot == pointer[..., None])[:, None]  # (S, 1, T or 1, C)
        hidden, past = inputs, []
        for i, layer in enumerate(self.layers):
            old = cache.past[i] if cache.past else None
            hidden, new = layer(
                hidden, script.memory, seen=seen, read=read, turn=(cos[before:], sin[before:]), past=old
            )
            past.append(new if self.window is None else (new[0][:, :, -self.window :], new[1][:, :, -self.window :]))
        cache.past, cache.num_steps = past, before + size
        normed: Tensor = self.norm(hidden)
        return normed


class _Layer(nn.Module):
    """x + attention to past steps, + attention to letters, + FFN, each over a normalised input."""

    def __init__(self, config: SpeechHeadConfig) -> None:
        super().__init__()
        dim = config.dim
        self.num_heads, self.dropout = config.num_heads, nn.Dropout(config.dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.self_in, self.self_out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.query, self.letters_in, self.letters_out = (
            nn.Linear(dim, dim),
            nn.Linear(dim, 2 * dim),
            nn.Linear(dim, dim),
        )
        self.ffn = nn.Sequential(nn.Linear(dim, config.ffn_dim), nn.GELU(), nn.Linear(config.ffn_dim, dim))

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        *,
        seen: Tensor,
        read: Tensor,
        turn: tuple[Tensor, Tensor],
        past: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        q, k, v = (self._heads(y) for y in self.self_in(self.norms[0](x)).chunk(3, dim=-1))
        q, k = rotate(q, turn), rotate(k, turn)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        x = x + self.dropout(self.self_out(_joined(F.scaled_dot_product_attention(q, k, v, attn_mask=seen))))
        q = self._heads(self.query(self.norms[1](x)))
        key, value = (self._heads(y) for y in self.letters_in(memory).chunk(2, dim=-1))
        found = F.scaled_dot_product_attention(q, key, value, attn_mask=read)
        x = x + self.dropout(self.letters_out(_joined(found)))
        return x + self.dropout(self.ffn(self.norms[2](x))), (k, v)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def _joined(x: Tensor) -> Tensor:
    """(S, H, T, dim / H) -> (S, T, dim)"""
    return x.transpose(1, 2).flatten(2)


@dataclass
class LLMCache:
    """The LLM's own cache of a context and the steps after it, padded on the left."""

    context: LLMContext
    cache: DynamicCache
    attention_mask: Tensor  # (S, L) bool

    def select(self, index: Tensor) -> None:
        """Keeps the rows `index`."""
        self.cache.batch_select_indices(index)
        self.attention_mask = self.attention_mask[index]
        c = self.context
        scale = None if c.scale is None else c.scale[index]
        self.context = LLMContext(c.llm, c.inputs_embeds[index], c.lengths[index], scale)


def run_llm(context: LLMContext | None, inputs: Tensor) -> Tensor:
    """Returns the LLM's states (S, T, D) of inputs that follow each row's context.

    c c c . .  +  s s s     ->    c c c s s s . .
    c c c c c  +  s s s           c c c c c s s s
    """
    c = _needed(context)
    size, num_steps = c.inputs_embeds.shape[1], inputs.shape[1]
    places = torch.arange(size + num_steps, device=inputs.device).expand(len(inputs), -1)
    behind = places - c.lengths[:, None]
    source = torch.where(behind < 0, places, (size + behind).clamp(max=size + num_steps - 1))
    both = torch.cat([c.inputs_embeds, inputs.to(c.inputs_embeds.dtype)], dim=1)
    with scaled_lora(c.llm, c.scale):
        hidden = final_hidden(c.llm, both.take_along_dim(source[..., None], dim=1))
    steps = c.lengths[:, None] + torch.arange(num_steps, device=inputs.device)
    return hidden.take_along_dim(steps[..., None], dim=1)


def start_llm(context: LLMContext | None) -> LLMCache:
    """Returns the cache of a context, to which nothing has been added."""
    c = _needed(context)
    size = c.inputs_embeds.shape[1]
    column = torch.arange(size, device=c.lengths.device) - (size - c.lengths[:, None])
    mask, cache = column >= 0, DynamicCache()
    embeds = c.inputs_embeds.take_along_dim(column.clamp(min=0)[..., None], dim=1) * mask[..., None]
    _advance_llm(c, embeds, mask, cache)
    return LLMCache(c, cache, mask)


def step_llm(state: LLMCache, inputs: Tensor) -> Tensor:
    """Returns the LLM's states (S, 1, D) of the next inputs (S, 1, D), which join the cache."""
    state.attention_mask = F.pad(state.attention_mask, (0, 1), value=True)
    return _advance_llm(state.context, inputs.to(state.context.inputs_embeds.dtype), state.attention_mask, state.cache)


def _advance_llm(context: LLMContext, embeds: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -embeds.shape[1] :]
    with scaled_lora(context.llm, context.scale):
        out = context.llm.get_decoder()(
            inputs_embeds=embeds,
            attention_mask=mask.long(),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
    hidden: Tensor = out.last_hidden_state
    return hidden


def _needed(context: LLMContext | None) -> LLMContext:
    if context is None:
        raise ModelError("body llm speaks after the text, but the states hold no context; make them with read_spoken")
    return context

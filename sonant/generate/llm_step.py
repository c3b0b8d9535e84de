"""The LLM over a cache: by its own forward, or, for the families whose layers are alike, by the few calls these need.

A step of a small LLM is mostly Python: transformers make a mask, look up an attention, cast and copy in every layer.
`LeanLLM` computes the same with a few calls (`tests/generate/test_llm_step.py` compares all families); what it does not
know for certain, `WholeLLM` does.

A small LLM is read by copies of its weights, in which LoRA is added and layers that read the same stand side by side:

    q, A_q, B_q, k, A_k, B_k, v, A_v, B_v    9 products    ->    [ q | k | v ]    1 product
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaForCausalLM
from transformers.models.mistral.modeling_mistral import MistralForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2ForCausalLM
from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM

from sonant.generate.kv_cache import KVCache
from sonant.models.lora import PEFT_NAME
from sonant.models.packing import PACKED_SDPA, Pack
from sonant.models.prepared import Linear, prepared_linear

_LEAN = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
_MOST_COPIED = 2**28  # bytes of weights of an LLM that is read by copies
# Of each LLM, with LoRA and without, prepared and not: the next batch need not copy again.
_COPIES: "WeakKeyDictionary[PreTrainedModel, dict[tuple[bool, bool], _Copies]]" = WeakKeyDictionary()


class CachedLLM(Protocol):
    """Reads the open columns of a cache."""

    def __call__(self, embeds: Tensor, positions: Tensor, cache: KVCache, pack: Pack | None = None) -> Tensor:
        """Returns hidden states (B, Q, D) before the head of `embeds` (B, Q, D) at `positions` (B, Q).

        `cache.open` has made room for them; their keys and values are in it afterwards.
        pack: which of them count; what is not in it need not be computed.
        """
        ...


def cached_llm(llm: PreTrainedModel, *, lora: bool, prepared: bool = False) -> CachedLLM:
    """Returns the leanest way to read with this LLM as it is now: without LoRA if it is switched off meanwhile.

    prepared: copies compute by `prepared_linear`. Each number of positions makes kernels once, so it pays where numbers
    come again, batch after batch, and not in a server, where they hardly do.
    """
    if not _is_plain(llm):
        return WholeLLM(llm)
    reader = LeanLLM(llm, lora=lora)
    if sum(x.nbytes for x in reader.weights) <= _MOST_COPIED:
        known, state, kind = _COPIES.setdefault(llm, {}), reader.state, (lora, prepared)
        if kind not in known or known[kind].state != state:
            known[kind] = _Copies(state, reader.copies(prepared=prepared))
        reader.read_by(known[kind].each)
    return reader


class WholeLLM:
    """The LLM's own forward, whatever it is."""

    def __init__(self, llm: PreTrainedModel) -> None:
        self.decoder = llm.get_decoder()

    def __call__(self, embeds: Tensor, positions: Tensor, cache: KVCache, pack: Pack | None = None) -> Tensor:
        """See `CachedLLM`."""
        hidden: Tensor = self.decoder(
            inputs_embeds=embeds,
            attention_mask=None if cache.even else cache.mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return hidden


class LeanLLM:
    """Llama, Mistral, Qwen 2 and 3 without a sliding window: norm, attention, norm, gated FFN, each added to its input.

    Source: the model classes of transformers, whose weights it reads where they are, or by copies.
    """

    def __init__(self, llm: PreTrainedModel, *, lora: bool) -> None:
        decoder: Any = llm.get_decoder()
        self.rotary = cast("Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]", decoder.rotary_emb)
        self.layers = [_LeanLayer(layer, lora=lora) for layer in decoder.layers]
        self.norm = _Norm(decoder.norm)

    @property
    def weights(self) -> list[Tensor]:
        """Returns what copies are made of."""
        return [x for linears in self._linears for linear in linears.apart for x in linear.weights]

    @property
    def state(self) -> list[float]:
        """Returns what is different after any change to what copies are made of.

        It counts bits: versions of tensors and their addresses stay as they are where AdamW is fused.
        """
        scalings = [linear.scaling for linears in self._linears for linear in linears.apart]
        return [*scalings, *torch.stack([_sum_of_bits(x.detach()) for x in self.weights]).tolist()]

    @torch.no_grad()
    def copies(self, *, prepared: bool) -> list[Linear]:
        """Returns copies of the weights as they are now, and what multiplies by them."""
        return [linears.copied(prepared=prepared) for linears in self._linears]

    def read_by(self, copies: Sequence[Linear]) -> None:
        """Reads from now on by these, and no more by the weights of linear layers."""
        for linears, copy in zip(self._linears, copies, strict=True):
            linears.copy = copy

    @property
    def reads_copies(self) -> bool:
        """Whether it reads by copies."""
        return all(linears.copy is not None for linears in self._linears)

    @property
    def _linears(self) -> list["_Linears"]:
        return [linears for layer in self.layers for linears in layer.linears]

    def __call__(self, embeds: Tensor, positions: Tensor, cache: KVCache, pack: Pack | None = None) -> Tensor:
        """See `CachedLLM`."""
        pack = None if pack is None or pack.is_full else pack
        turn = _Turn.of(*self.rotary(embeds, positions if pack is None else pack.pack(positions)))
        hidden = (embeds if pack is None else pack.pack(embeds)).flatten(0, 1)
        bias = cache.bias()
        for index, layer in enumerate(self.layers):

            def attend(q: Tensor, k: Tensor, v: Tensor, *, index: int = index, scale: float = layer.scaling) -> Tensor:
                if pack is not None:
                    q, k, v = (pack.unpack(x) for x in (q, k, v))
                keys, values = cache.update(k.transpose(1, 2), v.transpose(1, 2), index)
                heard = _attention(q.transpose(1, 2), keys, values, bias, scale=scale).transpose(1, 2)
                return heard if pack is None else pack.pack(heard)

            hidden = layer(hidden, turn, attend)
        hidden = self.norm(hidden)
        return hidden.view(embeds.shape) if pack is None else pack.unpack(hidden[None])


@dataclass(frozen=True)
class _Turn:
    """Rotary positions: (B, Q, 1, D) cosines, and sines of which the first half is negative."""

    cos: Tensor
    sin: Tensor
    half: int

    @classmethod
    def of(cls, cos: Tensor, sin: Tensor) -> "_Turn":
        half = sin.shape[-1] // 2
        return cls(cos[:, :, None], torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)[:, :, None], half)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.addcmul(x * self.cos, x.roll(self.half, -1), self.sin)


class _Norm:
    def __init__(self, module: Any) -> None:
        self.weight: Tensor = module.weight
        self.eps: float = module.variance_epsilon

    def __call__(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class _Linear:
    """A linear layer, with what LoRA adds to it."""

    def __init__(self, module: nn.Module, *, lora: bool) -> None:
        base = cast(nn.Linear, module.get_base_layer() if isinstance(module, LoraLinear) else module)
        self.weight, self.bias = base.weight, base.bias
        self.weights: list[Tensor] = [self.weight] if self.bias is None else [self.weight, self.bias]
        self.down: Tensor | None = None
        self.scaling = 0.0
        if isinstance(module, LoraLinear) and lora and not module.disable_adapters:
            self.down, self.up = module.lora_A[PEFT_NAME].weight, module.lora_B[PEFT_NAME].weight
            self.scaling = module.scaling[PEFT_NAME]
            self.weights += [self.down, self.up]

    def __call__(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight, self.bias)
        if self.down is None:
            return y
        return y.addmm_(F.linear(x, self.down), self.up.t(), alpha=self.scaling)

    def added(self) -> Tensor:
        """The weight (in, out), with what LoRA adds."""
        if self.down is None:
            return self.weight.t()
        return torch.addmm(self.weight.t(), self.down.t(), self.up.t(), alpha=self.scaling)


class _Linears:
    """Linear layers that read the same: one after the other, or all at once by a copy of their weights."""

    def __init__(self, *modules: nn.Module, lora: bool) -> None:
        self.apart = [_Linear(module, lora=lora) for module in modules]
        self.sizes = [len(linear.weight) for linear in self.apart]
        self.copy: Linear | None = None

    def copied(self, *, prepared: bool) -> Linear:
        """No layer has a bias, or all have."""
        biases: list[Tensor] = [linear.bias for linear in self.apart if linear.bias is not None]
        # Laid out as (in, out), few rows are multiplied faster.
        weight = torch.cat([linear.added() for linear in self.apart], dim=1).t()
        bias = torch.cat(biases) if biases else None
        return prepared_linear(weight, bias) if prepared else partial(F.linear, weight=weight, bias=bias)

    def __call__(self, x: Tensor) -> Sequence[Tensor]:
        """What each gives (N, out) of x (N, in)."""
        if self.copy is None:
            return [linear(x) for linear in self.apart]
        return self.copy(x).split(self.sizes, dim=-1)


@dataclass(frozen=True, eq=False)
class _Copies:
    """Weights of all layers, LoRA added, as they were in a `state`."""

    state: list[float]
    each: list[Linear]


def _sum_of_bits(x: Tensor) -> Tensor:
    """() int64 of float32 numbers, two of which are read as one: that takes no longer than reading them."""
    return x.contiguous().view(torch.int64 if x.shape[-1] % 2 == 0 else torch.int32).sum()


class _LeanLayer:
    def __init__(self, layer: Any, *, lora: bool) -> None:
        attention, ffn = layer.self_attn, layer.mlp
        self.head_dim: int = attention.head_dim
        self.scaling: float = attention.scaling
        self.before_attention, self.before_ffn = _Norm(layer.input_layernorm), _Norm(layer.post_attention_layernorm)
        self.qkv = _Linears(attention.q_proj, attention.k_proj, attention.v_proj, lora=lora)
        self.o = _Linears(attention.o_proj, lora=lora)
        self.gate_up, self.down = _Linears(ffn.gate_proj, ffn.up_proj, lora=lora), _Linears(ffn.down_proj, lora=lora)
        self.linears = (self.qkv, self.o, self.gate_up, self.down)
        norms = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))
        self.q_norm, self.k_norm = (None if norm is None else _Norm(norm) for norm in norms)
        self.act = cast("Callable[[Tensor], Tensor]", ffn.act_fn)

    def __call__(self, hidden: Tensor, turn: _Turn, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """(N, D) -> (N, D); what `attend` gets and gives is (B, Q, H, D of a head), N of them in all."""
        shape = (*turn.cos.shape[:2], -1, self.head_dim)
        q, k, v = (x.view(shape) for x in self.qkv(self.before_attention(hidden)))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        (heard,) = self.o(attend(turn(q), turn(k), v).reshape(len(hidden), -1))
        hidden = hidden + heard
        gate, up = self.gate_up(self.before_ffn(hidden))
        (found,) = self.down(self.act(gate) * up)
        return hidden + found


def _attention(q: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, *, scale: float) -> Tensor:
    """(B, H, Q, D) of q (B, H, Q, D); keys and values may have fewer heads, each then serves several in a row."""
    if q.shape[2] > 1:
        gqa = q.shape[1] != keys.shape[1]
        return F.scaled_dot_product_attention(
            q, keys, values, attn_mask=bias, is_causal=bias is None, scale=scale, enable_gqa=gqa
        )
    # One query a head: the heads that share keys stand where queries do, and nothing is repeated.
    shared = q.reshape(len(q), keys.shape[1], -1, q.shape[3])
    return F.scaled_dot_product_attention(shared, keys, values, attn_mask=bias, scale=scale).view(q.shape)


def sees_everything(llm: PreTrainedModel) -> bool:
    """Returns whether every layer attends to all that came before, however many columns of the cache lie between."""
    config: Any = llm.config
    window = getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)
    kinds = getattr(config, "layer_types", None) or ()
    return not window and not getattr(config, "alibi", False) and all(kind == "full_attention" for kind in kinds)


def _is_plain(llm: PreTrainedModel) -> bool:
    """Whether `LeanLLM` does all that this LLM's own forward would do.

    Not in half precision: that rounds in other places here, and an exported model is to say the same tokens.
    """
    if llm.dtype != torch.float32:
        return False
    if type(llm) not in _LEAN or llm.config._attn_implementation not in ("sdpa", PACKED_SDPA):
        return False
    return sees_everything(llm) and all(map(_is_known, llm.get_decoder().modules()))


def _is_known(module: nn.Module) -> bool:
    if module._forward_hooks or module._forward_pre_hooks or hasattr(module, "_hf_hook"):
        return False  # so work prompt-aware LoRA, sharding and accelerate's offloading
    if isinstance(module, LoraLinear):
        plain = module.active_adapters == [PEFT_NAME] and not module.lora_variant and not module.merged
        return plain and type(module.get_base_layer()) is nn.Linear
    quantized = "Linear" in type(module).__name__ and type(module) is not nn.Linear
    return not quantized

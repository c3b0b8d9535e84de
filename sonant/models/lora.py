"""LoRA by peft: low-rank changes to a frozen LLM that can be switched off or merged at any time."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import peft
import pydantic
import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from sonant.config import Config
from sonant.errors import ModelError

# The linear layers of Llama, Mistral, Qwen, Gemma, Granite, OLMo, SmolLM; Phi-3 and GLM fuse some of them.
_KNOWN_TARGETS = (
    "q_proj",
    "k_proj",
    "v_proj",
    "qkv_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "gate_up_proj",
    "down_proj",
)
_SHARED_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
_NAME = "default"


class LoraConfig(Config):
    """Which linear layers get a low-rank addition `alpha / rank * B(A(x))`, and how A starts (B starts at zero)."""

    rank: int = pydantic.Field(default=32, ge=1)
    alpha: float = pydantic.Field(default=32.0, gt=0)
    dropout: float = pydantic.Field(default=0.0, ge=0, lt=1)
    targets: tuple[str, ...] = ()  # last parts of module names; empty = every known linear layer of attention and FFN
    layout: Literal["separate", "fused"] = "separate"
    init: Literal["kaiming", "xavier"] = "kaiming"


def add_lora(llm: nn.Module, config: LoraConfig) -> None:
    """Adds LoRA to `llm` in place: float32 A and B on every target; at first it changes nothing, since B is zero.

    Everything else in the LLM is frozen (requires_grad False). With layout "fused", layers that read the same input
    share one A, as if LoRA had been put on one fused matrix:

        separate  x -> A_q -> B_q        fused  x -> A -+-> B_q
                  x -> A_k -> B_k                       +-> B_k
                  x -> A_v -> B_v                       +-> B_v

    Raises: ModelError if LoRA is there already, or a target names no linear layer.
    Source: LoRA (arXiv 2106.09685); fused layout and Xavier A: VoiceTextBlender (arXiv 2410.17485), released YAML.
    """
    if lora_layers(llm):
        raise ModelError("this LLM already has LoRA; merge it first (merge_lora)")
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(_targets(llm, config.targets)),
    )
    peft.inject_adapter_in_model(settings, llm, adapter_name=_NAME)
    for layer in lora_layers(llm):
        # Small updates vanish in bfloat16: the addition is kept, and trained, in float32.
        layer.lora_A.float()
        layer.lora_B.float()
        if config.init == "xavier":
            nn.init.xavier_normal_(layer.lora_A[_NAME].weight)
    if config.layout == "fused":
        _share_inputs(llm)
    llm.train(llm.training)  # new modules start in training mode, with dropout


def lora_layers(model: nn.Module) -> list[LoraLayer]:
    """Returns every layer of `model` that carries LoRA, in module order; empty without LoRA."""
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


@contextmanager
def lora_disabled(model: nn.Module) -> Iterator[None]:
    """Inside the block `model` computes what its LLM computed before LoRA; also an exception restores it."""
    layers = lora_layers(model)
    before = [layer.disable_adapters for layer in layers]
    # peft's own switch also sets requires_grad; the flag alone leaves the freeze plan as it was.
    try:
        for layer in layers:
            layer._disable_adapters = True
        yield
    finally:
        for layer, disabled in zip(layers, before, strict=True):
            layer._disable_adapters = disabled


@torch.no_grad()
def merge_lora(llm: nn.Module) -> None:
    """Adds every `alpha / rank * B A` to its weight and removes LoRA: `llm` has plain linear layers again.

    Raises: ModelError if there is no LoRA.
    """
    named = [(name, module) for name, module in llm.named_modules() if isinstance(module, LoraLayer)]
    if not named:
        raise ModelError("there is no LoRA to merge in this LLM")
    for name, layer in named:
        layer.merge(safe_merge=True)
        parent, _, last = name.rpartition(".")
        setattr(llm.get_submodule(parent), last, layer.get_base_layer())
    # What peft leaves behind on injection would claim that LoRA is still there.
    for left_over in ("peft_config", "_hf_peft_config_loaded"):
        llm.__dict__.pop(left_over, None)


def _targets(llm: nn.Module, wanted: tuple[str, ...]) -> tuple[str, ...]:
    linear = sorted({n.rpartition(".")[2] for n, m in llm.named_modules() if isinstance(m, nn.Linear)} - {"lm_head"})
    found = tuple(name for name in (wanted or _KNOWN_TARGETS) if name in linear)
    missing = [name for name in wanted if name not in linear]
    if missing or not found:
        what = f"targets {missing} name no linear layer" if missing else "no linear layer has a known name"
        raise ModelError(f"LoRA: {what}; this LLM has {', '.join(linear) or 'none'}; set lora.targets to some of them")
    return found


def _share_inputs(llm: nn.Module) -> None:
    for parent in llm.modules():
        for names in _SHARED_INPUT:
            group = [child for name, child in parent.named_children() if name in names and isinstance(child, LoraLayer)]
            for layer in group[1:]:
                layer.lora_A[_NAME].weight = group[0].lora_A[_NAME].weight

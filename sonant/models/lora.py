"""LoRA by peft: low-rank changes to a frozen LLM that can be switched off, scaled row by row, or merged."""

import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Literal

import peft
import pydantic
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from sonant.config import Config
from sonant.errors import ModelError
from sonant.models.low_rank import LowRankLinear
from sonant.models.packing import Pack
from sonant.models.quantized import refuse_quantized

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
PEFT_NAME = "default"


@dataclass(frozen=True, eq=False)
class _Scale:
    """What multiplies LoRA's outputs: `rows` (B, num_layers or 1, dim or 1), which may be packed."""

    rows: Tensor
    pack: Pack | None = None

    def at(self, depth: int, piece: slice) -> Tensor:
        """(B, 1, width or 1), or (1, N, width or 1) in a pack."""
        layer = self.rows[:, depth if self.rows.shape[1] > 1 else 0]
        chosen = layer[:, piece] if layer.shape[1] > 1 else layer
        return chosen[:, None] if self.pack is None else self.pack.of_rows(chosen)[None]


# The scale of each LLM whose LoRA waits for one. A context variable and no attribute: two requests that take turns, or
# two threads, keep their own.
_SCALES: ContextVar[Mapping[nn.Module, _Scale]] = ContextVar("lora_scales", default=MappingProxyType({}))


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
    settings._register_custom_module({nn.Linear: LowRankLinear})
    peft.inject_adapter_in_model(settings, llm, adapter_name=PEFT_NAME)
    for layer in lora_layers(llm):
        # Small updates vanish in bfloat16: the addition is kept, and trained, in float32.
        layer.lora_A.float()
        layer.lora_B.float()
        if config.init == "xavier":
            nn.init.xavier_normal_(layer.lora_A[PEFT_NAME].weight)
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


@dataclass(frozen=True)
class ScaleShape:
    """What a scale holds: for each of `num_layers` layers one piece for each of the `widths` that LoRA's outputs have.

    q 64 wide, k and v 32, o 64:   widths (64, 32)   scale of one layer  [ for q and o, 64 | for k and v, 32 ]
    """

    num_layers: int
    widths: tuple[int, ...]  # distinct, in module order

    @property
    def dim(self) -> int:
        """Returns the width of all pieces together."""
        return sum(self.widths)


def wait_for_scale(llm: nn.Module) -> ScaleShape:
    """Makes LoRA's outputs be multiplied by the scale of `scaled_lora`, from now on; returns what a scale holds.

    Outside of `scaled_lora` and `lora_disabled` the LLM then refuses to run: unscaled, it would give other answers.

    Raises: ModelError if there is no LoRA.
    """
    named = [(name, module) for name, module in llm.named_modules() if isinstance(module, LoraLayer)]
    if not named:
        raise ModelError("this LLM has no LoRA that a prompt could scale; set lora")
    depths = [int(found[1]) if (found := re.search(r"\blayers\.(\d+)\.", name)) else 0 for name, _ in named]
    outputs = [module.lora_B[PEFT_NAME] for _, module in named]
    shape = ScaleShape(max(depths) + 1, tuple(dict.fromkeys(output.out_features for output in outputs)))
    for output, depth in zip(outputs, depths, strict=True):
        start = sum(shape.widths[: shape.widths.index(output.out_features)])
        output.register_forward_hook(partial(_scaled, llm, depth, slice(start, start + output.out_features)))
    return shape


@contextmanager
def scaled_lora(llm: nn.Module, scale: Tensor | None) -> Iterator[None]:
    """Inside the block LoRA's outputs in `llm` are multiplied by `scale`, row by row, at every position alike.

    scale: (B, num_layers or 1, dim or 1) in the order of `ScaleShape`, where 1 stands for all; None changes nothing.
    Layers that a backward pass computes again (`scale_kept`) get the scale of their own forward pass.
    """
    if scale is None:
        yield
        return
    with _Scales({**_SCALES.get(), llm: _Scale(scale)}):
        yield


@contextmanager
def packed_scale(llm: nn.Module, pack: Pack) -> Iterator[None]:
    """Inside the block `llm` reads its rows as one `pack`: the scale of each, if there is one, is spread over it."""
    scale = _SCALES.get().get(llm)
    if scale is None:
        yield
        return
    with _Scales({**_SCALES.get(), llm: _Scale(scale.rows, pack)}):
        yield


def scale_kept() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Returns what `torch.utils.checkpoint` takes as `context_fn`: a layer computed again finds the scale it had."""
    return nullcontext(), _Scales(_SCALES.get())


def multiply_lora(llm: nn.Module, factor: float) -> None:
    """Multiplies `alpha / rank` of every LoRA layer by `factor`."""
    for layer in lora_layers(llm):
        layer.scaling[PEFT_NAME] *= factor


@torch.no_grad()
def merge_lora(llm: nn.Module) -> None:
    """Adds every `alpha / rank * B A` to its weight and removes LoRA: `llm` has plain linear layers again.

    Raises: ModelError if there is no LoRA, each prompt scales it differently, or the LLM is quantised.
    """
    refuse_quantized(llm, "LoRA cannot be merged")
    named = [(name, module) for name, module in llm.named_modules() if isinstance(module, LoraLayer)]
    if not named:
        raise ModelError("there is no LoRA to merge in this LLM")
    if any(
        getattr(hook, "func", None) is _scaled for _, m in named for hook in m.lora_B[PEFT_NAME]._forward_hooks.values()
    ):
        raise ModelError(
            "this LoRA cannot be merged: each prompt gives it another scale (prompt_lora), so there is no one weight "
            "to add it to; use the checkpoint as it is, or train with prompt_lora.form fixed"
        )
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
                layer.lora_A[PEFT_NAME].weight = group[0].lora_A[PEFT_NAME].weight


@dataclass
class _Scales(AbstractContextManager[None]):
    """Inside the block these are the scales. Can be entered again and again: a layer may go backward twice."""

    scales: Mapping[nn.Module, _Scale]

    def __enter__(self) -> None:
        self._token = _SCALES.set(self.scales)

    def __exit__(self, *error: object) -> None:
        _SCALES.reset(self._token)


def _scaled(
    llm: nn.Module, depth: int, piece: slice, module: nn.Module, inputs: tuple[Tensor], output: Tensor
) -> Tensor:
    """A forward hook: the output (B, L, width) of LoRA's B times its piece of the scale."""
    scale = _SCALES.get().get(llm)
    if scale is None:
        raise ModelError("this LLM's LoRA waits for a scale: run it within scaled_lora, or within lora_disabled")
    scaled: Tensor = output * scale.at(depth, piece)
    return scaled.to(output.dtype)  # under autocast too, a scale of 1 changes no bit

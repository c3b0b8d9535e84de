"""LLMs whose weights were rounded to 8 or 4 bits by bitsandbytes as they were loaded: LoRA learns beside them (QLoRA).

    int8   a scale for each row of weights and of inputs; columns of inputs that reach 6 are multiplied as they are
    nf4    a scale for each 64 weights, itself in 8 bits; products are made of the weights so read, in the LLM's `dtype`

Linear layers alone are rounded; embeddings, norms and the head stay as they are. Rounded weights are never trained,
saved, merged or sharded: a checkpoint names where the LLM came from, and loading it rounds again.

Source: LLM.int8() (arXiv 2208.07339); QLoRA (arXiv 2305.14314).
"""

import logging
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from sonant.errors import ModelError

Quantize = Literal["int8", "nf4"]
# Of one weight, with its scales: one of 8 bits for each 64, and for each 256 of these one of 32.
_BYTES = {"int8": 1.0, "nf4": 1 / 2 + 1 / 64 + 4 / (64 * 256)}


def quantization(how: Quantize, dtype: torch.dtype) -> BitsAndBytesConfig:
    """Returns what transformers must be told to load an LLM so.

    Raises: ModelError without bitsandbytes.
    """
    if find_spec("bitsandbytes") is None:
        raise ModelError(f"quantize {how} needs bitsandbytes: pip install 'sonant[quantized]'")
    if how == "int8":
        # It would say at every product that inputs are not float16.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def settle(llm: PreTrainedModel) -> None:
    """Freezes a quantised `llm`, in place, and keeps its weights as they were rounded.

    On CPUs with instructions for bfloat16, bitsandbytes would repack 4-bit weights at the first product that needs no
    gradient, for good, and its products have none from then on: training would lose those of earlier layers unheard.
    After a first product it keeps 8-bit weights where moving the model to another device does not find them.
    """
    llm.requires_grad_(False)
    for module in llm.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
        if hasattr(getattr(module, "state", None), "CB"):
            module.register_forward_pre_hook(_bring_weights)


def _bring_weights(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    state: Any = module.state
    if state.CB is not None and state.CB.device != inputs[0].device:
        state.CB, state.SCB = state.CB.to(inputs[0].device), state.SCB.to(inputs[0].device)


def is_quantized(llm: nn.Module) -> bool:
    """Returns whether weights of `llm` were rounded when it was loaded, here or by whoever made its folder."""
    return bool(getattr(llm, "is_quantized", False))


def refuse_quantized(llm: nn.Module, what: str) -> None:
    """Raises ModelError, saying `what` cannot be done, if `llm` is quantised."""
    if is_quantized(llm):
        raise ModelError(
            f"{what}: this LLM is quantised, and what its weights were before rounding is not known here; LoRA trains "
            "beside them and is saved, and `sonant export --to peft` takes it out"
        )


def quantized_bytes(llm: PreTrainedModel, how: Quantize) -> dict[str, int]:
    """Returns name -> bytes, once rounded, of those parameters of an `llm` of shapes that loading it would round."""
    head = llm.get_output_embeddings()
    return {
        f"{name}.weight": round(_BYTES[how] * module.weight.numel())
        for name, module in llm.named_modules()
        if isinstance(module, nn.Linear) and module is not head and "lora_" not in name
    }

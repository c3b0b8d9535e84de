"""Language models: any `AutoModelForCausalLM`, from safetensors only, never running code that came with the weights."""

import difflib
import os
from collections.abc import Mapping
from typing import Any, Literal

import pydantic
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from sonant.config import Config
from sonant.errors import ModelError
from sonant.models.lora import packed_scale, scale_kept
from sonant.models.packing import Pack, reads_packs, use_packed_attention
from sonant.models.parts import UNBUILDABLE, quiet_transformers, read_part_config, resolve_part
from sonant.models.quantized import Quantize, quantization, settle

DTYPES: Mapping[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class LLMConfig(Config):
    """Where the language model comes from: a folder or hub id (`path`), or random weights (`architecture`)."""

    path: str | None = None
    architecture: dict[str, Any] | None = None  # {"model_type": "gemma", "hidden_size": 64, ...}
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    attention: Literal["sdpa", "eager", "flash_attention_2", "flex_attention"] = "sdpa"
    gradient_checkpointing: bool = False  # keeps no activations inside layers; training computes them twice
    quantize: Quantize | None = None  # rounds frozen linear layers as they are loaded from `path`; LoRA learns beside

    @pydantic.model_validator(mode="after")
    def _one_origin(self) -> "LLMConfig":
        if (self.path is None) == (self.architecture is None):
            raise ValueError("give either path (a folder or hub id) or architecture (random weights), not both or none")
        if self.quantize is not None and self.path is None:
            raise ValueError("quantize rounds weights that were trained: give path, or leave quantize out")
        return self


def load_llm(config: LLMConfig) -> PreTrainedModel:
    """Returns the language model in eval mode, in `config.dtype`, its token embeddings first checked to work as inputs.

    Inside `torch.device("meta")` an architecture is built without memory for its weights. A quantised model is frozen.

    Raises: ModelError if the model is missing, is no text model, has no safetensors or would run its own code; if it is
    to be quantised and already is, or bitsandbytes is not installed.
    """
    llm = _pretrained(config) if config.path is not None else _random(config)
    check_embeddings(llm)
    if config.attention == "sdpa":
        _pack_if_exact(llm)
    if config.gradient_checkpointing:
        llm.activation_checkpointing_enable({"use_reentrant": False, "context_fn": scale_kept})
    return llm.eval()


def token_embeddings(llm: PreTrainedModel, token_ids: Tensor) -> Tensor:
    """Returns (B, L, D) embeddings of (B, L) ids, scaled as the LLM does itself (Gemma multiplies by sqrt(D))."""
    return llm.get_input_embeddings()(token_ids)


def next_token_logits(llm: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Returns (..., V) logits of (..., D) final hidden states, as the LLM's own head computes them.

    The four scalings are those of Gemma 2 and 3 (soft cap), Granite (division) and Cohere (product);
    `check_embeddings` refuses a head that does something else.
    """
    logits = llm.get_output_embeddings()(hidden)
    config = llm.config
    if scale := getattr(config, "logits_scaling", None):
        logits = logits / scale
    if scale := getattr(config, "logit_scale", None):
        logits = logits * scale
    if cap := getattr(config, "final_logit_softcapping", None):
        logits = torch.tanh(logits / cap) * cap
    return logits


def final_hidden(llm: PreTrainedModel, inputs_embeds: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Returns (B, L, D) hidden states before the head, for right-padded (B, L, D) inputs at positions 0..L-1.

    lengths: (B,) of the rows, where what stands over the padding does not matter: it is not computed then, if the LLM
        `reads_packs`, and its hidden states are zeros.

    No mask is given: under causal attention no position sees the padding to its right, and without a mask the fastest
    kernels apply.
    """
    decoder = llm.get_decoder()
    pack = Pack.of(lengths, inputs_embeds.shape[1]) if lengths is not None and reads_packs(llm) else None
    if pack is None or pack.is_full:
        return decoder(inputs_embeds=inputs_embeds, use_cache=False).last_hidden_state
    with packed_scale(llm, pack):
        hidden = decoder(
            inputs_embeds=pack.pack(inputs_embeds),
            position_ids=pack.position_ids,
            attention_mask=inputs_embeds.new_empty(1, 1, 0, 0),  # keeps the model from making one of (N, N)
            pack=pack,
            use_cache=False,
        ).last_hidden_state
    return pack.unpack(hidden)


def last_layer_hidden(llm: PreTrainedModel, inputs_embeds: Tensor) -> Tensor:
    """Returns (B, L, D) outputs of the last layer, before the final norm; else as `final_hidden`."""
    found: list[Tensor] = []
    layers = llm.get_decoder().layers
    hook = layers[-1].register_forward_hook(
        lambda module, inputs, output: found.append(output[0] if isinstance(output, tuple) else output)
    )
    try:
        final_hidden(llm, inputs_embeds)
    finally:
        hook.remove()
    return found[0]


@torch.no_grad()
def check_embeddings(llm: PreTrainedModel) -> None:
    """Raises ModelError unless embeddings in and hidden states out give the very logits that token ids give.

    Some models look their token ids up a second time inside the layers (Gemma 3n), or scale logits in their own way;
    spliced audio would silently get different numbers there.
    """
    parameter = next(llm.parameters())
    if parameter.is_meta:
        return
    training, token_ids = llm.training, torch.arange(1, 4, device=parameter.device)[None]
    attention = llm.config._attn_implementation
    if attention == "flash_attention_2" and parameter.device.type == "cpu":  # it will run on a GPU, and nowhere else
        llm.set_attn_implementation("sdpa")
    llm.eval()
    try:
        expected = llm(input_ids=token_ids, use_cache=False).logits
        found = next_token_logits(llm, final_hidden(llm, token_embeddings(llm, token_ids)))
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(
            f"{type(llm).__name__} cannot be fed embeddings ({error}); use a decoder-only text model"
        ) from None
    finally:
        llm.train(training)
        if llm.config._attn_implementation != attention:
            llm.set_attn_implementation(attention)
    if not torch.allclose(found, expected, rtol=1e-2, atol=1e-3 + 1e-2 * float(expected.abs().max())):
        raise ModelError(
            f"{type(llm).__name__} gives other logits for embeddings than for token ids (largest difference "
            f"{float((found - expected).abs().max()):.3g}); use a decoder-only text model that reads inputs_embeds"
        )


@torch.no_grad()
def _pack_if_exact(llm: PreTrainedModel) -> None:
    """Lets `llm` read packs, unless rows in a pack are not what they are alone: state space layers, say, mix them."""
    usual = llm.config._attn_implementation
    use_packed_attention(llm)
    parameter = next(llm.parameters())
    if parameter.is_meta:
        return
    device = parameter.device
    rows, lengths = token_embeddings(llm, torch.tensor([[1, 2, 3], [1, 2, 0]], device=device)), torch.tensor([3, 2])
    other = torch.stack([rows[0].flip(0), rows[1]])
    try:
        alone = final_hidden(llm.eval(), rows)[1, :2]
        packed, beside_other = (final_hidden(llm, each, lengths.to(device))[1, :2] for each in (rows, other))
        near = torch.allclose(packed, alone, rtol=1e-2, atol=1e-3 + 1e-2 * float(alone.abs().max()))
        exact = near and torch.equal(packed, beside_other)  # not a bit of the row before it
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
        exact = False
    if not exact:
        llm.set_attn_implementation(usual)


def _pretrained(config: LLMConfig) -> PreTrainedModel:
    assert config.path is not None
    path = os.path.expanduser(resolve_part(config.path))
    values = read_part_config(path)  # refuses code that comes with weights
    if config.quantize is not None and "quantization_config" in values:
        raise ModelError(f"{config.path}: is quantised already, and stays as it is; leave quantize out")
    how = None if config.quantize is None else quantization(config.quantize, DTYPES[config.dtype])
    try:
        with quiet_transformers():
            llm, info = AutoModelForCausalLM.from_pretrained(
                path,
                dtype=DTYPES[config.dtype],
                attn_implementation=config.attention,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **({} if how is None else {"quantization_config": how}),
            )
    except (OSError, RuntimeError, ImportError, *UNBUILDABLE) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{config.path}: cannot load a language model ({reason}); give a folder or hub id with config.json and "
            "*.safetensors of a causal language model"
        ) from None
    if missing := sorted(info["missing_keys"]):
        raise ModelError(f"{config.path}: lacks {len(missing)} weights of {type(llm).__name__}, such as {missing[0]}")
    model: PreTrainedModel = llm
    if how is not None:
        settle(model)
    return model


def _random(config: LLMConfig) -> PreTrainedModel:
    values = dict(config.architecture or {})
    kind = values.pop("model_type", None)
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        close = difflib.get_close_matches(str(kind), list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES), n=3)
        raise ModelError(
            f"model_type {kind!r} is no causal language model; did you mean {' or '.join(close) or 'llama'}?"
        )
    try:
        settings = AutoConfig.for_model(kind, **values)
        llm: PreTrainedModel = AutoModelForCausalLM.from_config(
            settings, dtype=DTYPES[config.dtype], attn_implementation=config.attention
        )
    except UNBUILDABLE as error:
        raise ModelError(
            f"architecture {config.architecture}: {error!r}; see the model's page in transformers"
        ) from None
    return llm

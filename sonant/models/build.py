"""Builds a whole speech language model from one configuration."""

import pydantic
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sonant.config import Config
from sonant.errors import ModelError
from sonant.models.adapters.base import Adapter, AdapterConfig, build_adapter
from sonant.models.adapters.conv_transformer import ConvTransformerAdapter
from sonant.models.adapters.ctc_pooling import CTCPoolingAdapter
from sonant.models.embedding_table import pad_vector
from sonant.models.encoders.base import EncoderConfig, SpeechEncoder
from sonant.models.encoders.load import load_encoder
from sonant.models.llm import LLMConfig, load_llm, token_embeddings
from sonant.models.lora import LoraConfig, add_lora, lora_layers, multiply_lora, wait_for_scale
from sonant.models.prompt_lora import PromptAdapter, PromptLoraConfig
from sonant.models.speech_head.config import SpeechHeadConfig
from sonant.models.speech_head.head import SpeechHead
from sonant.models.speech_lm import SpeechLM

_ADDED_LATER = {"prompt_lora": None, "speech_head": None}


class SpeechLMConfig(Config):
    """The parts of a model: one or two encoders, an adapter, an LLM; LoRA, scaled by the prompt or not; a voice."""

    encoders: tuple[EncoderConfig, ...] = pydantic.Field(min_length=1, max_length=2)
    adapter: AdapterConfig
    llm: LLMConfig
    lora: LoraConfig | None = None
    prompt_lora: PromptLoraConfig | None = None
    speech_head: SpeechHeadConfig | None = None


def build_speech_lm(config: SpeechLMConfig) -> SpeechLM:
    """Returns the model in eval mode; what has no `path` starts random, so seed torch first.

    A CTC pooling adapter gets the LLM's embedding table, and starts from the first encoder's CTC head where there is
    one of its size and no trunk between: then the untrained model already reads what the encoder recognises. With LoRA,
    the rest of the LLM is frozen; what else trains is for a FreezePlan to say.

    Raises: ModelError if a part cannot be loaded or the parts do not fit.
    """
    encoders = [load_encoder(encoder) for encoder in config.encoders]
    llm = load_llm(config.llm)
    embeddings = llm.get_input_embeddings()
    adapter = build_adapter(
        config.adapter,
        in_dims=[encoder.dim for encoder in encoders],
        out_dim=embeddings.embedding_dim,
        vocab_size=embeddings.num_embeddings,
    )
    anchor_adapter(adapter, llm)
    if isinstance(adapter, CTCPoolingAdapter):
        _start_as_cascade(adapter, encoders)
    if config.lora is not None:
        add_lora(llm, config.lora)
    model = SpeechLM(encoders, adapter, llm, config=config.model_copy(update=_ADDED_LATER)).eval()
    if config.prompt_lora is not None:
        add_prompt_lora(model, config.prompt_lora)
    if config.speech_head is not None:
        add_speech_head(model, config.speech_head)
    return model


@torch.no_grad()
def anchor_adapter(adapter: Adapter, llm: PreTrainedModel) -> None:
    """Gives an adapter that reads the LLM's embedding table the table of `llm` as it is now; others stay as they are.

    For a model whose weights came after it was built: the table is not saved with the adapter.
    """
    if isinstance(adapter, CTCPoolingAdapter) and adapter.needs_table:
        adapter.anchor(_embedding_table(llm)[: adapter.vocab_size])
    if isinstance(adapter, ConvTransformerAdapter) and adapter.needs_table:
        table = _embedding_table(llm)
        adapter.anchor(table, pad_vector(table, adapter.pad_id))


def add_prompt_lora(model: SpeechLM, config: PromptLoraConfig) -> None:
    """Makes the prompt scale the LoRA of `model`, in place: how a second stage begins with the model of the first.

    In the residual form nothing changes at first: s == 1, and logits are equal bit by bit.

    Raises: ModelError if there is no LoRA, or a prompt adapter already.
    """
    if not lora_layers(model.llm):
        raise ModelError("prompt_lora scales LoRA, but this model has none; set lora")
    known = model.config if isinstance(model.config, SpeechLMConfig) else None
    if model.prompt_adapter is not None or (known is not None and known.prompt_lora is not None):
        raise ModelError("this model has prompt_lora already; begin with a model without one")
    if config.form == "fixed":
        multiply_lora(model.llm, config.scale)
    else:
        parameter, dim = next(model.llm.parameters()), model.llm.get_input_embeddings().embedding_dim
        adapter = PromptAdapter(config, dim=dim, shape=wait_for_scale(model.llm))
        model.prompt_adapter = adapter.to(parameter.device).train(model.training)
    if known is not None:
        model.config = known.model_copy(update={"prompt_lora": config})


def add_speech_head(model: SpeechLM, config: SpeechHeadConfig) -> None:
    """Gives `model` a voice with random weights, in place: how training begins with a model that only writes.

    Raises: ModelError if it has one already, or no encoder of the number that is to tell voices apart.
    """
    if model.speech_head is not None:
        raise ModelError("this model has a speech head already; begin with a model without one")
    index, encoders = config.speaker_encoder, model.speech_encoders
    if index is not None and index >= len(encoders):
        raise ModelError(f"speech_head.speaker_encoder is {index}, but there are {len(encoders)} encoders, from 0 on")
    embeddings = model.llm.get_input_embeddings()
    head = SpeechHead(
        config, llm_dim=embeddings.embedding_dim, speaker_dim=None if index is None else encoders[index].dim
    )
    model.speech_head = head.to(embeddings.weight.device).train(model.training)
    if isinstance(model.config, SpeechLMConfig):
        model.config = model.config.model_copy(update={"speech_head": config})


@torch.no_grad()
def _start_as_cascade(adapter: CTCPoolingAdapter, encoders: list[SpeechEncoder]) -> None:
    head, mine = getattr(encoders[0], "ctc_head", None), adapter.ctc_head
    if not isinstance(head, nn.Linear) or not isinstance(mine, nn.Linear) or adapter.trunk is not None:
        return
    if head.weight.shape == mine.weight.shape:
        mine.load_state_dict(head.state_dict())


def _embedding_table(llm: PreTrainedModel) -> Tensor:
    """(V, D): the weight itself where the LLM uses it as it is, a scaled copy where it scales (Gemma)."""
    embeddings = llm.get_input_embeddings()
    weight: Tensor = embeddings.weight
    if weight.is_meta and type(embeddings) is nn.Embedding:  # no numbers to compare, and no class of one that scales
        return weight
    every = torch.arange(len(weight), device=weight.device)[None]
    if not weight.is_meta and torch.equal(token_embeddings(llm, every[:, :1])[0], weight[:1]):
        return weight
    return token_embeddings(llm, every)[0]

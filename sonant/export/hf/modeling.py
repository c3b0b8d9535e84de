"""An exported model as transformers runs it: `SpeechLM` reads the prompt, transformers' `generate` does the rest.

    input_ids   u u A       audio heard before A       attention_mask 1 1 1
    embeddings  u u a a a A                                           1 1 1 1 1 1

A slot is a place, not a token, so the prompt is longer than its tokens. Embeddings and mask are made once, before
generation begins; transformers takes both beside the ids, and puts what is said behind the ids.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel

from sonant.errors import CheckpointError, ModelError, RequestError
from sonant.export.hf.configuration import SonantConfig

if TYPE_CHECKING:
    from sonant.models.build import SpeechLMConfig
    from sonant.models.speech_lm import SpeechLM


# What counts the ids of a prompt. Clips have none, so caches would be cut and filled in the wrong places.
_BY_IDS = ("assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit", "prefill_chunk_size")


class SonantForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """A speech language model. `speech_lm` is the `SpeechLM` inside, whose names its weights have.

    dtype and attention that are asked for (`from_pretrained(..., dtype=..., attn_implementation=...)`) are those of the
    LLM; encoders, adapter and LoRA keep theirs.
    """

    config_class = SonantConfig
    main_input_name = "input_ids"
    input_modalities = ("audio", "text")
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, config: SonantConfig) -> None:
        attention = config._attn_implementation
        super().__init__(config)
        from sonant.models.build import build_speech_lm

        with _float32_by_default():
            self.speech_lm: SpeechLM = build_speech_lm(speech_lm_config(config, attention=attention))
        config.text_config = self.speech_lm.llm.config
        self._tied_weights_keys = _ties(self.speech_lm)
        self.post_init()
        self.all_tied_weights_keys = dict(self._tied_weights_keys)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Returns the model in a folder or of a hub id, as transformers does.

        Raises: CheckpointError if the weights are no safetensors, or do not fit the configuration.
        """
        from sonant.models.build import anchor_adapter

        where, with_info = pretrained_model_name_or_path, kwargs.pop("output_loading_info", False)
        if kwargs.pop("use_safetensors", True) is False:
            raise CheckpointError(f"{where}: use_safetensors=False asks for a pickle, which Sonant never reads")
        model, info = super().from_pretrained(where, *args, output_loading_info=True, use_safetensors=True, **kwargs)
        if wrong := sorted({*info["missing_keys"], *info["unexpected_keys"]}):
            raise CheckpointError(
                f"{where}: its weights are not those of config.json: {', '.join(wrong[:5])}; export again"
            )
        anchor_adapter(model.speech_lm.adapter, model.speech_lm.llm)
        return (model, info) if with_info else model

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        lora_scale: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Returns the LLM's output; logits are (B, L', V) over tokens and frames, left-padded like the prompt they see.

        Takes what the processor returns, or what `generate` made of it. kwargs: the clips (`inputs.NAMES`), and what
        the LLM takes beside these.

        Raises: RequestError if parts of the prompt are missing, or it does not fit the LLM.
        """
        from sonant.models.lora import scaled_lora

        prompt = _taken(kwargs, input_ids=input_ids, attention_mask=attention_mask)
        if inputs_embeds is None and past_key_values is None:
            inputs_embeds, attention_mask, lora_scale = self.read(**prompt)
        elif clips := prompt.keys() - {"input_ids", "attention_mask"}:
            raise RequestError(f"{', '.join(sorted(clips))}: a prompt is read at once; leave out the cache or these")
        if inputs_embeds is not None and position_ids is None:
            position_ids = _positions(attention_mask)
        self._refuse_long(inputs_embeds if inputs_embeds is not None else input_ids, past_key_values)
        with scaled_lora(self.speech_lm.llm, lora_scale):
            return self.speech_lm.llm(
                input_ids=input_ids if inputs_embeds is None else None,
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                **kwargs,
            )

    @torch.no_grad()
    def generate(self, inputs: Tensor | None = None, **kwargs: Any) -> Any:
        """Returns what transformers' `generate` does: the ids of prompt and answer, (B, L + new); clips have no ids.

        Takes what the processor returns; every argument of transformers' `generate` keeps its meaning.

        Raises: RequestError for what reads a prompt piece by piece or guesses ahead of it (`_BY_IDS`).
        """
        _refuse_ways_by_ids(kwargs, kwargs.get("generation_config") or self.generation_config)
        prompt = _taken(kwargs, input_ids=kwargs.pop("input_ids", inputs))
        if kwargs.get("inputs_embeds") is None:
            kwargs["inputs_embeds"], mask, kwargs["lora_scale"] = self.read(**prompt)
            return super().generate(input_ids=prompt["input_ids"], attention_mask=mask, **kwargs)
        return super().generate(**{**prompt, **kwargs})

    def read(self, **prompt: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns a prompt as the LLM reads it: embeddings (B, L', D), left-padded, their mask, the scale of its LoRA.

        Raises: RequestError if parts of it are missing.
        """
        from sonant.export.hf.inputs import as_batch

        model = self.speech_lm
        batch = as_batch(prompt, model.feature_specs, reads_prompt=model.prompt_adapter is not None)
        embeds, mask = model.embed(batch).left_padded()
        return embeds, mask.long(), model.lora_scale(batch)

    def get_input_embeddings(self) -> nn.Module:
        """Returns the LLM's token embeddings."""
        return self.speech_lm.llm.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        """Returns the LLM's head."""
        return self.speech_lm.llm.get_output_embeddings()

    @property
    def dtype(self) -> torch.dtype:
        """That of the LLM."""
        return self.speech_lm.llm.dtype

    def _init_weights(self, module: nn.Module) -> None:
        """Does nothing: parts begin as they are built, and `from_pretrained` leaves no weight unread."""

    def _refuse_long(self, read: Tensor | None, past_key_values: Any) -> None:
        limit = self.speech_lm.positions
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        length = past + (0 if read is None else read.shape[1])
        if limit is not None and length > limit:
            raise RequestError(
                f"prompt and answer are {length} tokens and frames long; this LLM holds {limit}: shorten the audio or "
                "the text, or lower max_new_tokens"
            )


def speech_lm_config(config: SonantConfig, *, attention: str | None = None) -> "SpeechLMConfig":
    """Returns the configuration of the `SpeechLM` inside; `attention` and a dtype that was asked for go to the LLM."""
    from sonant.config import validate
    from sonant.models.build import SpeechLMConfig
    from sonant.models.parts import architecture_of

    known, text = dict(config.speech_lm or {}), config.text_config
    if not known or text is None or isinstance(text, dict):
        raise ModelError("config.json: text_config or speech_lm is missing; use a folder that `sonant export` wrote")
    llm: dict[str, Any] = {**known.pop("llm", {})}
    if config.dtype is not None:
        llm["dtype"] = str(config.dtype).removeprefix("torch.")
    if attention is not None:
        llm["attention"] = attention
    llm["architecture"] = {**architecture_of(text), "model_type": text.model_type}
    return validate(SpeechLMConfig, {**known, "llm": llm}, where="config.json")


@contextmanager
def _float32_by_default() -> Iterator[None]:
    """Parts say their own dtypes; what says none is float32. Transformers makes the LLM's the default meanwhile."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _ties(model: "SpeechLM") -> dict[str, str]:
    """Parameters that are one and the same, name -> first name: an LLM's tied head, the shared A of fused LoRA."""
    ties = {f"speech_lm.llm.{a}": f"speech_lm.llm.{b}" for a, b in model.llm.all_tied_weights_keys.items()}
    first: dict[nn.Parameter, str] = {}
    for name, parameter in model.named_parameters(prefix="speech_lm", remove_duplicate=False):
        if first.setdefault(parameter, name) != name:
            ties.setdefault(name, first[parameter])
    return ties


def _taken(kwargs: dict[str, Any], **known: Tensor | None) -> dict[str, Tensor | None]:
    """The parts of a prompt, taken out of `kwargs`."""
    from sonant.export.hf.inputs import NAMES

    return known | {name: kwargs.pop(name) for name in NAMES if name in kwargs}


def _positions(mask: Tensor | None) -> Tensor | None:
    return None if mask is None or mask.dim() != 2 else (mask.cumsum(1) - 1).clamp(min=0)


def _refuse_ways_by_ids(arguments: dict[str, Any], config: Any) -> None:
    for name in _BY_IDS:
        if arguments.get(name, getattr(config, name, None)) is not None:
            raise RequestError(f"{name}: a model that hears cannot generate so, as its clips have no ids; leave it out")

"""An exported model inside vLLM 0.32: our encoders and adapter hear in vLLM's processor, its own LLM reads and answers.

    clips ──processor: encoders, adapter──▶ (T, D) vectors each ──▶ in place of T audio tokens ──▶ vLLM's LLM

They hear in the processor, since the number of vectors may hang on the sound (ctc_pooling), and vLLM lays out the
prompt before its worker sees it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn
from transformers import BatchFeature
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from vllm.config import VllmConfig
from vllm.model_executor.models.interfaces import SupportsMultiModal, SupportsPP
from vllm.model_executor.models.utils import init_vllm_registered_model, maybe_prefix
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import MultiModalDataParser
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
)

from sonant.export.hf.configuration import SonantConfig
from sonant.export.vllm_ears import LONGEST_S, RATE_HZ, Ears, ears
from sonant.export.vllm_plugin import AUDIO

_LLM = "speech_lm.llm."


class Info(BaseProcessingInfo):
    """What vLLM asks of a model that hears."""

    def get_hf_config(self) -> SonantConfig:
        return self.ctx.get_hf_config(SonantConfig)

    @property
    def ears(self) -> Ears:
        """The encoders and the adapter, loaded once a process."""
        return ears(self.ctx.model_config.model)

    def get_data_parser(self) -> MultiModalDataParser:
        return MultiModalDataParser(target_sr=RATE_HZ, target_channels=1, audio_resample_method="soxr")

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        return {"audio": None}

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int] | None = None) -> Mapping[str, int]:
        return {"audio": min(self.ears.longest, seq_len)} if (mm_counts or {}).get("audio") else {}


class DummyInputs(BaseDummyInputsBuilder[Info]):
    """The largest input, by which vLLM measures memory."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        return AUDIO * mm_counts.get("audio", 0)

    def get_dummy_mm_data(self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Any) -> Any:
        length = round(LONGEST_S * RATE_HZ)
        return {"audio": self._get_dummy_audios(length=length, num_audios=mm_counts.get("audio", 0))}


class Processor(BaseMultiModalProcessor[Info]):
    """Turns clips into vectors, and each audio token into as many as its clip has."""

    def _call_hf_processor(self, hf_data: Mapping[str, object], hf_kwargs: Mapping[str, object]) -> BatchFeature:
        clips = cast("list[Any]", hf_data.get("audio", []))
        return BatchFeature({"audio_embeds": self.info.ears(clips)} if clips else {})

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        return {"audio_embeds": MultiModalFieldConfig.batched("audio")}

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, object], out_mm_kwargs: Any
    ) -> Sequence[PromptReplacement]:
        token_id = self.info.get_hf_config().audio_token_id

        def vectors(index: int) -> list[int]:
            # Asked for one by one: where all clips are in vLLM's cache, there are no items here.
            length = len(out_mm_kwargs.get_data()["audio_embeds"][index])
            if length == 0:
                raise ValueError(f"clip {index + 1} is too short to be heard; send a longer one")
            return [token_id] * length

        return [PromptReplacement(modality="audio", target=[token_id], replacement=vectors)]


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=DummyInputs)
class SonantForVLLM(nn.Module, SupportsMultiModal, SupportsPP):
    """vLLM's own class of the LLM, which reads vectors where clips stand."""

    language_model: Any

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        return AUDIO if modality == "audio" else None

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config
        text = config.get_text_config()
        with SupportsMultiModal._mark_language_model(self, vllm_config):
            self.language_model = init_vllm_registered_model(
                vllm_config=vllm_config,
                hf_config=text,
                prefix=maybe_prefix(prefix, "language_model"),
                architectures=[MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[text.model_type]],
            )
        self.audio_token_id = config.audio_token_id
        SupportsMultiModal.configure_mm_token_handling(self, text.vocab_size, [self.audio_token_id])
        self.make_empty_intermediate_tensors = self.language_model.make_empty_intermediate_tensors

    def embed_input_ids(
        self, input_ids: Tensor, multimodal_embeddings: Any = None, *, is_multimodal: Tensor | None = None
    ) -> Tensor:
        """Returns the vectors of a prompt; that of token 0 for an audio token that a raw prompt spells without a clip.

        The LLM has none for it, and to look for one would end the server for everybody.
        """
        known = input_ids.masked_fill(input_ids == self.audio_token_id, 0)
        return SupportsMultiModal.embed_input_ids(self, known, multimodal_embeddings, is_multimodal=is_multimodal)

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """Returns the vectors that the processor made."""
        return list(kwargs.get("audio_embeds", ()))

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: object,
    ) -> Any:
        if intermediate_tensors is not None:
            inputs_embeds = None
        return self.language_model.model(input_ids, positions, intermediate_tensors, inputs_embeds=inputs_embeds)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        return self.language_model.compute_logits(hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Returns the names that were loaded: those of the LLM. What hears is loaded by the processor."""
        mine = ((name.removeprefix(_LLM), tensor) for name, tensor in weights if name.startswith(_LLM))
        return {f"language_model.{name}" for name in self.language_model.load_weights(mine)}

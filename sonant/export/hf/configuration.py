"""What transformers knows of an exported model: its parts without weights, and the LLM's own configuration."""

from typing import Any, ClassVar

from transformers import PreTrainedConfig

from sonant.errors import ModelError

MODEL_TYPE = "sonant"


class SonantConfig(PreTrainedConfig):
    """The `config.json` of an exported model.

    text_config: the configuration of the LLM, as transformers has it.
    speech_lm: a `SpeechLMConfig` as JSON: every part by its architecture, none by a path; of the LLM only dtype and
        attention, since the rest stands in `text_config`.

    Raises: ModelError if the folder would run code of its own (`auto_map`).
    """

    model_type = MODEL_TYPE
    sub_configs: ClassVar[dict[str, Any]] = {"text_config": PreTrainedConfig}

    text_config: dict[str, Any] | PreTrainedConfig | None = None
    speech_lm: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        from transformers import AutoConfig  # its table takes this class in, which must be whole by then

        if "auto_map" in kwargs:
            raise ModelError("config.json: wants to run Python of its own (auto_map), which Sonant never does")
        if isinstance(self.text_config, dict):
            self.text_config = AutoConfig.for_model(**self.text_config)
        super().__post_init__(**kwargs)

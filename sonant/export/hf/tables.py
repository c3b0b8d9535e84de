"""Enters Sonant's classes in the tables behind transformers' Auto classes; called by `import sonant`, table by table.

This module and the three classes import no room of Sonant at their top but errors: a table may be imported in the midst
of importing any room, and would find it half done.
"""

from types import ModuleType

from sonant.export.hf.configuration import MODEL_TYPE, SonantConfig


def enter(table: ModuleType) -> None:
    """Enters our class in `table`, a module of `transformers.models.auto` that has just been imported."""
    match table.__name__.rpartition(".")[2]:
        case "configuration_auto":
            table.AutoConfig.register(MODEL_TYPE, SonantConfig, exist_ok=True)
        case "modeling_auto":
            from sonant.export.hf.modeling import SonantForConditionalGeneration

            for name in ("AutoModel", "AutoModelForCausalLM", "AutoModelForMultimodalLM"):
                getattr(table, name).register(SonantConfig, SonantForConditionalGeneration, exist_ok=True)
        case "processing_auto":
            from sonant.export.hf.processing import SonantProcessor

            table.AutoProcessor.register(SonantConfig, SonantProcessor, exist_ok=True)

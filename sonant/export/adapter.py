"""The LoRA of a trained model alone, as peft writes it: `PeftModel.from_pretrained(llm, folder)` reads it.

adapter_config.json         rank, alpha and the names of the layers
adapter_model.safetensors   A and B of each of them; layers that share an A have a copy each
README.md, provenance.json
"""

import os
from dataclasses import replace
from pathlib import Path

import peft
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor

from sonant.errors import ModelError
from sonant.export.folder import Exported, new_folder, write_card, write_provenance
from sonant.models.build import SpeechLMConfig
from sonant.models.checkpoint import load_speech_lm
from sonant.models.lora import PEFT_NAME
from sonant.models.parts import resolve_part
from sonant.models.speech_lm import SpeechLM

_USE = (
    "from peft import PeftModel",
    "from transformers import AutoModelForCausalLM",
    "",
    'llm = AutoModelForCausalLM.from_pretrained("{base}", dtype="{dtype}")',
    'llm = PeftModel.from_pretrained(llm, "THIS FOLDER")',
)


def export_peft(folder: str | os.PathLike[str], out: str | os.PathLike[str]) -> Exported:
    """Writes the LoRA of the model saved in `folder` to `out`; returns what is in there.

    Raises: CheckpointError if `out` is not free or `folder` no checkpoint; ModelError if there is no LoRA, or each
    prompt scales it.
    """
    source = Path(folder).absolute()
    model = load_speech_lm(source)
    config = model.config
    assert isinstance(config, SpeechLMConfig), "load_speech_lm gives models their configuration"
    settings, tensors = _settings(model), _tensors(model)
    base = settings.base_model_name_or_path = resolve_part(str(config.llm.path))
    remarks: tuple[str, ...] = (
        f"The LoRA of {len(tensors) // 2} linear layers of the LLM {base}: what it learned for text and speech.",
        "No encoder and no adapter are in here: with this alone, the LLM reads and hears nothing.",
    )
    if config.llm.quantize is not None:
        remarks += (f"It learned beside weights rounded to {config.llm.quantize}: beside others it says other things.",)
    exported = Exported(Path(out).absolute(), {"lora": sum(t.numel() for t in tensors.values())}, remarks)
    with new_folder(out) as place:
        settings.save_pretrained(place)
        save_file(tensors, place / "adapter_model.safetensors", metadata={"format": "pt"})
        write_provenance(place, source, to="peft")
        head = {"library_name": "peft", "tags": ["sonant", "lora"]}
        use = [line.format(base=base, dtype=config.llm.dtype) for line in _USE]
        write_card(replace(exported, folder=place), head=head, title="The LoRA of a speech language model", use=use)
    return exported


def _settings(model: SpeechLM) -> peft.LoraConfig:
    layers = _named_layers(model)
    if not layers:
        raise ModelError("there is no LoRA to export in this model; export all of it with --to hf")
    if model.prompt_adapter is not None:
        raise ModelError(
            "this LoRA has another scale for each prompt (prompt_lora), which a peft folder cannot say; export all of "
            "the model with --to hf --no-merge"
        )
    rank, scale = layers[0][1].r[PEFT_NAME], layers[0][1].scaling[PEFT_NAME]
    return peft.LoraConfig(
        r=rank,
        lora_alpha=scale * rank,  # prompt_lora.form fixed is in the scale
        target_modules=sorted({name.rpartition(".")[2] for name, _ in _named_layers(model)}),
        task_type="CAUSAL_LM",
        inference_mode=True,
    )


def _tensors(model: SpeechLM) -> dict[str, Tensor]:
    """A and B of every layer, under peft's names."""
    return {
        f"base_model.model.{name}.{which}.weight": getattr(layer, which)[PEFT_NAME].weight.detach().clone()
        for name, layer in _named_layers(model)
        for which in ("lora_A", "lora_B")
    }


def _named_layers(model: SpeechLM) -> list[tuple[str, LoraLayer]]:
    return [(name, module) for name, module in model.llm.named_modules() if isinstance(module, LoraLayer)]

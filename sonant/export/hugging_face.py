"""A trained model as a folder that transformers loads once Sonant is imported.

config.json              `SonantConfig`: the LLM's configuration, and every part by its architecture
model*.safetensors       every weight, under the names of `SpeechLM`
generation_config.json   greedy, Sonant's stop tokens and its longest answer
processor_config.json    `SonantProcessor`: the features; tokenizer.json, chat_template.jinja beside it
vocoder/                 of a model with a voice, if it had one
README.md, provenance.json
"""

import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
import transformers

from sonant.chat.tokenizer import ChatTokenizer
from sonant.errors import ModelError
from sonant.export.folder import Exported, new_folder, write_card, write_provenance
from sonant.export.hf.configuration import SonantConfig
from sonant.export.hf.modeling import SonantForConditionalGeneration
from sonant.export.hf.processing import SonantProcessor
from sonant.generate.sampling import GenerationConfig
from sonant.models.build import SpeechLMConfig
from sonant.models.checkpoint import load_speech_lm
from sonant.models.lora import lora_layers, merge_lora
from sonant.models.parts import architecture_of, quiet_transformers
from sonant.models.quantized import refuse_quantized
from sonant.models.speech_lm import SpeechLM, part_of

_HEAD = {"library_name": "transformers", "pipeline_tag": "audio-text-to-text", "tags": ["sonant", "speech"]}
_USE = (
    "import sonant  # lets transformers know the classes; no code comes with the weights",
    "from transformers import AutoModelForCausalLM, AutoProcessor",
    "",
    'processor = AutoProcessor.from_pretrained("THIS FOLDER")',
    'model = AutoModelForCausalLM.from_pretrained("THIS FOLDER")',
    'question = [{"role": "user", "content": [{"type": "audio", "audio": "question.wav"}]}]',
    "inputs = processor(question)",
    'answer = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]',
    "print(processor.batch_decode(answer, skip_special_tokens=True)[0])",
)


def export_hf(folder: str | os.PathLike[str], out: str | os.PathLike[str], *, merge: bool = True) -> Exported:
    """Writes the model saved in `folder` to `out`, for transformers' Auto classes; returns what is in there.

    merge: adds LoRA to the LLM's weights, where there is LoRA; else it stays apart.

    Raises: CheckpointError if `out` is not free or `folder` no checkpoint; ModelError if a LoRA that each prompt scales
    is to be merged, or the LLM is quantised.
    """
    source = Path(folder).absolute()
    model, tokenizer = load_speech_lm(source), ChatTokenizer.from_folder(source)
    refuse_quantized(model.llm, "the LLM cannot be exported")
    vocoder = source / "vocoder"
    remarks = _remarks(model, merge=merge, has_vocoder=vocoder.is_dir())
    if merge:
        _merge(model)
    shell = _shell(model, tokenizer)
    tensors = {f"speech_lm.{name}": tensor for name, tensor in model.state_dict().items()}
    parameters: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        parameters[part_of(name)] += parameter.numel()
    with new_folder(out) as place, quiet_transformers():
        shell.save_pretrained(place, state_dict=tensors)
        _processor(model, tokenizer).save_pretrained(place)
        if vocoder.is_dir():
            shutil.copytree(vocoder, place / vocoder.name)
        exported = Exported(place, parameters, remarks)
        write_provenance(place, source, to="hf", merged=merge)
        write_card(exported, head=_HEAD, title="A speech language model", use=_USE)
    return replace(exported, folder=Path(out).absolute())


def _merge(model: SpeechLM) -> None:
    if model.prompt_adapter is not None:
        raise ModelError(
            "this LoRA cannot be merged: each prompt gives it another scale (prompt_lora), so there is no one weight "
            "to add it to; export with --no-merge, which keeps LoRA and what scales it apart"
        )
    if lora_layers(model.llm):
        merge_lora(model.llm)


def _remarks(model: SpeechLM, *, merge: bool, has_vocoder: bool) -> tuple[str, ...]:
    """What a reader of the folder should know of it, before LoRA is merged."""
    layers = len(lora_layers(model.llm))
    apart = "its scale is read off each written question." if model.prompt_adapter is not None else "as it was trained."
    remarks = ["There is no LoRA: the LLM is one set of weights."]
    if layers:
        kept = f"The LoRA of {layers} linear layers is kept apart, {apart}"
        remarks = [f"The LoRA of {layers} linear layers is merged into the LLM." if merge else kept]
    if model.speech_head is not None:
        vocoder = ', vocoder="THIS FOLDER/vocoder"' if has_vocoder else ""
        remarks.append(
            "The voice is inside, but `generate` only writes; sonant.generate.assistant.Assistant(model.speech_lm, "
            f"processor.chat_tokenizer{vocoder}) speaks."
        )
    return tuple(remarks)


def _shell(model: SpeechLM, tokenizer: ChatTokenizer) -> SonantForConditionalGeneration:
    """The exported class without weights: it knows their names, and which are one and the same."""
    with torch.device("meta"):
        shell = SonantForConditionalGeneration(_configuration(model))
    shell.generation_config = transformers.GenerationConfig(
        max_new_tokens=GenerationConfig().max_new_tokens,
        do_sample=False,
        eos_token_id=sorted(tokenizer.stop_ids),
        pad_token_id=tokenizer.pad_id,
    )
    return shell


def _configuration(model: SpeechLM) -> SonantConfig:
    """Every part by its architecture; LoRA only if it is not merged."""
    known = model.config
    assert isinstance(known, SpeechLMConfig), "load_speech_lm gives models their configuration"
    has_lora = bool(lora_layers(model.llm))
    parts = known.model_copy(
        update={
            "encoders": tuple(
                encoder.model_copy(update={"path": None, "architecture": built.architecture})
                for encoder, built in zip(known.encoders, model.speech_encoders, strict=True)
            ),
            "lora": known.lora if has_lora else None,
            "prompt_lora": known.prompt_lora if has_lora else None,
        }
    ).model_dump(mode="json")
    parts["llm"] = {"dtype": known.llm.dtype, "attention": known.llm.attention}
    text = {**architecture_of(model.llm.config), "model_type": model.llm.config.model_type}
    return SonantConfig(text_config=text, speech_lm=parts, dtype=known.llm.dtype)


def _processor(model: SpeechLM, tokenizer: ChatTokenizer) -> SonantProcessor:
    tokenizer.hf.padding_side = "left"
    return SonantProcessor(
        tokenizer.hf,
        features=[spec.to_json() for spec in model.feature_specs],
        reads_prompt=model.prompt_adapter is not None,
    )

"""A model on disk: one folder that names or holds every part, written whole or not at all, verified when read.

    config.json             format, version, the parts held here, the model's configuration
    model.safetensors       adapter, LoRA, prompt adapter, speech head, and the encoders held here
    llm/                    the language model without LoRA, as Hugging Face saves it, if held here
    tokenizer.json, ...     tokenizer and chat template
    generation_config.json  the LLM's own defaults
    provenance.json         versions, date, and what the caller knows about the training
    checksums.json          sha256 of every file above

A part that is not held is loaded from the folder or hub id it came from. Nothing is ever pickled or unpickled.
"""

import datetime
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, Protocol

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sonant import __version__
from sonant.config import validate
from sonant.errors import CheckpointError, ConfigError
from sonant.models.build import SpeechLMConfig, build_speech_lm
from sonant.models.lora import lora_layers
from sonant.models.parts import quiet_transformers, resolve_part
from sonant.models.quantized import is_quantized
from sonant.models.speech_lm import SpeechLM, part_of

FORMAT, VERSION = "sonant-speech-lm", 1
_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}


class Saveable(Protocol):
    """A tokenizer, as far as a checkpoint knows it."""

    def save(self, folder: Path) -> None:
        """Writes its files into `folder`."""


def save_speech_lm(
    model: SpeechLM,
    tokenizer: Saveable,
    folder: str | os.PathLike[str],
    *,
    include: Literal["trained", "all"] = "trained",
    provenance: Mapping[str, Any] | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes the model so that `load_speech_lm(folder)` gives the same logits; an older checkpoint there is replaced.

    include "trained" holds the adapters, LoRA, and each encoder or LLM that trains, ever came out of a checkpoint, or
    has nowhere else to come from (random weights); "all" holds every part, so that the folder stands alone.
    A quantised LLM is named and never held: who loads the folder rounds it again.
    state: the model's whole state dict, where it is sharded over ranks; otherwise taken from `model`.

    Raises: CheckpointError if the model was not made by `build_speech_lm`, the folder holds something else, or a
    quantised LLM would have to be held.
    """
    target = Path(folder).absolute()
    config = model.config
    if not isinstance(config, SpeechLMConfig):
        raise CheckpointError("this model has no configuration to save; make models with build_speech_lm")
    if target.exists() and not (target / "config.json").exists() and (target.is_file() or any(target.iterdir())):
        raise CheckpointError(f"{target}: exists and is no checkpoint; choose another folder")
    held = held_parts(model, config, include=include)
    if "llm" in held and is_quantized(model.llm):
        raise CheckpointError(
            "a quantised LLM is kept by the path it came from, and rounded again when loaded; save what was trained "
            '(include "trained"; `save: trained` of a recipe), and train nothing of the LLM but LoRA'
        )
    tensors = model.state_dict() if state is None else state
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        _write_json(temporary / "config.json", _header(model, config, held))
        own = {name: tensor for name, tensor in tensors.items() if part_of(name) in held - {"llm"}}
        save_file(_without_aliases(own), temporary / "model.safetensors", metadata={"format": "pt"})
        if "llm" in held:
            _save_llm(model.llm, tensors, temporary / "llm")
        tokenizer.save(temporary)
        model.llm.generation_config.to_json_file(temporary / "generation_config.json")
        _write_json(temporary / "provenance.json", {**_versions(), **(provenance or {})})
        _write_json(
            temporary / "checksums.json", {str(p.relative_to(temporary)): _sha256(p) for p in _files(temporary)}
        )
        _replace(target, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_speech_lm(folder: str | os.PathLike[str]) -> SpeechLM:
    """Returns the model saved in `folder`, in eval mode on the default device; nothing of training is needed.

    Raises: CheckpointError, naming the file, if one is missing, damaged, of another format or a pickle; ModelError if
    a part that the folder only names cannot be loaded.
    """
    root = Path(folder).absolute()
    verify(root)
    header = _read_json(root / "config.json")
    if header.get("format") != FORMAT or header.get("version") != VERSION:
        raise CheckpointError(
            f"{root / 'config.json'}: format {header.get('format')!r} version {header.get('version')!r}; this Sonant "
            f"reads {FORMAT!r} version {VERSION}; use the version that wrote it"
        )
    held = frozenset(header.get("parts", ()))
    try:
        config = validate(SpeechLMConfig, header.get("model", {}), where=str(root / "config.json"))
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    if "llm" in held:
        config = config.model_copy(update={"llm": config.llm.model_copy(update={"path": str(root / "llm")})})
    model = build_speech_lm(config)
    model.own_parts = held
    _load_tensors(model, root / "model.safetensors", held)
    return model


def copy_speech_lm(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Copies a checkpoint after verifying it; an older one at `target` is replaced, whole or not at all."""
    place = Path(target).absolute()
    verify(Path(source).absolute())
    temporary = place.with_name(f".{place.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source, temporary)
    _replace(place, temporary)


def held_parts(model: SpeechLM, config: SpeechLMConfig, *, include: Literal["trained", "all"]) -> frozenset[str]:
    """Returns the parts a checkpoint must hold, named as by `part_of`."""
    model.mark_trained()
    encoders = [f"encoders.{index}" for index in range(len(config.encoders))]
    held = {"adapter", "lora"} | model.own_parts | ({"prompt_adapter"} if model.prompt_adapter is not None else set())
    held |= {"speech_head"} if model.speech_head is not None else set()
    held |= {name for name, encoder in zip(encoders, config.encoders, strict=True) if encoder.path is None}
    if not lora_layers(model.llm):
        held -= {"lora"}
        if config.lora is not None:  # merged: the LLM is no longer the one it came from
            held |= {"llm"}
    if config.llm.path is None:
        held |= {"llm"}
    return frozenset(held | {*encoders, "llm"} if include == "all" else held)


def verify(root: Path) -> None:
    """Raises CheckpointError, naming the file, unless every file in `root` is there and is what was written."""
    if not (root / "checksums.json").is_file():
        raise CheckpointError(f"{root}: no checkpoint of Sonant (there is no checksums.json); check the path")
    for path in _files(root):
        if path.suffix in _PICKLES:
            raise CheckpointError(f"{path}: looks like a pickle, which can run code; Sonant never reads one: remove it")
    for name, expected in _read_json(root / "checksums.json").items():
        path = root / name
        if not path.is_file():
            raise CheckpointError(f"{path}: is missing; copy the checkpoint again")
        if _sha256(path) != expected:
            raise CheckpointError(f"{path}: is damaged (its checksum differs); copy the checkpoint again")


def _header(model: SpeechLM, config: SpeechLMConfig, held: frozenset[str]) -> dict[str, Any]:
    """What is held is described by its architecture, what is not by where it came from."""
    encoders = [
        encoder.model_copy(update={"path": None, "architecture": built.architecture})
        if f"encoders.{index}" in held
        else encoder.model_copy(update={"path": _reference(encoder.path)})
        for index, (encoder, built) in enumerate(zip(config.encoders, model.speech_encoders, strict=True))
    ]
    llm_path = "llm" if "llm" in held else _reference(config.llm.path)
    resolved = config.model_copy(
        update={
            "encoders": tuple(encoders),
            "llm": config.llm.model_copy(update={"path": llm_path, "architecture": None}),
            "lora": config.lora if "lora" in held else None,  # merged LoRA is part of the LLM
            "prompt_lora": config.prompt_lora if "lora" in held else None,
        }
    )
    return {"format": FORMAT, "version": VERSION, "parts": sorted(held), "model": resolved.model_dump(mode="json")}


def _reference(path: str | None) -> str | None:
    """A hub id or packaged part as it is; a folder by its full path, as the next reader stands elsewhere."""
    is_folder = path is not None and resolve_part(path) == path and os.path.isdir(os.path.expanduser(path))
    return os.path.abspath(os.path.expanduser(path)) if path is not None and is_folder else path


def _save_llm(llm: Any, tensors: Mapping[str, Tensor], folder: Path) -> None:
    state = {
        name.removeprefix("llm.").replace(".base_layer.", "."): tensor
        for name, tensor in tensors.items()
        if part_of(name) == "llm"
    }
    with quiet_transformers():
        llm.save_pretrained(folder, state_dict=state)


def _load_tensors(model: SpeechLM, path: Path, held: frozenset[str]) -> None:
    try:
        tensors = load_file(path)
        missing, unexpected = model.load_state_dict(tensors, strict=False)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{path}: does not fit the model in config.json ({str(error).strip()})") from None
    needed = _without_aliases({n: t for n, t in model.state_dict().items() if part_of(n) in held - {"llm"}})
    wrong = sorted({*unexpected, *(needed.keys() & set(missing))})
    if wrong:
        raise CheckpointError(f"{path}: does not hold what config.json says; these differ: {', '.join(wrong[:5])}")


def _without_aliases(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor once, under its first name: fused LoRA shares its A, and safetensors refuses shared memory."""
    first: dict[Any, str] = {}
    for name, tensor in state.items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else name
        first.setdefault(place, name)
    return {name: state[name].contiguous() for name in first.values()}


def _replace(target: Path, temporary: Path) -> None:
    """Puts the finished folder in place; a crash in between leaves the old one beside it, never half a checkpoint."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(temporary, target)
    shutil.rmtree(old, ignore_errors=True)


def _versions() -> dict[str, Any]:
    packages = {name: metadata.version(name) for name in ("torch", "transformers", "peft", "safetensors")}
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"sonant": __version__, "python": platform.python_version(), **packages, "saved_at": now}


def _files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file() and path.name != "checksums.json")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); copy the checkpoint again") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: is no JSON object; copy the checkpoint again")
    return values

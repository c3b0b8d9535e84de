"""Finds and loads parts of a model: packaged ones, folders and hub ids; safetensors only, never code of others."""

import contextlib
import difflib
import importlib.resources
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import huggingface_hub.errors
import torch
import transformers
import yaml
from torch import nn

from sonant.errors import ModelError

# Keys of a config.json that describe the file, not the architecture.
_BOOKKEEPING = {"architectures", "dtype", "torch_dtype", "transformers_version", "model_type", "_name_or_path"}

# What transformers raises for settings that contradict each other, or that it does not know.
UNBUILDABLE = (TypeError, ValueError, KeyError, ArithmeticError, huggingface_hub.errors.StrictDataclassError)


@dataclass(frozen=True)
class PartClass:
    """How to get one Hugging Face class out of a checkpoint that may hold more than it."""

    model_class: Any
    model_types: tuple[str, ...]  # what config.json may call itself
    layers_key: str  # the setting that counts the layers
    fixed: Mapping[str, Any] = field(default_factory=dict)  # settings we impose: no random masks, no dropped layers
    nested_key: str | None = None  # where a larger model keeps this part's settings
    key_mapping: Mapping[str, str] | None = None  # regular expressions: checkpoint names -> ours


def resolve_part(path: str) -> str:
    """Returns the folder of a part shipped with Sonant for `tiny/<name>`; any other path or hub id as it is.

    Raises: ModelError for a tiny part that does not exist, listing those that do.
    """
    first, _, name = path.partition("/")
    if first != "tiny" or os.path.isdir(path):
        return path
    root = Path(str(importlib.resources.files("sonant"))) / "tiny"
    known = sorted(child.name for child in root.iterdir() if child.is_dir()) if root.is_dir() else []
    if name not in known:
        listed = ", ".join(f"tiny/{other}" for other in known) or "none (`sonant world build` makes them)"
        raise ModelError(f"no tiny part is called {path!r}; there are: {listed}")
    return str(root / name)


def builds_shapes() -> bool:
    """Returns whether modules are made on the meta device, so that a part is its config.json and nothing is fetched."""
    return torch.get_default_device().type == "meta"


def published_architectures() -> dict[str, dict[str, Any]]:
    """Returns hub id -> what its config.json says of its shape (published.yaml, which names the sources)."""
    text = importlib.resources.files("sonant.models").joinpath("published.yaml").read_text(encoding="utf-8")
    known: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return known


def read_part_config(path: str) -> dict[str, Any]:
    """Returns the config.json of a folder or hub id; on the meta device of a hub id known here, or in the local cache.

    Raises: ModelError if it cannot be found or read, or asks for code of its own (`auto_map`).
    """
    folder = os.path.expanduser(path)
    looks_local = os.path.isabs(folder) or path.startswith((".", "~")) or path.count("/") > 1
    if looks_local and not os.path.isdir(folder):
        raise ModelError(f"{path}: there is no such folder; check the path or give a hub id like owner/name")
    offline = builds_shapes()
    if offline and not os.path.isdir(folder) and path in (known := published_architectures()):
        return known[path]
    try:
        values: dict[str, Any] = transformers.PreTrainedConfig.get_config_dict(folder, local_files_only=offline)[0]
    except (OSError, ValueError) as error:
        if offline and not os.path.isdir(folder):
            raise ModelError(
                f"{path}: its shape is not known here; give a folder with its config.json, or an architecture"
            ) from None
        raise ModelError(f"{path}: cannot read its config.json ({_reason(error)}); check the name") from None
    if not values or not isinstance(values, dict):
        raise ModelError(f"{path}: has no config.json with settings; give the folder of a Hugging Face model")
    if "auto_map" in values:
        raise ModelError(
            f"{path}: wants to run Python of its own (auto_map), which Sonant never does; use another part"
        )
    return values


def load_part(
    part: PartClass, *, path: str | None, architecture: Mapping[str, Any] | None, dtype: str, num_layers: int | None
) -> Any:
    """Returns the `PreTrainedModel` with the weights at `path`, or with random ones for an `architecture`.

    Random weights are made on the current default device, the meta device included, where weights are never read.
    Raises: ModelError for settings that do not fit and for weights that are missing, not safetensors or unsuitable.
    """
    if path is not None:
        path = os.path.expanduser(resolve_part(path))
        values = read_part_config(path)
        values = _nested(values, part, path=path)
    else:
        values = dict(architecture or {})
        _refuse_unknown(values, part)
    config = _make_config(values, part, where=path or "architecture")
    if num_layers is not None:
        whole = getattr(config, part.layers_key)
        if not 1 <= num_layers <= whole:
            raise ModelError(f"num_layers={num_layers}: this part has {whole} layers; give 1 to {whole}")
        setattr(config, part.layers_key, num_layers)
    if path is not None and not builds_shapes():
        return _load_weights(part, path, config=config, dtype=dtype)
    try:
        model: nn.Module = part.model_class(config)
    except UNBUILDABLE as error:
        raise ModelError(f"{path or 'architecture'}: no such module can be built ({_reason(error)})") from None
    return model.to(getattr(torch, dtype))


def architecture_of(config: Any) -> dict[str, Any]:
    """Returns the settings, plain JSON values, from which `load_part(architecture=...)` builds the same module."""
    values = json.loads(config.to_json_string())
    return {key: value for key, value in values.items() if key not in _BOOKKEEPING}


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silences transformers' reports and progress bars: a part of a checkpoint always leaves the rest unused."""
    log = transformers.utils.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()


def _nested(values: dict[str, Any], part: PartClass, *, path: str) -> dict[str, Any]:
    model_type = values.get("model_type")
    if model_type not in part.model_types:
        raise ModelError(
            f"{path}: holds a model of type {model_type!r}; this kind reads {' or '.join(part.model_types)}"
        )
    inner = values.get(part.nested_key) if part.nested_key else None
    return dict(inner) if inner else values


def _refuse_unknown(values: Mapping[str, Any], part: PartClass) -> None:
    config_class = part.model_class.config_class
    known = {*config_class().to_dict(), *config_class.attribute_map}
    for key in values:
        if key not in known:
            close = difflib.get_close_matches(key, sorted(known), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ModelError(f"architecture: {config_class.__name__} has no setting {key!r}{hint}")


def _make_config(values: Mapping[str, Any], part: PartClass, *, where: str) -> Any:
    try:
        with quiet_transformers():  # it warns about token ids, which an encoder does not have
            return part.model_class.config_class.from_dict({**values, **part.fixed})
    except UNBUILDABLE as error:
        raise ModelError(f"{where}: {_reason(error)}") from None


def _load_weights(part: PartClass, path: str, *, config: Any, dtype: str) -> Any:
    try:
        with quiet_transformers():
            model, info = part.model_class.from_pretrained(
                path,
                config=config,
                dtype=getattr(torch, dtype),
                key_mapping=dict(part.key_mapping) if part.key_mapping else None,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(f"{path}: cannot load its safetensors ({_reason(error)})") from None
    if missing := sorted(info["missing_keys"]):
        raise ModelError(f"{path}: lacks {len(missing)} weights of {part.model_class.__name__}, such as {missing[0]}")
    return model


def _reason(error: Exception) -> str:
    """What a library says, on one line, its first 200 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."

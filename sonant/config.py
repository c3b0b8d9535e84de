"""Strict settings: a pydantic model <- YAML files <- `a.b=c` overrides.

Every room owns its own `Config` subclasses; this file only knows how to fill one and how to explain what is wrong.
"""

import difflib
import os
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import pydantic
import yaml

from sonant.errors import ConfigError


class Config(pydantic.BaseModel):
    """Settings that cannot change and refuse keys they do not know."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


C = TypeVar("C", bound=Config)


def load_config(cls: type[C], paths: Sequence[str | os.PathLike[str]], *, overrides: Sequence[str] = ()) -> C:
    """Returns `cls` filled from YAML files (later ones win) and then from `a.b=c` overrides.

    Raises: ConfigError, naming the file, the key, the value and the nearest known key.
    """
    values: dict[str, Any] = {}
    for path in paths:
        values = merge(values, read_yaml(path))
    for override in overrides:
        values = merge(values, parse_override(override))
    where = ", ".join([str(p) for p in paths] + list(overrides)) or "defaults"
    return validate(cls, values, where=where)


def validate(cls: type[C], values: Mapping[str, Any], *, where: str) -> C:
    """Returns `cls(**values)`; a mistake becomes a ConfigError that names `where` it came from."""
    try:
        return cls.model_validate(values)
    except pydantic.ValidationError as error:
        lines = [_explain(cls, dict(e)) for e in error.errors()]
        raise ConfigError(f"{where}: " + "; ".join(lines)) from None


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the mapping in a YAML file. Raises: ConfigError if it is missing, unreadable or not a mapping."""
    try:
        with open(path, encoding="utf-8") as file:
            values = yaml.safe_load(file)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(f"{path}: cannot read this configuration ({reason}); check the name") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: not valid YAML ({getattr(error, 'problem', error)})") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds a {type(values).__name__}; a configuration is a mapping of keys to values")
    return values


def parse_override(text: str) -> dict[str, Any]:
    """Returns `{"a": {"b": c}}` for `a.b=c`; the value is read as YAML. Raises: ConfigError if there is no `=`."""
    key, separator, value = text.partition("=")
    if not separator or not all(key.split(".")):
        raise ConfigError(f"{text!r}: not an override; write key=value, for example train.steps=100")
    try:
        nested: Any = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"{text!r}: the value is not valid YAML; quote it") from None
    for name in reversed(key.split(".")):
        nested = {name: nested}
    assert isinstance(nested, dict)
    return nested


_INSTEAD = {"path": "architecture", "architecture": "path"}


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `base` with the values of `over` laid on top, mapping by mapping; `{"0": ...}` reaches into a list.

    A part is read from a `path` or made of an `architecture`: the one takes the other's place. So does a mapping of
    another `kind`, which has other keys.

    Raises: ConfigError for an index that the list does not have.
    """
    merged = {key: value for key, value in base.items() if over.get(_INSTEAD.get(key, "")) is None}
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping) and not _is_another_kind(old, value):
            merged[key] = merge(old, value)
        elif isinstance(old, list) and isinstance(value, Mapping):
            merged[key] = _merge_items(key, old, value)
        else:
            merged[key] = value
    return merged


def _is_another_kind(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return "kind" in old and "kind" in new and old["kind"] != new["kind"]


def _merge_items(key: str, items: list[Any], over: Mapping[str, Any]) -> list[Any]:
    known = {str(index): item for index, item in enumerate(items)}
    unknown = [index for index in over if str(index) not in known]
    if unknown:
        raise ConfigError(f"'{key}.{unknown[0]}': {key!r} is a list of {len(items)}; its items are {', '.join(known)}")
    return list(merge(known, {str(index): item for index, item in over.items()}).values())


def save_config(config: Config, path: str | os.PathLike[str]) -> None:
    """Writes the resolved settings as YAML that `load_config` reads back to an equal object."""
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    temporary = Path(f"{path}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _explain(cls: type[Config], error: dict[str, Any]) -> str:
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    got = repr(error.get("input"))
    got = got if len(got) <= 60 else got[:57] + "..."
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(location[-1], _known_keys(cls, location[:-1]), n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        return f"unknown key {key!r}{hint}"
    if error["type"] == "missing":
        return f"{key!r} is required"
    return f"{key!r}: {error['msg'].lower()}, got {got}"


def _known_keys(cls: type[Config], location: Sequence[str]) -> list[str]:
    """The keys that may stand at `location`, over every branch of unions and every mapping or list on the way."""
    candidates: list[Any] = [cls]
    for name in location:
        following: list[Any] = []
        for candidate in candidates:
            field = candidate.model_fields.get(name)
            # Mapping keys, list indices and union tags are no fields: stay on the same models.
            following += _models(field.annotation) if field is not None else [candidate]
        candidates = following
    return sorted({name for candidate in candidates for name in candidate.model_fields})


def _models(annotation: Any) -> list[type[Config]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, Config) else []
    if get_origin(annotation) is None and annotation is not Union:
        return []
    return [model for argument in get_args(annotation) for model in _models(argument)]

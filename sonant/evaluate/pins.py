"""What a result depends on, as hashes: whoever has the same pins has asked the same questions of the same model."""

import hashlib
import json
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from sonant import __version__
from sonant.chat.messages import Conversation, Part, TextPart
from sonant.data.shards import file_sha256
from sonant.errors import EvaluationError
from sonant.generate.sampling import GenerationConfig


def model_pin(folder: str | Path) -> dict[str, str]:
    """Returns the name of a model's folder, and a hash over its configuration, weights and tokenizer.

    Parts that it only names are pinned too: a folder by a hash over its files, a hub id by that name.
    Raises: EvaluationError if it is no checkpoint.
    """
    path = Path(folder) / "checksums.json"
    if not path.is_file():
        raise EvaluationError(f"{folder}: no model of Sonant (there is no checksums.json); check the path")
    files = json.loads(path.read_text(encoding="utf-8"))
    files.pop("provenance.json", None)  # when and where it was saved changes no answer
    pinned = {"name": Path(folder).absolute().name, "sha256": text_sha256(json.dumps(files, sort_keys=True))}
    elsewhere = [part_sha256(part) for part in _parts_elsewhere(Path(folder))]
    return pinned | ({"parts": " ".join(elsewhere)} if any(elsewhere) else {})


def _parts_elsewhere(folder: Path) -> list[str]:
    """The parts that a checkpoint names and does not hold; what is held is under its checksums."""
    path = folder / "config.json"
    model = json.loads(path.read_text(encoding="utf-8"))["model"] if path.is_file() else {}
    named = [part.get("path") for part in (*model.get("encoders", ()), model.get("llm", {}))]
    return [part for part in named if part and part != "llm"]


def run_pins(model: str | Path, *, recognizer: str, config: GenerationConfig) -> dict[str, Any]:
    """Returns what all answers of a run depend on besides the questions; `recognizer` names the cascade's."""
    pins: dict[str, Any] = {"sonant": __version__, "model": model_pin(model), "generation": config.model_dump()}
    if recognizer:
        path, *language = recognizer.split("#")
        folder = Path(path).expanduser()
        name = folder.name if folder.is_dir() else path
        pins["recognizer"] = {"name": "#".join([name, *language]), "sha256": part_sha256(folder)}
    return pins


def part_sha256(folder: str | Path) -> str:
    """Returns a hash over the files of a Hugging Face model in a folder; "" for anything else, such as a hub id."""
    files = sorted(path for path in Path(folder).expanduser().glob("*") if path.is_file())
    return text_sha256(" ".join(f"{path.name}:{file_sha256(path)}" for path in files)) if files else ""


def recording_sha256(path: str) -> str | None:
    """Returns the hash of a recording, or None if it is not there; what has not changed is read once."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # a name with a NUL
        return None
    return _sha256_once(path, (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))


@lru_cache(maxsize=1 << 20)
def _sha256_once(path: str, state: tuple[int, ...]) -> str:
    return file_sha256(path)


def rows_sha256(rows: Sequence[Conversation]) -> str:
    """Returns a hash over what rows ask and what is right; where recordings lie does not matter, their names do."""
    plain = [
        [row.id, row.extra.get("aliases"), [[m.role, *map(_plain, m.parts)] for m in row.messages]] for row in rows
    ]
    return text_sha256(json.dumps(plain))


def recordings_sha256(rows: Sequence[Conversation]) -> str:
    """Returns a hash over what the recordings heard in the rows hold, whatever they are called."""
    parts = [part for row in rows for part in row.prompt().heard_parts]
    return text_sha256(" ".join(str(recording_sha256(part.path) if part.path else part.name) for part in parts))


def _plain(part: Part) -> Any:
    if isinstance(part, TextPart):
        return part.text
    return [Path(part.path).name if part.path else part.name, part.offset_s, part.duration_s]


def text_sha256(text: str) -> str:
    """Returns the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()

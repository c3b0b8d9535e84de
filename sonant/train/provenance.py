"""Where a trained part comes from: a file beside its weights."""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from sonant.config import Config


class Provenance:
    """What is to be known of a run; made when it begins, written when it has ended."""

    def __init__(self, recipe: Config, command: str) -> None:
        self._recipe, self._command, self._began = recipe, command, time.monotonic()

    def write(self, folder: Path, *, steps: int, data: Iterable[Path], **measured: Mapping[str, float]) -> None:
        """Writes folder/provenance.json: command, settings, steps, time, versions, the sha256 of each data file.

        measured: key -> name -> score, rounded to four digits after the point.
        """
        values = {
            "command": self._command,
            "recipe": self._recipe.model_dump(mode="json"),
            "steps": steps,
            "seconds": round(time.monotonic() - self._began),
            "processes": int(os.environ.get("WORLD_SIZE", "1")),
            "torch": torch.__version__,
            "data": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in data},
        }
        values |= {key: {name: round(score, 4) for name, score in scores.items()} for key, scores in measured.items()}
        (folder / "provenance.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")

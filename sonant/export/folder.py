"""A folder that is written whole or not at all, with a provenance and a model card."""

import contextlib
import datetime
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sonant import __version__
from sonant.errors import CheckpointError


@dataclass(frozen=True)
class Exported:
    """What an export holds, and what it does not."""

    folder: Path
    parameters: Mapping[str, int]  # part -> how many
    remarks: tuple[str, ...]  # sentences


@contextlib.contextmanager
def new_folder(out: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives an empty folder to fill, which takes its place at `out` when the block ends without an exception.

    Raises: CheckpointError if there is something at `out`.
    """
    target = Path(out).absolute()
    if target.exists() and (target.is_file() or any(target.iterdir())):
        raise CheckpointError(f"{target}: exists; an export never replaces anything: choose another folder")
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_provenance(folder: Path, source: Path, **facts: Any) -> None:
    """Writes provenance.json: how the model in `source` came to be, which of its files were read, and `facts`."""
    digest = hashlib.sha256((source / "checksums.json").read_bytes()).hexdigest()
    exported = {
        "sonant": __version__,
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "checksums_sha256": digest,
        **facts,
    }
    values = {"exported": exported, "model": json.loads((source / "provenance.json").read_text(encoding="utf-8"))}
    (folder / "provenance.json").write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_card(
    exported: Exported, *, head: Mapping[str, Any], title: str, use: Sequence[str], language: str = "python"
) -> None:
    """Writes README.md, a model card: `head` for the hub, what is inside, and how it is used, said in `language`."""
    front = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in head.items()]
    rows = [f"| {part} | {count:,} |" for part, count in exported.parameters.items()]
    total = sum(exported.parameters.values())
    lines = [
        *("---", *front, "---", "", f"# {title}", "", f"Exported by Sonant {__version__}.", ""),
        *("| part | parameters |", "|---|---|", *rows, f"| together | {total:,} |", ""),
        *(f"- {remark}" for remark in exported.remarks),
        *("", f"```{language}", *use, "```", ""),
        "`provenance.json` says how it was trained. The licences of its parts and of its data hold for it, too.",
    ]
    (exported.folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")

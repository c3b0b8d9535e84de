"""LLaMA-Factory: lists of JSON in the sharegpt or the alpaca form, and the file that says which columns are which.

    data/dataset_info.json   {"calls": {"file_name": "calls.json", "formatting": "sharegpt",
                                        "columns": {"messages": "conversations", "audios": "audios"}, "tags": {...}}}
    data/calls.json          [{"conversations": [{"from": "human", "value": "<audio>What is said?"},
                                                 {"from": "gpt", "value": "Hello."}], "audios": ["a.wav"]}, ...]
                             [{"instruction": "<audio>", "input": "What is said?", "output": "...", "history": []}, ...]

SRC is the data file, or the folder with `dataset_info.json`; `name` chooses one of its data sets. Without that file,
the usual columns are taken. Relative paths start at `root` (default: the folder). Preference pairs are dropped.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, get_args

from sonant.chat.messages import Conversation, Role
from sonant.data.sources.base import AudioStore, SourceRow, require
from sonant.data.sources.rows import Row, RowFault, described, each_row, json_files, json_rows, resolved
from sonant.data.sources.tagged import ROLES, Turn, chat, names, rounds
from sonant.errors import ManifestError

LAYOUT = "a data file of LLaMA-Factory, or its folder with dataset_info.json"
COLUMNS = {"prompt": "instruction", "query": "input", "response": "output", "history": "history", "system": "system"}
TAGS = {"role_tag": "from", "content_tag": "value"}


def read(src: Path, *, store: AudioStore, name: str = "", root: str = "") -> Iterator[SourceRow]:
    """Yields the conversations of a data set. Raises: ManifestError if there is none, or `name` must choose."""
    folder = src if src.is_dir() else require(src, LAYOUT).parent
    description = _description(folder, file_name="" if src.is_dir() else src.name, name=name)
    for path in json_files(require(folder / (description.get("file_name") or src.name), LAYOUT), LAYOUT):
        yield from each_row(json_rows(path), partial(_convert, path=path, description=description, root=root or folder))


def _description(folder: Path, *, file_name: str, name: str) -> dict[str, Any]:
    info = folder / "dataset_info.json"
    if file_name and not info.exists():
        return {}
    with described(require(info, LAYOUT)) as known:
        local = {key: value for key, value in known.values.items() if isinstance(value, dict) and "file_name" in value}
        asked = {key: value for key, value in local.items() if key == name or not name}
        fitting = [value for value in asked.values() if file_name in ("", value["file_name"])]
        if len(fitting) > 1 or not (fitting or file_name):
            choice = f"choose one of {', '.join(local)} by -o name=NAME"
            raise ManifestError(f"{info}: {len(fitting)} data sets fit; {choice}")
        chosen = fitting[0] if fitting else {}
        for field, kind in (("file_name", str), ("columns", dict), ("tags", dict)):
            Row(chosen, "").take(kind, field)
    return chosen


def _convert(row: Row, *, path: Path, description: Mapping[str, Any], root: Path | str) -> Iterator[SourceRow]:
    columns = {"audios": "audios", **COLUMNS, **(description.get("columns") or {})}
    if description.get("ranking") or "chosen" in row.values:
        raise RowFault("a preference pair")
    clips = [resolved(clip, root) for clip in names(row, columns["audios"])]
    tags = {**TAGS, **(description.get("tags") or {})}
    roles = {**ROLES, **{tags[f"{role}_tag"]: role for role in get_args(Role) if f"{role}_tag" in tags}}
    messages = chat(_turns(row, columns, tags), clips, roles=roles)
    yield Conversation(messages, **row.labels(f"{path.stem}-{row.line}"))


def _turns(row: Row, columns: Mapping[str, str], tags: Mapping[str, str]) -> list[Turn]:
    messages = row.take(list, columns.get("messages", "conversations"), "messages")
    if messages is None:
        fields = (columns[name] for name in ("prompt", "query", "response"))
        return rounds(row, *fields, system=columns["system"], history=columns["history"])
    system = row.text(columns["system"])
    turns: list[Turn] = [("system", system)] if system else []
    for message in (Row(message, row.place) for message in messages):
        role = message.need(tags["role_tag"], "role")
        turns.append((role, message.take(object, tags["content_tag"], "content")))
    return turns

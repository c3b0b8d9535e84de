"""ms-swift: rows of JSON, one a line or one list, with <audio> in the text and the recordings beside it.

    {"messages": [{"role": "user", "content": "<audio>What is said?"}, {"role": "assistant", "content": "..."}],
     "audios": ["a.wav"]}
    {"system": "...", "query": "<audio>What is said?", "response": "...", "history": [["...", "..."]], "audios": [...]}
    {"system": "...", "instruction": "<audio>What is said?", "input": "...", "output": "...", "audios": [...]}
    {"system": "...", "conversation": [{"human": "<audio>What is said?", "assistant": "..."}], "audios": [...]}

SRC is a .jsonl or .json file, or a folder of them. Relative paths start at `root` (default: the folder of the file).
Rows with pictures or videos are dropped. Other fields are kept.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from sonant.chat.messages import Conversation
from sonant.data.exports.base import KEY, carried, with_files
from sonant.data.exports.ms_swift import shape
from sonant.data.sources.base import AudioStore, SourceRow, require
from sonant.data.sources.rows import Row, RowFault, each_row, json_files, json_rows, resolved
from sonant.data.sources.tagged import Turn, chat, names, rounds

LAYOUT = "a .jsonl or .json file of ms-swift, or a folder of them"


def read(src: Path, *, store: AudioStore, root: str = "") -> Iterator[SourceRow]:
    """Yields the conversations of ms-swift files. Raises: ManifestError if there are none."""
    for path in json_files(require(src, LAYOUT), LAYOUT):
        yield from each_row(json_rows(path), partial(_convert, path=path, root=root))


def _convert(row: Row, *, path: Path, root: str) -> Iterator[SourceRow]:
    audios = names(row, "audios")
    if KEY in row.values:
        conversation = carried(row, partial(shape, audios=()))
        if len(audios) != len(conversation.heard_parts):
            raise RowFault("edited after export", f"{len(audios)} clips")
        yield with_files(conversation, lambda part: resolved(part.path or "", path.parent, root))
        return
    for name in ("images", "videos"):
        if row.values.get(name):
            raise RowFault(f"holds {name}")
    clips = [resolved(name, path.parent, root) for name in audios]
    messages = chat(_turns(row), clips)
    yield Conversation(messages, **row.labels(f"{path.stem}-{row.line}"))


def _turns(row: Row) -> list[Turn]:
    if (messages := row.take(list, "messages", "conversations", "conversation")) is None:
        fields = ("query", "", "response") if "query" in row.values else ("instruction", "input", "output")
        return rounds(row, *fields, system="system", history="history")
    system = row.text("system")
    turns: list[Turn] = [("system", system)] if system else []
    for message in (Row(message, row.place) for message in messages):
        if role := message.text("role", "from"):
            turns.append((role, message.take(object, "content", "value")))
        else:
            turns += [(role, message.need(role)) for role in ("human", "assistant")]
    return turns

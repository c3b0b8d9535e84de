"""What the exports share: rows that do not fit are counted, and each row carries itself, so that nothing is lost.

    {"messages": [{"role": "user", "content": "<audio>What is said?"}, ...], "audios": ["a.wav"],   the format's shape
     "sonant": "{'id': 'r1', 'task': 'asr', 'messages': [...]}"}                                    the row itself

The key "sonant" holds the row as a manifest writes it, as text: one column of one type, whatever is in `extra`. Reading
it back gives an equal row, as long as the rest still says the same; a row edited since then is refused.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from sonant.audio.io import SEGMENT_SLACK_S, info, save
from sonant.chat.messages import AudioPart, Conversation, Part, TextPart
from sonant.data.manifest import Manifest, line_of, parse, write_lines
from sonant.data.sources.base import AudioStore, Dropped
from sonant.data.sources.embedded import keep
from sonant.data.sources.rows import Row, RowFault
from sonant.errors import AudioError

KEY = "sonant"
T = TypeVar("T")
Progress = Callable[[int, int], None]
Shape = Callable[[Conversation], dict[str, Any]]


@dataclass(frozen=True)
class ExportReport:
    """How many rows were written, and how many not, by reason; `OUT.dropped.jsonl` names them."""

    rows: int
    dropped: dict[str, int]


class Export:
    """One export of a manifest to the folder `out`: its rows, and what became of them."""

    def __init__(self, manifest: Manifest, out: str | os.PathLike[str], *, progress: Progress) -> None:
        self.manifest, self.out, self.progress = manifest, Path(out).absolute(), progress
        self.num_rows = 0
        self.dropped: list[Dropped] = []

    def rows(
        self, convert: Callable[[Conversation], T], *, where: Callable[[Conversation], bool] = lambda row: True
    ) -> Iterator[T]:
        """Yields what `convert` makes of each row for which `where` holds; RowFault and AudioError drop a row."""
        for index in range(len(self.manifest)):
            self.progress(index, len(self.manifest))
            row = self.manifest[index]
            if not where(row):
                continue
            try:
                converted = convert(row)
            except RowFault as fault:
                self.dropped.append(Dropped(self.manifest.place(index), fault.reason, fault.detail))
            except AudioError as error:
                self.dropped.append(Dropped(self.manifest.place(index), "recording cannot be read", str(error)))
            else:
                self.num_rows += 1
                yield converted

    def report(self) -> ExportReport:
        """Returns the counts, after writing OUT.dropped.jsonl."""
        self.progress(len(self.manifest), len(self.manifest))
        lines = (json.dumps(vars(dropped), ensure_ascii=False) for dropped in self.dropped)
        write_lines(f"{self.out}.dropped.jsonl", lines)
        return ExportReport(self.num_rows, dict(Counter(dropped.reason for dropped in self.dropped).most_common()))


class Clips:
    """The recordings that an export writes itself: those in memory, and cuts for formats that know no segments."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.store = AudioStore(folder)

    def whole(self, part: AudioPart) -> str:
        """Returns the absolute path of the recording that a part is taken from."""
        return keep(self.store, part.data or b"") if part.path is None else os.path.abspath(part.path)

    def cut(self, part: AudioPart) -> str:
        """Returns the absolute path of a file with nothing but this part: FLAC, if it is not a whole recording.

        Raises: AudioError if the recording cannot be read.
        """
        header = info(part.source)
        if part.offset_s == 0 and abs((part.duration_s or header.duration_s) - header.duration_s) <= SEGMENT_SLACK_S:
            return self.whole(part)
        key = repr((os.path.abspath(part.name), part.offset_s, part.duration_s))
        path = self.store.folder.absolute() / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.flac"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            rate_hz = header.sample_rate_hz
            samples = part.load(sample_rate_hz=rate_hz)
            save(path, samples, sample_rate_hz=rate_hz)
        return str(path)


def with_files(
    conversation: Conversation, file_of: Callable[[AudioPart], str], *, is_cut: bool = False
) -> Conversation:
    """Returns the conversation with its clips in the files that `file_of` names, each with nothing else if `is_cut`."""

    def changed(part: Part) -> Part:
        if isinstance(part, TextPart):
            return part
        return replace(part, path=file_of(part), data=None, offset_s=0.0 if is_cut else part.offset_s)

    messages = (replace(message, parts=tuple(map(changed, message.parts))) for message in conversation.messages)
    return replace(conversation, messages=tuple(messages))


def carrying(conversation: Conversation, shape: Shape, *, folder: Path) -> dict[str, Any]:
    """Returns what `shape` makes of a conversation, with the conversation itself; paths start at `folder`."""
    line = line_of(conversation, folder)
    return {**shape(parse(line.encode(), KEY)), KEY: line}


def carried(row: Row, shape: Shape) -> Conversation:
    """Returns the conversation that an exported row carries; fields that came later go to its `extra`.

    Raises: RowFault if the row is no longer what `shape` made of it.
    """
    conversation = parse(row.need(KEY).encode(), row.place)
    shaped = shape(conversation)
    if any(row.values.pop(name, None) != value for name, value in shaped.items()):
        raise RowFault("edited after export", f"delete its key {KEY!r} to read what it says now")
    return replace(conversation, extra={**conversation.extra, **row.extra})

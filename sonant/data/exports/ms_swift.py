"""To ms-swift: OUT/data.jsonl, and OUT/clips with the recordings it needs cut.

    {"messages": [{"role": "user", "content": "<audio>What is said?"}, ...], "audios": ["/data/a.wav"],
     "id": "r1", "task": "asr", "language": "en", "speaker": "19", "sonant": "{...}"}

ms-swift knows no segments: a clip that is a part of a longer recording is cut to a FLAC of its own. It has no escape
for its tags either: a row whose text holds <audio>, <image> or <video> is refused. Paths are absolute, as it advises.
Its answers are text: what one sounds like is named in "sonant" only.
"""

import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sonant.chat.messages import Conversation, TextPart
from sonant.data.exports.base import Clips, Export, ExportReport, carrying, with_files
from sonant.data.manifest import Manifest, write_lines
from sonant.data.sources.rows import RowFault
from sonant.data.sources.tagged import TAG

OTHER_TAGS = ("<image>", "<video>")


def write(
    manifest: Manifest,
    out: str | os.PathLike[str],
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ExportReport:
    """Returns the counts, after writing the manifest in the shape of ms-swift."""
    export = Export(manifest, out, progress=progress)
    clips = Clips(export.out / "clips")
    write_lines(export.out / "data.jsonl", export.rows(partial(_line, clips=clips, folder=export.out)))
    return export.report()


def shape(conversation: Conversation, *, audios: Sequence[str]) -> dict[str, Any]:
    """Returns a conversation as ms-swift writes it. Raises: RowFault if its text holds a tag."""
    messages = []
    for message in conversation.messages:
        tag = "" if message.role == "assistant" else TAG
        content = "".join(part.text if isinstance(part, TextPart) else tag for part in message.parts)
        if content.count(TAG) != len(message.heard) or any(tag in content for tag in OTHER_TAGS):
            raise RowFault("text holds a tag", content[:80])
        messages.append({"role": message.role, "content": content})
    labels = {name: getattr(conversation, name) for name in ("id", "task", "language", "speaker")}
    row = {"messages": messages, "audios": list(audios), **labels}
    return {name: value for name, value in row.items() if value}


def _line(conversation: Conversation, *, clips: Clips, folder: Path) -> str:
    audios = [clips.cut(part) for part in conversation.heard_parts]
    row = carrying(with_files(conversation, clips.whole), partial(shape, audios=audios), folder=folder)
    return json.dumps(row, ensure_ascii=False)

"""A manifest: one conversation a line, JSON in UTF-8. Rows are read when they are asked for.

    {"id": "1089", "task": "asr", "messages": [{"role": "user", "content": [{"type": "audio", "path": "a.flac"}]}, ...]}

Opening one only looks for the ends of lines, so a million rows open in a fraction of a second. Relative audio paths
start at the manifest's folder. Keys that Sonant does not know are kept. An empty line is refused; a newline at the end
is not.
"""

import contextlib
import functools
import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sonant.audio.io import info
from sonant.chat.messages import AudioPart, Conversation, Part
from sonant.errors import AudioError, ChatError, ManifestError

BLOCK_BYTES = 1 << 20  # the same, over and over: memory that is fresh costs more than what is read into it


class Manifest(Sequence[Conversation]):
    """The conversations of a JSONL file by number; line numbers in messages count from 1.

    The file must not change while it is in use: only an index of byte offsets is kept of it. Reading is thread-safe.

    Raises: ManifestError if the file cannot be read, has no rows or an empty line; for a bad row, when it is asked for.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._root = self.path.absolute().parent  # absolute: rows may be written to other folders
        self._offsets = line_offsets(self.path)
        if len(self) == 0:
            raise ManifestError(f"{self.path}: holds no rows; a manifest has one conversation a line")
        empty = np.flatnonzero(np.diff(self._offsets) <= 1)
        if len(empty):
            raise ManifestError(
                f"{self.place(int(empty[0]))}: empty line; delete it, or let 'sonant data check --fix' do so"
            )

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> Conversation:  # type: ignore[override] # no slices: rows are read one by one
        index = range(len(self))[index]
        return self.read(self.raw(index), index)

    def __iter__(self) -> Iterator[Conversation]:
        return (self[index] for index in range(len(self)))

    def raw(self, index: int) -> bytes:
        """Returns the bytes of a row's line."""
        return self.raw_rows(index, index + 1)

    def raw_rows(self, first: int, end: int) -> bytes:
        """Returns the bytes of the lines of rows [first, end)."""
        with open(self.path, "rb") as file:
            file.seek(self._offsets[first])
            return file.read(int(self._offsets[end] - self._offsets[first]))

    def digest(self, first: int, end: int) -> bytes:
        """Returns the SHA-256 of what `raw_rows` returns, of which no more than a block is ever held."""
        digest, left = hashlib.sha256(), int(self._offsets[end] - self._offsets[first])
        block = memoryview(bytearray(min(left, BLOCK_BYTES)))
        with open(self.path, "rb", buffering=0) as file:
            file.seek(self._offsets[first])
            while left and (num_bytes := file.readinto(block[:left])):
                digest.update(block[:num_bytes])
                left -= num_bytes
        return digest.digest()

    def read(self, line: bytes, index: int) -> Conversation:
        """Returns the conversation of a row, given its line. Raises: ManifestError, naming its place, if it is none."""
        return parse(line, self.place(index)).with_root(self._root)

    def place(self, index: int) -> str:
        """Returns where a row stands, as `file:line`."""
        return f"{self.path}:{index + 1}"


def clip_duration_s(part: AudioPart) -> float | None:
    """Returns the seconds of a clip: as written, or by the header of its file; None if that cannot be read."""
    if part.duration_s is not None:
        return part.duration_s
    try:
        return max(0.0, info(part.source).duration_s - part.offset_s)
    except AudioError:
        return None


def line_offsets(path: str | os.PathLike[str]) -> NDArray[np.int64]:
    """Returns (lines + 1,) byte offsets: line i is [offsets[i], offsets[i + 1]).

    Raises: ManifestError if the file cannot be read.
    """
    ends = [np.zeros(1, np.int64)]
    block, size = np.empty(BLOCK_BYTES, np.uint8), 0
    try:
        with open(path, "rb", buffering=0) as file:
            while num_bytes := file.readinto(block.data):
                ends.append(np.flatnonzero(block[:num_bytes] == ord("\n")) + (size + 1))
                size += num_bytes
    except OSError as error:
        raise ManifestError(f"{path}: cannot read this manifest ({error.strerror}); check the name") from None
    offsets = np.concatenate(ends)
    return offsets if offsets[-1] == size else np.append(offsets, size)


def parse_json(line: bytes, place: str) -> Any:
    """Returns the JSON value of a line. Raises: ManifestError if it is not UTF-8 or not JSON (NaN is not)."""
    try:
        value = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
        if b"\\ud" in line.lower():  # half of a surrogate pair is legal JSON, but no text a tokenizer could read
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except UnicodeDecodeError as error:
        raise ManifestError(f"{place}: byte {error.start + 1} is not UTF-8 text; save the manifest as UTF-8") from None
    except UnicodeEncodeError:
        raise ManifestError(
            f"{place}: not JSON of whole characters (half of a surrogate pair); clean the text"
        ) from None
    except json.JSONDecodeError as error:
        raise ManifestError(
            f"{place}: not JSON ({error.msg} at column {error.colno}); write one object a line"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{place}: not JSON ({error}); write one object a line") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


def parse(line: bytes, place: str) -> Conversation:
    """Returns the conversation of a line, its paths as written.

    Raises: ManifestError naming the place and the fault.
    """
    try:
        return Conversation.from_json(parse_json(line, place))
    except ChatError as error:
        raise ManifestError(f"{place}: {error}") from None


def write(path: str | os.PathLike[str], conversations: Iterable[Conversation]) -> int:
    """Writes a manifest, whole or not at all; returns its number of rows.

    Absolute audio paths become relative to the manifest's folder, so that data and manifests can be moved together.
    """
    root = Path(path).absolute().parent
    return write_lines(path, (line_of(conversation, root) for conversation in conversations))


def line_of(conversation: Conversation, folder: Path) -> str:
    """Returns the row as a manifest in `folder` (absolute) writes it, without the end of line.

    Raises: ManifestError for a number that JSON has not, and that nobody could read again.
    """
    try:
        return json.dumps(_unrooted(conversation, folder).to_json(), ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise ManifestError(
            f"row {conversation.id!r}: holds NaN or an infinite number (such as 1e999); JSON has none, correct it"
        ) from None


def write_lines(path: str | os.PathLike[str], lines: Iterable[str]) -> int:
    """Writes lines of text, whole or not at all; returns how many."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    count = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            for line in lines:
                file.write(line + "\n")
                count += 1
        os.replace(temporary, path)
    except OSError as error:
        raise ManifestError(f"{path}: cannot be written ({error.strerror}); check the folder") from None
    except UnicodeEncodeError as error:
        raise ManifestError(f"{path}: line {count + 1} cannot be written as UTF-8 ({error.reason}); clean it") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return count


def relative_path(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> str:
    """Returns the path as seen from a folder: `folder/PATH` opens the file even if the folder is a symbolic link."""
    parent, name = os.path.split(path)
    return f"{_way(parent, os.fspath(folder))}/{name}".removeprefix("./")


@functools.lru_cache(maxsize=1024)  # the recordings of a corpus lie in few folders
def _way(to: str, start: str) -> str:
    return Path(os.path.relpath(os.path.realpath(to), os.path.realpath(start))).as_posix()


def _unrooted(conversation: Conversation, root: Path) -> Conversation:
    def unrooted(part: Part) -> Part:
        if not isinstance(part, AudioPart) or part.path is None or not os.path.isabs(part.path):
            return part
        return replace(part, path=relative_path(part.path, root))

    if not any(part.path and os.path.isabs(part.path) for part in conversation.audio_parts):
        return conversation
    messages = (replace(m, parts=tuple(map(unrooted, m.parts))) for m in conversation.messages)
    return replace(conversation, messages=tuple(messages))

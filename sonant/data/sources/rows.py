"""Rows that others wrote: read one by one, fields taken with their types checked. What does not fit is dropped, named.

`Row` hands out fields; what is not taken becomes the row's `extra`. A fault ends one row, never the file.
"""

import codecs
import gzip
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sonant.data.manifest import parse_json
from sonant.data.sources.base import Dropped, SourceRow, placed
from sonant.errors import AudioError, ChatError, ManifestError

OWN = {"id", "task", "language", "speaker", "messages"}  # the fields of a Conversation
KINDS: dict[type, str] = {str: "text", list: "a list", dict: "an object"}
NOTE = ".import.json"  # beside every manifest that an import wrote
NAMED_JSON = re.compile(r"\.jsonl?(\.gz)?$")


class RowFault(Exception):
    """Why a row cannot be kept: a short reason, which is counted, and the detail."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


class Row:
    """An object of JSON whose fields are taken one by one. Raises: RowFault if it is none."""

    def __init__(self, values: Any, place: str) -> None:
        if not isinstance(values, dict):
            raise RowFault("not an object", f"is a {type(values).__name__}")
        self.values, self.place = dict(values), place

    def take(self, kind: type, *names: str) -> Any:
        """Returns the first of these fields that is there, or None. Raises: RowFault if it is not of this kind."""
        for name in names:
            if self.values.get(name) is not None:
                value = self.values.pop(name)
                if not isinstance(value, kind):
                    raise RowFault(f"{name} is not {KINDS[kind]}", repr(value)[:80])
                return value
        return None

    def text(self, *names: str) -> str | None:
        """Returns the first of these fields that is there; a whole number is a text too, as speakers often are."""
        for name in names:
            if type(value := self.values.get(name)) is int:
                self.values[name] = str(value)
        found: str | None = self.take(str, *names)
        return found

    def need(self, *names: str) -> str:
        """Returns the text of a field that must be there and not be empty."""
        if not (value := self.text(*names)):
            raise RowFault(f"no {' or '.join(names)}")
        return value

    def number(self, name: str) -> float | None:
        """Returns the number in a field, if it is there."""
        if isinstance(value := self.values.pop(name, None), bool) or not isinstance(value, int | float | None):
            raise RowFault(f"{name} is no number", repr(value)[:80])
        try:
            return None if value is None else float(value)
        except OverflowError:
            raise RowFault(f"{name} is more than a number can be", repr(value)[:80]) from None

    def labels(self, default_id: str) -> dict[str, Any]:
        """Returns what a conversation holds besides its messages, all that was not taken yet under `extra`."""
        labels: dict[str, Any] = {name: self.text(name) for name in ("language", "speaker")}
        labels.update(id=self.text("id") or default_id, task=self.text("task") or "")
        return {**labels, "extra": self.extra}

    @property
    def line(self) -> str:
        """The number of its line, or its index in a list."""
        return re.split(r"[:\[]", self.place)[-1].rstrip("]")

    @property
    def extra(self) -> dict[str, Any]:
        """What was not taken and is neither null nor NaN; names that a row has already start with `source_`."""
        kept = {name: value for name, value in self.values.items() if value is not None and value == value}
        return {f"source_{name}" if name in OWN else name: value for name, value in kept.items()}


def each_row(rows: Iterable[tuple[str, Any]], convert: Callable[[Row], Iterable[SourceRow]]) -> Iterator[SourceRow]:
    """Yields what `convert` makes of each (place, object or line of JSON); a row at fault is `Dropped`."""
    for place, values in rows:
        try:
            row = Row(parse_json(values, place) if isinstance(values, bytes) else values, place)
            yield from (placed(made, place) for made in convert(row))
        except RowFault as fault:
            yield Dropped(place, fault.reason, fault.detail)
        except ManifestError as error:
            yield Dropped(place, "not JSON", str(error).removeprefix(f"{place}: ").removeprefix("not JSON "))
        except (AudioError, ChatError) as error:
            yield Dropped(place, "not a valid clip or turn", str(error))


def json_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Yields (place, line or value) of a file with one object a line, or one list of all (read whole); .gz too.

    Raises: ManifestError if it cannot be read, or is a list that is not JSON.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            begin = len(codecs.BOM_UTF8) if file.read(3) == codecs.BOM_UTF8 else 0
            file.seek(begin)
            start = file.read(1)
            while start.isspace():
                start = file.read(1)
            file.seek(begin)
            if start == b"[":
                values = parse_json(file.read(), str(path))
                yield from ((f"{path}[{index}]", value) for index, value in enumerate(values))
            else:
                yield from ((f"{path}:{line}", text) for line, text in enumerate(file, 1) if text.strip())
    except (OSError, EOFError, zlib.error) as error:
        raise ManifestError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}); check it") from None


@contextmanager
def described(path: Path) -> Iterator[Row]:
    """Yields the object in a file that describes a corpus. Raises: ManifestError, naming the file, for any RowFault."""
    try:
        yield Row(parse_json(path.read_bytes(), str(path)), str(path))
    except RowFault as fault:
        raise ManifestError(f"{path}: {fault.reason} {fault.detail}".rstrip() + "; copy or write it again") from None


def json_files(src: Path, layout: str) -> list[Path]:
    """Returns the file, or the JSON files of a folder. Raises: ManifestError, saying what is expected, if none."""
    files = sorted(named_files(src, NAMED_JSON)) if src.is_dir() else [src]
    if not files:
        raise ManifestError(f"{src}: holds no JSON files; expected is {layout}")
    return files


def named_files(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    """Returns the files of a folder with such names, without those that an import wrote there: they are no corpus."""
    files = list(folder.iterdir())
    outs = [path.name.removesuffix(NOTE) for path in files if path.name.endswith(NOTE)]
    written = {f"{out}{ending}" for out in outs for ending in (".jsonl", ".dropped.jsonl", NOTE)}
    return [path for path in files if pattern.search(path.name) and path.name not in written]


def resolved(name: str, folder: str | os.PathLike[str], root: str = "") -> str:
    """Returns the path of a recording that a row names, relative ones starting at `root`, or else at `folder`.

    Raises: RowFault if there is no such file, or the name is a URL: nothing is fetched.
    """
    if "://" in name:
        raise RowFault("recording is a URL", name)
    path = os.path.abspath(os.path.join(root or folder, name))
    if not os.path.isfile(path):
        raise RowFault("no recording", path)
    return path

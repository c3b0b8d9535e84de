"""The doctor: reads whole manifests and every recording in them before a GPU is touched.

lines ─▶ shape and content of each row ─▶ clips (threads) ─▶ rows against model ─▶ rows against each other ─▶ Report
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sonant.data.check_audio import Clip, ClipKey, Depth, look_at
from sonant.data.check_compare import compare
from sonant.data.check_lines import Row, read_rows
from sonant.data.check_rows import Found
from sonant.data.faults import Fault, Report
from sonant.data.manifest import relative_path, write_lines
from sonant.errors import ManifestError

if TYPE_CHECKING:
    from sonant.chat.tokenizer import ChatTokenizer

Paths = Sequence[str | os.PathLike[str]]


@dataclass(frozen=True)
class Limits:
    """What the model can take; None leaves a check out."""

    context: int | None = None  # tokens of an expanded row
    window_s: float | None = None  # longest clip the encoder hears
    audio_tokens: Callable[[float], int] | None = None  # tokens of a clip of so many seconds


def check(
    paths: Paths,
    *,
    tokenizer: "ChatTokenizer | None" = None,
    limits: Limits | None = None,
    depth: Depth = "samples",
    workers: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Returns every fault of some manifests, each with `file:line`, a code of `faults.KINDS` and a remedy.

    Several manifests are also compared: those whose name, or else whose folder's name, says train, dev or test belong
    to that split, any other is a split of its own. A leak is reported at the row that comes later.

    Args:
        tokenizer: finds its special tokens inside texts, and counts tokens for `limits.context`.
        depth: how far recordings are read: "samples", "headers" or "metadata" (no file is opened).
        workers: processes that read large manifests, and threads that read recordings.
        progress: called with (clips done, clips in all).

    Raises: ManifestError if a manifest cannot be opened or no path is given.
    """
    if not paths:
        raise ManifestError("no manifest to check; name one or more .jsonl files")
    limits = limits or Limits()
    names = list(map(str, paths))
    rows: list[Row] = []
    for name in names:
        rows += read_rows(name, tokenizer=tokenizer, count_tokens=limits.context is not None, workers=workers)
    keys = dict.fromkeys(key for row in rows for key in row.clips)
    embedded = {name: data for row in rows if row.embedded for name, data in row.embedded.items()}
    clips = look_at(keys, embedded=embedded, depth=depth, workers=workers, progress=progress)
    for row in rows:
        row.add(*_row_faults(row, clips, limits))
    compare(rows, clips)
    faults = [Fault(code, row.path, row.line, row.id, detail) for row in rows for code, detail in row.found or ()]
    counts = dict(Counter(row.path for row in rows))
    return Report(counts, faults, clips=len(clips), skipped=_skipped(tokenizer, limits, depth))


def _row_faults(row: Row, clips: Mapping[ClipKey, Clip], limits: Limits) -> Iterator[Found]:
    for key in dict.fromkeys(row.clips):
        yield from clips[key].found
    if row.last_word is not None:
        key, start_s = row.last_word
        if 0 < (end_s := clips[key].duration_s or 0.0) < start_s:
            yield "unfit-words", f"{key[0]}: the last word starts at {start_s:g} s, the clip has {end_s:.3f} s"
    durations_s = [clips[key].duration_s or 0.0 for key in row.heard]
    longest_s = max(durations_s, default=0.0)
    if limits.window_s is not None and longest_s > limits.window_s:
        yield "beyond-window", f"a clip has {longest_s:.2f} s, the encoder hears {limits.window_s:g} s"
    if limits.context is not None:
        num_audio = sum(map(limits.audio_tokens, durations_s)) if limits.audio_tokens else 0
        if row.num_text_tokens + num_audio > limits.context:
            numbers = f"{row.num_text_tokens} text + {num_audio} audio tokens"
            yield "too-long", f"{numbers}, the context is {limits.context}"


def _skipped(tokenizer: "ChatTokenizer | None", limits: Limits, depth: Depth) -> tuple[str, ...]:
    notes = {
        "too-long: needs a tokenizer, the context and the tokens of audio": not (
            tokenizer and limits.context and limits.audio_tokens
        ),
        "beyond-window: needs the encoder's window": limits.window_s is None,
        "audio-corrupt, audio-nan, audio-silent, audio-clipped: only headers were read": depth == "headers",
        "whatever is wrong inside recordings: none was opened": depth == "metadata",
    }
    return tuple(note for note, applies in notes.items() if applies)


def fix(report: Report, path: str | os.PathLike[str], out: str | os.PathLike[str]) -> tuple[int, int]:
    """Writes `out` without the rows of `path` that have errors, and `out`.dropped.jsonl with those rows and why.

    Rows with warnings only stay as they are; relative audio paths are rewritten if `out` is in another folder.

    Returns (rows kept, rows dropped). Raises: ManifestError if `path` is not in the report, if `out` is `path`, or if
    nothing would be left.
    """
    path, out = Path(path), Path(out)
    if str(path) not in report.rows:
        raise ManifestError(f"{path}: was not checked; checked were {', '.join(report.rows)}")
    if out.absolute() == path.absolute():
        raise ManifestError(f"{out}: is the manifest itself; write the repaired one to another name")
    reasons: dict[int, list[Fault]] = {}
    for fault in report.faults:
        if fault.path == str(path) and fault.severity == "error":
            reasons.setdefault(fault.line, []).append(fault)
    kept: list[str] = []
    dropped: list[str] = []
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if number in reasons:
                dropped.append(_dropped(line, reasons[number]))
            else:
                kept.append(_moved(line.decode("utf-8").rstrip("\r\n"), path.absolute().parent, out.absolute().parent))
    if not kept:
        raise ManifestError(f"{path}: all {len(dropped)} rows have errors, so nothing would be left; see the report")
    write_lines(f"{out}.dropped.jsonl", dropped)
    return write_lines(out, kept), len(dropped)


def _dropped(line: bytes, faults: Sequence[Fault]) -> str:
    text = line.decode("utf-8", "backslashreplace").rstrip("\r\n")
    reasons = [{"code": fault.code, "detail": fault.detail} for fault in faults]
    return json.dumps({"place": faults[0].place, "reasons": reasons, "row": text}, ensure_ascii=False)


def _moved(line: str, old: Path, new: Path) -> str:
    """The line with its relative audio paths seen from another folder."""
    if old == new:
        return line
    row = json.loads(line)
    for message in row["messages"]:
        for part in message["content"] if isinstance(message["content"], list) else []:
            if part["type"] == "audio" and part.get("path") and not os.path.isabs(part["path"]):
                part["path"] = relative_path(old / part["path"], new)
    return json.dumps(row, ensure_ascii=False)

"""The doctor: reads whole manifests and every recording in them before a GPU is touched.

lines ─▶ shape and content of each row ─▶ clips (threads) ─▶ rows against model ─▶ rows against each other ─▶ Report
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sonant.data.check_audio import Clips, Depth, look_at
from sonant.data.check_columns import RowFault, Table, blocks_of
from sonant.data.check_compare import compare, split_of
from sonant.data.check_lines import Reading, read_blocks
from sonant.data.faults import Fault, Report
from sonant.data.manifest import relative_path, write_lines
from sonant.errors import ManifestError

if TYPE_CHECKING:
    from sonant.chat.tokenizer import ChatTokenizer

MAX_COUNT = 1 << 40  # of tokens; only impossible durations have more
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
    limits, names = limits or Limits(), list(map(str, paths))
    reading = Reading(
        tokenizer,
        count_tokens=tokenizer is not None and limits.context is not None,
        compares_splits=len(set(map(split_of, names))) > 1,
        finds_files=depth == "metadata",
    )
    blocks = [block for name in names for block in blocks_of(name)]
    table = Table(blocks, read_blocks(blocks, reading, workers=workers))
    clips = look_at(table, depth=depth, workers=workers, progress=progress)
    found = [*table.found, *clips.found, *_against_model(table, clips, limits), *compare(table, clips)]
    faults = [Fault(code, *table.where(row), id, detail) for row, id, code, detail in sorted(found, key=_row)]
    return Report(table.num_rows, faults, clips=clips.num_distinct, skipped=_skipped(tokenizer, limits, depth))


def _row(fault: RowFault) -> int:
    return fault.row


def _against_model(table: Table, clips: Clips, limits: Limits) -> Iterator[RowFault]:
    columns = table.columns
    ends_s = clips.durations_s[columns.last_clips]
    for number in np.flatnonzero((ends_s > 0) & (ends_s < columns.last_starts_s)).tolist():
        clip, start_s = int(columns.last_clips[number]), columns.last_starts_s[number]
        times = f"the last word starts at {start_s:g} s, the clip has {ends_s[number]:.3f} s"
        yield table.fault(int(columns.owners[clip]), "unfit-words", f"{table.recording(clip)}: {times}")
    if limits.window_s is None and limits.context is None:
        return
    owners = columns.owners[columns.is_heard]
    heard_s = np.nan_to_num(clips.durations_s[columns.is_heard])
    if limits.window_s is not None:
        for row in np.unique(owners[heard_s > limits.window_s]).tolist():
            longest_s = heard_s[np.searchsorted(owners, row) : np.searchsorted(owners, row, side="right")].max()
            detail = f"a clip has {longest_s:.2f} s, the encoder hears {limits.window_s:g} s"
            yield table.fault(row, "beyond-window", detail)
    if limits.context is not None:
        audio = np.zeros(len(table), np.int64)
        if (count := limits.audio_tokens) is not None:
            counts = (min(count(seconds), MAX_COUNT) for seconds in heard_s.tolist())
            np.add.at(audio, owners, np.fromiter(counts, np.int64, len(owners)))
        text = columns.num_text_tokens if len(columns.num_text_tokens) else np.broadcast_to(np.int32(0), len(table))
        for row in np.flatnonzero(text + audio > limits.context).tolist():
            numbers = f"{text[row]} text + {audio[row]} audio tokens"
            yield table.fault(row, "too-long", f"{numbers}, the context is {limits.context}")


def _skipped(tokenizer: "ChatTokenizer | None", limits: Limits, depth: Depth) -> tuple[str, ...]:
    notes = {
        "too-long: needs a tokenizer, the context and the tokens of audio": not (tokenizer and limits.context),
        "too-long where audio is: its tokens were counted as 0": bool(
            tokenizer and limits.context and not limits.audio_tokens
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

"""The doctor: reads whole manifests and every recording in them before a GPU is touched.

lines ─▶ shape and content of each row ─▶ clips (threads) ─▶ rows against model ─▶ rows against each other ─▶ Report
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sonant.chat.messages import Conversation
from sonant.data.check_audio import Clip, ClipKey, look_at
from sonant.data.check_rows import Found, content_faults, shape_faults
from sonant.data.faults import Fault, Report
from sonant.data.manifest import line_offsets, parse_json, write_lines
from sonant.errors import ChatError, ManifestError

if TYPE_CHECKING:
    from sonant.chat.tokenizer import ChatTokenizer

Paths = Sequence[str | os.PathLike[str]]

SPLITS = {
    "train": "train",
    "dev": "dev",
    "valid": "dev",
    "validation": "dev",
    "val": "dev",
    "test": "test",
    "eval": "test",
}
MIN_SENTENCE_WORDS = 5  # shorter answers ("yes", "in Paris") are the same in every split


@dataclass(frozen=True)
class Limits:
    """What the model can take; None leaves a check out."""

    context: int | None = None  # tokens of an expanded row
    window_s: float | None = None  # longest clip the encoder hears
    audio_tokens: Callable[[float], int] | None = None  # tokens of a clip of so many seconds


@dataclass
class _Row:
    path: str
    line: int
    found: list[Found]
    conversation: Conversation | None = None
    num_text_tokens: int = 0


def check(
    paths: Paths,
    *,
    tokenizer: "ChatTokenizer | None" = None,
    limits: Limits | None = None,
    decode: bool = True,
    workers: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Returns every fault of some manifests, each with `file:line`, a code of `faults.KINDS` and a remedy.

    Several manifests are also compared: those whose name, or else whose folder's name, says train, dev or test belong
    to that split, any other is a split of its own. A leak is reported at the row that comes later.

    Args:
        tokenizer: finds its special tokens inside texts, and counts tokens for `limits.context`.
        decode: read every sample; False reads headers only.
        progress: called with (clips done, clips in all).

    Raises: ManifestError if a manifest cannot be opened or no path is given.
    """
    limits = limits or Limits()
    if not paths:
        raise ManifestError("no manifest to check; name one or more .jsonl files")
    markup = _special_tokens(tokenizer)
    rows = [row for path in paths for row in _read(str(path), markup)]
    parts = (p for row in rows if row.conversation for p in row.conversation.audio_parts)
    clips = look_at(parts, decode=decode, workers=workers, progress=progress)
    for row in rows:
        if row.conversation:
            row.found += _row_faults(row.conversation, clips, tokenizer, limits)
    _compare(rows, clips)
    faults = [
        Fault(code, row.path, row.line, row.conversation.id if row.conversation else "", detail)
        for row in rows
        for code, detail in row.found
    ]
    counts = {str(path): sum(row.path == str(path) for row in rows) for path in paths}
    return Report(counts, faults, clips=len(clips), skipped=_skipped(tokenizer, limits, decode))


def _read(path: str, markup: Sequence[str]) -> Iterator[_Row]:
    offsets = line_offsets(path)
    if len(offsets) == 1:
        yield _Row(path, 1, [("empty-line", "the manifest is empty")])
        return
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            yield _read_line(line, path, number, markup)


def _read_line(line: bytes, path: str, number: int, markup: Sequence[str]) -> _Row:
    if not line.strip():
        return _Row(path, number, [("empty-line", "nothing but white space")])
    try:
        value = parse_json(line, f"{path}:{number}")
    except ManifestError as error:
        detail = str(error).removeprefix(f"{path}:{number}: ").partition(";")[0]
        return _Row(path, number, [("not-utf8" if "UTF-8" in detail else "bad-json", detail)])
    row = _Row(path, number, list(shape_faults(value)))
    try:
        conversation = Conversation.from_json(value)
    except ChatError as error:
        row.found = row.found or [("wrong-type", str(error))]
        return row
    row.found += content_faults(conversation, markup=markup)
    absolute = next((p.path for p in conversation.audio_parts if p.path and os.path.isabs(p.path)), None)
    if absolute:
        row.found.append(("absolute-path", f"{absolute} is absolute"))
    row.conversation = conversation.with_root(Path(path).parent)
    return row


def _special_tokens(tokenizer: "ChatTokenizer | None") -> list[str]:
    if tokenizer is None:
        return []
    tokens = [str(token) for token in tokenizer.hf.convert_ids_to_tokens(sorted(tokenizer.special_ids))]
    return [token for token in tokens if len(token) > 2]


def _row_faults(
    conversation: Conversation, clips: Mapping[ClipKey, Clip], tokenizer: "ChatTokenizer | None", limits: Limits
) -> Iterator[Found]:
    heard = [clips[part.key] for part in conversation.audio_parts]
    yield from (found for clip in dict.fromkeys(heard) for found in clip.found)
    durations_s = [clip.duration_s or 0.0 for clip in heard]
    if limits.window_s is not None and max(durations_s, default=0.0) > limits.window_s:
        yield "beyond-window", f"a clip has {max(durations_s):.2f} s, the encoder hears {limits.window_s:g} s"
    if tokenizer is None or limits.context is None:
        return
    from sonant.chat.render import render  # needs transformers, which plain checks do not

    try:
        num_text = len(render(conversation, tokenizer).token_ids)
    except ChatError as error:
        yield "wrong-type", f"the chat template refuses the row: {error}"
        return
    num_audio = sum(map(limits.audio_tokens, durations_s)) if limits.audio_tokens else 0
    if num_text + num_audio > limits.context:
        yield "too-long", f"{num_text} text + {num_audio} audio tokens, the context is {limits.context}"


def _compare(rows: Iterable[_Row], clips: Mapping[ClipKey, Clip]) -> None:
    """Adds what is wrong with rows next to the others: duplicates inside a manifest, leaks between splits."""
    ids: dict[tuple[str, str], int] = {}
    contents: dict[tuple[str, bytes], int] = {}
    held: dict[tuple[str, Any], tuple[str, str]] = {}  # (kind, value) -> (split, place) of its first row
    leaking_speakers: set[tuple[str, str]] = set()
    for row in rows:
        conversation = row.conversation
        if conversation is None:
            continue
        if conversation.id and ids.setdefault((row.path, conversation.id), row.line) != row.line:
            row.found.append(
                ("duplicate-id", f"id {conversation.id!r} is that of line {ids[row.path, conversation.id]}")
            )
        content = _content(conversation)
        first = contents.setdefault((row.path, content), row.line)
        if first != row.line:
            row.found.append(("duplicate-content", f"the messages are those of line {first}"))
        split = _split(row.path)
        for code, value, name in _held(conversation, content, clips):
            other, place = held.setdefault((code, value), (split, f"{row.path}:{row.line}"))
            if other == split or (code == "leak-speaker" and (split, name) in leaking_speakers):
                continue
            if code == "leak-speaker":  # once for each speaker, not for each of a thousand rows
                leaking_speakers.add((split, name))
            row.found.append((code, f"{name} is also in {place}"))


def _held(conversation: Conversation, content: bytes, clips: Mapping[ClipKey, Clip]) -> Iterator[tuple[str, Any, str]]:
    """(code if another split holds it too, the value, its name in messages)"""
    for part in conversation.audio_parts:
        clip = clips[part.key]
        if clip.duration_s is not None:
            yield "leak-audio", clip.digest or (os.path.realpath(part.path or part.name), *part.key[1:]), part.name
    if not conversation.audio_parts:
        yield "leak-content", content, "the conversation"
    words = re.findall(r"\w+", conversation.reference.lower())
    if len(words) >= MIN_SENTENCE_WORDS:
        yield "leak-sentence", " ".join(words), f"the answer {conversation.reference[:60]!r}"
    if conversation.speaker:
        yield "leak-speaker", conversation.speaker, f"speaker {conversation.speaker!r}"


def _content(conversation: Conversation) -> bytes:
    messages = json.dumps([message.to_json() for message in conversation.messages], sort_keys=True)
    return hashlib.blake2b(messages.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _split(path: str) -> str:
    """train, dev or test, by the name of the file or else of its folder; the path itself if neither says."""
    absolute = Path(path).absolute()
    names = f"{absolute.stem} {absolute.parent.name}".lower()
    return next((SPLITS[word] for word in re.split(r"[^a-z]+", names) if word in SPLITS), path)


def _skipped(tokenizer: "ChatTokenizer | None", limits: Limits, decode: bool) -> tuple[str, ...]:
    notes = {
        "too-long: needs a tokenizer, the context and the tokens of audio": not (
            tokenizer and limits.context and limits.audio_tokens
        ),
        "beyond-window: needs the encoder's window": limits.window_s is None,
        "audio-corrupt, audio-nan, audio-silent, audio-clipped: only headers were read": not decode,
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
                part["path"] = Path(os.path.relpath(old / part["path"], new)).as_posix()
    return json.dumps(row, ensure_ascii=False)

"""The doctor: reads whole manifests and every recording in them before a GPU is touched.

lines ─▶ shape and content of each row ─▶ clips (threads) ─▶ rows against model ─▶ rows against each other ─▶ Report
"""

import functools
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sonant.chat.messages import AudioPart, Conversation
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
    """What is kept of a line: a million of them must fit into memory."""

    path: str
    line: int
    found: list[Found]
    id: str = ""
    content: bytes | None = None  # digest of the messages; None: the line is no conversation
    clips: tuple[ClipKey, ...] = ()
    sentence: str = ""  # the answer's words, if they are enough to tell it
    speaker: str = ""
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
    if not paths:
        raise ManifestError("no manifest to check; name one or more .jsonl files")
    reader = _Reader(tokenizer, limits or Limits())
    rows = [row for path in paths for row in reader.rows(str(path))]
    clips = look_at(reader.parts, decode=decode, workers=workers, progress=progress)
    for row in rows:
        row.found += _row_faults(row, clips, reader.limits)
    _compare(rows, clips)
    faults = [Fault(code, row.path, row.line, row.id, detail) for row in rows for code, detail in row.found]
    counts = dict(Counter(row.path for row in rows))
    return Report(counts, faults, clips=len(clips), skipped=_skipped(tokenizer, reader.limits, decode))


class _Reader:
    """Turns lines into rows, and collects the different clips they use."""

    def __init__(self, tokenizer: "ChatTokenizer | None", limits: Limits) -> None:
        self.limits = limits
        self.parts: dict[ClipKey, AudioPart] = {}
        self._tokenizer = tokenizer
        self._markup = _special_tokens(tokenizer)

    def rows(self, path: str) -> Iterator[_Row]:
        if len(line_offsets(path)) == 1:
            yield _Row(path, 1, [("empty-line", "the manifest is empty")])
            return
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                yield self._row(line, path, number)

    def _row(self, line: bytes, path: str, number: int) -> _Row:
        if not line.strip():
            return _Row(path, number, [("empty-line", "nothing but white space")])
        try:
            value = parse_json(line, f"{path}:{number}")
        except ManifestError as error:
            detail = str(error).removeprefix(f"{path}:{number}: ").partition(";")[0]
            return _Row(path, number, [("not-utf8" if "not UTF-8" in detail else "bad-json", detail)])
        row = _Row(path, number, list(shape_faults(value)))
        try:
            conversation = Conversation.from_json(value)
        except ChatError as error:
            row.found = row.found or [("wrong-type", str(error))]
        else:
            self._fill(row, conversation)
        return row

    def _fill(self, row: _Row, conversation: Conversation) -> None:
        row.found += content_faults(conversation, markup=self._markup)
        absolute = next((p.path for p in conversation.audio_parts if p.path and os.path.isabs(p.path)), None)
        if absolute:
            row.found.append(("absolute-path", f"{absolute} is absolute"))
        row.id, row.speaker = conversation.id, conversation.speaker or ""
        messages = json.dumps([message.to_json() for message in conversation.messages], sort_keys=True)
        row.content = hashlib.blake2b(messages.encode(), digest_size=16).digest()
        words = re.findall(r"\w+", conversation.reference.lower())
        row.sentence = " ".join(words) if len(words) >= MIN_SENTENCE_WORDS else ""
        parts = conversation.with_root(Path(row.path).parent).audio_parts
        self.parts.update((part.key, part) for part in parts)
        row.clips = tuple(part.key for part in parts)
        if self._tokenizer and self.limits.context:
            row.num_text_tokens = self._num_text_tokens(row, conversation)

    def _num_text_tokens(self, row: _Row, conversation: Conversation) -> int:
        from sonant.chat.render import render  # needs transformers, which plain checks do not

        assert self._tokenizer is not None
        try:
            return len(render(conversation, self._tokenizer).token_ids)
        except ChatError as error:
            row.found.append(("template-refuses", str(error)))
            return 0


def _special_tokens(tokenizer: "ChatTokenizer | None") -> list[str]:
    if tokenizer is None:
        return []
    tokens = [str(token) for token in tokenizer.hf.convert_ids_to_tokens(sorted(tokenizer.special_ids))]
    return [token for token in tokens if len(token) > 2]


def _row_faults(row: _Row, clips: Mapping[ClipKey, Clip], limits: Limits) -> Iterator[Found]:
    for key in dict.fromkeys(row.clips):
        yield from clips[key].found
    durations_s = [clips[key].duration_s or 0.0 for key in row.clips]
    longest_s = max(durations_s, default=0.0)
    if limits.window_s is not None and longest_s > limits.window_s:
        yield "beyond-window", f"a clip has {longest_s:.2f} s, the encoder hears {limits.window_s:g} s"
    if limits.context is not None:
        num_audio = sum(map(limits.audio_tokens, durations_s)) if limits.audio_tokens else 0
        if row.num_text_tokens + num_audio > limits.context:
            numbers = f"{row.num_text_tokens} text + {num_audio} audio tokens"
            yield "too-long", f"{numbers}, the context is {limits.context}"


def _compare(rows: Iterable[_Row], clips: Mapping[ClipKey, Clip]) -> None:
    """Adds what is wrong with rows next to the others: duplicates inside a manifest, leaks between splits."""
    ids: dict[tuple[str, str], int] = {}
    contents: dict[tuple[str, bytes], int] = {}
    held: dict[tuple[str, Any], tuple[str, str]] = {}  # (kind, value) -> (split, place) of its first row
    leaking_speakers: set[tuple[str, str]] = set()
    for row in rows:
        if row.content is None:
            continue
        first = ids.setdefault((row.path, row.id), row.line)
        if row.id and first != row.line:
            row.found.append(("duplicate-id", f"id {row.id!r} is that of line {first}"))
        first = contents.setdefault((row.path, row.content), row.line)
        if first != row.line:
            row.found.append(("duplicate-content", f"the messages are those of line {first}"))
        split = _split(row.path)
        for code, value, name in _held(row, clips):
            other, place = held.setdefault((code, value), (split, f"{row.path}:{row.line}"))
            if other == split or (code == "leak-speaker" and (split, row.speaker) in leaking_speakers):
                continue
            if code == "leak-speaker":  # once for each speaker, not for each of a thousand rows
                leaking_speakers.add((split, row.speaker))
            row.found.append((code, f"{name} is also in {place}"))


def _held(row: _Row, clips: Mapping[ClipKey, Clip]) -> Iterator[tuple[str, Any, str]]:
    """(code if another split holds it too, the value, its name in messages)"""
    for key in dict.fromkeys(row.clips):
        if clips[key].duration_s is not None:
            yield "leak-audio", clips[key].digest or (os.path.realpath(key[0]), *key[1:]), key[0]
    if not row.clips:
        yield "leak-content", row.content, "the conversation"
    if row.sentence:
        yield "leak-sentence", row.sentence, f"the answer {row.sentence[:60]!r}"
    if row.speaker:
        yield "leak-speaker", row.speaker, f"speaker {row.speaker!r}"


@functools.lru_cache(maxsize=256)
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

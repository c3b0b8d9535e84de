"""Reads the lines of manifests into small records: a million of them fit into memory, and several processes share them.

manifest ─▶ blocks of lines ─▶ processes (spawned; one block: right here) ─▶ Rows, in the order of the lines
"""

import hashlib
import itertools
import json
import math
import multiprocessing
import os
import re
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from sonant.chat.messages import AudioPart, Conversation
from sonant.chat.spelling import word_starts
from sonant.data.check_audio import ClipKey
from sonant.data.check_rows import Found, content_faults, shape_faults
from sonant.data.manifest import line_offsets, parse_json
from sonant.data.respan import as_written
from sonant.errors import ChatError, ManifestError

if TYPE_CHECKING:
    from sonant.chat.tokenizer import ChatTokenizer

BLOCK_ROWS = 5_000
MIN_SENTENCE_WORDS = 5  # shorter answers ("yes", "in Paris") are the same in every split


@dataclass(slots=True)
class Row:
    """What is kept of a line."""

    path: str
    line: int
    found: list[Found] | None = None
    id: str = ""
    content: int = 0  # 63 bits of a hash of the messages; 0: the line is no conversation
    sentence: int = 0  # the same of the answer's words; 0: they are too few to tell it
    speaker: str = ""
    clips: tuple[ClipKey, ...] = ()
    heard: tuple[ClipKey, ...] = ()  # those of them that a model hears; an assistant's it says
    last_word: tuple[ClipKey, float] | None = None  # the clip of a spoken answer, and when its last word starts
    num_text_tokens: int = 0
    embedded: dict[str, bytes] | None = None  # recordings inside the line, by name

    def add(self, *found: Found) -> None:
        """Notes faults."""
        if found:
            self.found = [*(self.found or ()), *found]


def read_rows(path: str, *, tokenizer: "ChatTokenizer | None", count_tokens: bool, workers: int) -> Iterator[Row]:
    """Yields a record for each line. Raises: ManifestError if the file cannot be read."""
    offsets = line_offsets(path)
    num_rows = len(offsets) - 1
    if num_rows == 0:
        yield Row(path, 1, [("empty-line", "the manifest is empty")])
        return
    firsts = range(0, num_rows, BLOCK_ROWS)
    blocks = [(f + 1, int(offsets[f]), int(offsets[min(f + BLOCK_ROWS, num_rows)])) for f in firsts]
    if tokenizer is not None or len(blocks) == 1 or workers == 1:  # a tokenizer would have to be loaded by each process
        read = partial(_read_block, path, tokenizer=tokenizer, count_tokens=count_tokens)
        yield from itertools.chain.from_iterable(map(read, blocks))
        return
    with ProcessPoolExecutor(min(workers, len(blocks)), mp_context=multiprocessing.get_context("spawn")) as pool:
        for rows in pool.map(partial(_read_block, path), blocks):
            yield from map(_interned, rows)


def _interned(row: Row) -> Row:
    # What came through a pipe has a copy of every name.
    row.path, row.speaker = sys.intern(row.path), sys.intern(row.speaker)
    row.clips, row.heard = tuple(map(_interned_key, row.clips)), tuple(map(_interned_key, row.heard))
    return row


def _interned_key(key: ClipKey) -> ClipKey:
    return sys.intern(key[0]), *key[1:]


def _read_block(
    path: str, block: tuple[int, int, int], *, tokenizer: "ChatTokenizer | None" = None, count_tokens: bool = False
) -> list[Row]:
    first_line, start, end = block
    with open(path, "rb") as file:
        file.seek(start)
        lines = file.read(end - start).removesuffix(b"\n").split(b"\n")
    reader = _LineReader(path, tokenizer, count_tokens)
    return [reader.row(line, number) for number, line in enumerate(lines, first_line)]


class _LineReader:
    """Turns lines into rows."""

    def __init__(self, path: str, tokenizer: "ChatTokenizer | None", count_tokens: bool) -> None:
        self.path, self.folder = path, os.path.dirname(path)
        self.tokenizer, self.count_tokens = tokenizer, count_tokens
        self.markup = _special_tokens(tokenizer)

    def row(self, line: bytes, number: int) -> Row:
        row = Row(self.path, number)
        if not line.strip():
            row.add(("empty-line", "nothing but white space"))
            return row
        place = f"{self.path}:{number}"
        try:
            value = parse_json(line, place)
        except ManifestError as error:
            detail = str(error).removeprefix(f"{place}: ").partition(";")[0]
            row.add(("not-utf8" if "not UTF-8" in detail else "bad-json", detail))
            return row
        row.add(*shape_faults(value))
        try:
            conversation = Conversation.from_json(value)
        except ChatError as error:
            row.found = row.found or [("wrong-type", str(error))]
        else:
            self._fill(row, conversation)
        return row

    def _fill(self, row: Row, conversation: Conversation) -> None:
        row.add(*content_faults(conversation, markup=self.markup))
        parts = conversation.audio_parts
        absolute = next((p.path for p in parts if p.path and os.path.isabs(p.path)), None)
        if absolute:
            row.add(("absolute-path", f"{absolute} is absolute"))
        row.id, row.speaker = conversation.id, sys.intern(conversation.speaker or "")
        row.content = _hash(json.dumps([message.to_json() for message in conversation.messages], sort_keys=True))
        words = re.findall(r"\w+", conversation.reference.lower())
        row.sentence = _hash(" ".join(words)) if len(words) >= MIN_SENTENCE_WORDS else 0
        row.clips = tuple(map(self._key, parts))
        row.heard = row.clips if parts == conversation.heard_parts else tuple(map(self._key, conversation.heard_parts))
        row.embedded = {part.name: part.data for part in parts if part.data is not None} or None
        row.last_word = self._last_word(conversation)
        if self.tokenizer and self.count_tokens and all(code != "unfit-speech" for code, _ in row.found or ()):
            row.num_text_tokens = self._num_text_tokens(row, conversation)

    def _last_word(self, conversation: Conversation) -> tuple[ClipKey, float] | None:
        try:
            if (part := conversation.spoken) is None:
                return None
            starts = word_starts(part, conversation.messages[-1].spoken_text.split())
        except ChatError:  # content_faults told it
            return None
        known = [start for start in starts or () if not math.isnan(start)]
        return (self._key(part), known[-1]) if known else None

    def _key(self, part: AudioPart) -> ClipKey:
        name = part.name if part.path is None else sys.intern(os.path.normpath(os.path.join(self.folder, part.path)))
        return name, part.offset_s, part.duration_s

    def _num_text_tokens(self, row: Row, conversation: Conversation) -> int:
        from sonant.chat.render import render  # needs transformers, which plain checks do not

        assert self.tokenizer is not None
        try:
            return len(render(as_written(conversation), self.tokenizer).token_ids)  # at most, however it is drawn
        except ChatError as error:
            row.add(("template-refuses", str(error)))
            return 0


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def _special_tokens(tokenizer: "ChatTokenizer | None") -> Sequence[str]:
    if tokenizer is None:
        return []
    tokens: list[Any] = tokenizer.hf.convert_ids_to_tokens(sorted(tokenizer.special_ids))
    return [str(token) for token in tokens if len(str(token)) > 2]

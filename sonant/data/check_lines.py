"""Reads the lines of manifests into columns, in several processes.

manifest ─▶ blocks of lines ─▶ processes (spawned; one block: right here) ─▶ Columns, in the order of the lines
"""

import functools
import math
import multiprocessing
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sonant.chat.messages import AudioPart, Conversation
from sonant.chat.spelling import word_starts
from sonant.data.check_audio import missing
from sonant.data.check_clean import CleanReader, CleanRow, canonical
from sonant.data.check_columns import Block, Columns, RowFault, clip_key, hashes, hashes_of_stretches
from sonant.data.check_rows import Found, content_faults, shape_faults
from sonant.data.manifest import parse_json
from sonant.data.respan import as_written
from sonant.errors import ChatError, ManifestError

if TYPE_CHECKING:
    from sonant.chat.tokenizer import ChatTokenizer

MIN_SENTENCE_WORDS = 5  # shorter answers ("yes", "in Paris") are the same in every split
MAX_PLACES = 1 << 16  # recordings that a process remembers
# What \w+ of the lowered text finds, for ASCII.
_WORDS = {i: chr(i).lower() if chr(i).isalnum() or chr(i) == "_" else " " for i in range(128)}


@dataclass(frozen=True)
class Reading:
    """How lines are read."""

    tokenizer: "ChatTokenizer | None" = None
    count_tokens: bool = False
    compares_splits: bool = False  # whether sentences, speakers and places of recordings are kept too
    finds_files: bool = False  # whether recordings are looked for here, because none is opened later


def read_blocks(blocks: Sequence[Block], reading: Reading, *, workers: int) -> Iterator[Columns]:
    """Yields the columns of each block, in order."""
    if reading.tokenizer is not None or len(blocks) == 1 or workers == 1:  # each process would load the tokenizer
        yield from map(_LineReader(reading).columns, blocks)
        return
    with ProcessPoolExecutor(min(workers, len(blocks)), mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(functools.partial(_read_block, reading), blocks)


def _read_block(reading: Reading, block: Block) -> Columns:
    return _reader_of_process(reading).columns(block)


@functools.lru_cache(maxsize=1)
def _reader_of_process(reading: Reading) -> "_LineReader":
    return _LineReader(reading)  # kept, because it learns as it reads


class _Place(NamedTuple):
    """Where a recording lies."""

    name: int  # hash of its path, made to start where the manifest does
    real: int  # of the path behind all symbolic links; 0 if nobody asks
    found: Found | None  # where it is missing


@dataclass(eq=False)
class _Growing:
    """Columns as they grow: a value a row, then a value a clip."""

    ids: list[bytes] = field(default_factory=list)
    contents: list[bytes] = field(default_factory=list)
    hears: list[bool] = field(default_factory=list)
    sentences: list[bytes] = field(default_factory=list)
    speakers: list[bytes] = field(default_factory=list)
    num_text_tokens: list[int] = field(default_factory=list)

    owners: list[int] = field(default_factory=list)
    names: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    offsets_s: list[float] = field(default_factory=list)
    durations_s: list[float | None] = field(default_factory=list)
    is_heard: list[bool] = field(default_factory=list)
    is_missing: list[bool] = field(default_factory=list)

    last_clips: list[int] = field(default_factory=list)
    last_starts_s: list[float] = field(default_factory=list)
    found: list[RowFault] = field(default_factory=list)

    def add_clip(self, place: _Place, offset_s: float, duration_s: float | None, *, is_heard: bool) -> None:
        """Adds a clip of the row that is added next."""
        self.owners.append(len(self.ids))
        self.names.append(place.name)
        self.places.append(place.real)
        self.offsets_s.append(offset_s)
        self.durations_s.append(duration_s)
        self.is_heard.append(is_heard)
        self.is_missing.append(place.found is not None)

    def columns(self, data: bytes, reading: Reading) -> Columns:
        """Returns the columns of the lines in `data`."""
        offsets_s, durations_s = np.array(self.offsets_s, np.float64), np.array(self.durations_s, np.float64)
        ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))[: len(self.ids) - 1]
        real = np.array(self.places, np.int64)
        return Columns(
            starts=np.append(0, ends + 1).astype(np.uint32),
            ids=hashes(self.ids),
            contents=hashes(self.contents),
            hears=np.array(self.hears, np.bool_),
            sentences=hashes(self.sentences),
            speakers=hashes(self.speakers),
            num_text_tokens=np.array(self.num_text_tokens, np.int32),
            owners=np.array(self.owners, np.int32),
            clips=hashes_of_stretches(np.array(self.names, np.int64), offsets_s, durations_s),
            places=hashes_of_stretches(real, offsets_s, durations_s) if reading.compares_splits else real[:0],
            durations_s=durations_s,
            is_heard=np.array(self.is_heard, np.bool_),
            is_missing=np.array(self.is_missing, np.bool_),
            last_clips=np.array(self.last_clips, np.int32),
            last_starts_s=np.array(self.last_starts_s, np.float64),
            found=self.found,
        )


class _LineReader:
    """Turns blocks of lines into columns."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._markup = _special_tokens(reading.tokenizer)
        self._clean = CleanReader(self._markup)
        self._folder = ""
        self._places: dict[str, _Place] = {}

    def columns(self, block: Block) -> Columns:
        """Returns what is kept of a block's lines."""
        if (folder := os.path.dirname(block.path)) != self._folder:
            self._folder = folder
            self._places.clear()
        with open(block.path, "rb") as file:
            file.seek(block.start)
            data = file.read(block.end - block.start)
        growing = _Growing()
        for line in data.removesuffix(b"\n").split(b"\n"):
            clean = None if self._reading.count_tokens else self._clean.read(line)
            if clean is None or not self._add_clean(growing, clean):
                self._add_doubtful(growing, line)
        return growing.columns(data, self._reading)

    def _add_clean(self, growing: _Growing, row: CleanRow) -> bool:
        """Adds a row, if its recordings are there; returns whether they are."""
        places = [self._places.get(clip.path) or self._place(clip.path) for clip in row.clips]
        for place in places:
            if place.found is not None:
                return False
        for clip, place in zip(row.clips, places, strict=True):
            growing.add_clip(place, clip.offset_s, clip.duration_s, is_heard=True)
        self._add_row(growing, row.id, row.messages, row.answer, row.speaker, hears=bool(places))
        return True

    def _add_row(
        self, growing: _Growing, id: str, content: bytes, answer: str, speaker: str, *, hears: bool, tokens: int = 0
    ) -> None:
        growing.ids.append(id.encode())
        growing.contents.append(content)
        growing.hears.append(hears)
        if self._reading.compares_splits:
            growing.sentences.append(sentence(answer))
            growing.speakers.append(speaker.encode())
        if self._reading.count_tokens:
            growing.num_text_tokens.append(tokens)

    def _add_doubtful(self, growing: _Growing, line: bytes) -> None:
        value, found, conversation = _read(line)
        number, id, is_sound = len(growing.ids), "", not found
        if conversation is None:
            self._add_row(growing, "", b"", "", "", hears=False)
        else:
            id = conversation.id
            found += content_faults(conversation, markup=self._markup)
            found += _absolute_path(conversation)
            tokens = self._num_text_tokens(conversation, found)
            self._add_parts(growing, conversation, found)
            answer, speaker, hears = conversation.reference, conversation.speaker, bool(conversation.heard_parts)
            content = canonical(conversation)
            self._add_row(growing, id, content, answer, speaker or "", hears=hears, tokens=tokens)
            if is_sound:
                self._clean.learn(value)
        growing.found += [RowFault(number, id, code, detail) for code, detail in found]

    def _add_parts(self, growing: _Growing, conversation: Conversation, found: list[Found]) -> None:
        first = len(growing.owners)
        for message in conversation.messages:
            for part in message.parts:
                if isinstance(part, AudioPart):
                    place = self._place(part.path) if part.path is not None else _embedded(part)
                    growing.add_clip(place, part.offset_s, part.duration_s, is_heard=message.role != "assistant")
                    if place.found is not None and place.found not in found:
                        found.append(place.found)
        last_word_s, spoken = _last_word_s(conversation)
        if spoken is not None:
            growing.last_clips.append(first + conversation.audio_parts.index(spoken))
            growing.last_starts_s.append(last_word_s)

    def _place(self, path: str) -> _Place:
        if (known := self._places.get(path)) is not None:
            return known
        name = clip_key(AudioPart(path), self._folder)[0]
        real = _hash(os.path.realpath(name)) if self._reading.compares_splits else 0
        place = _Place(_hash(name), real, missing(name) if self._reading.finds_files else None)
        if len(self._places) >= MAX_PLACES:
            self._places.clear()
        self._places[path] = place
        return place

    def _num_text_tokens(self, conversation: Conversation, found: list[Found]) -> int:
        tokenizer = self._reading.tokenizer
        if tokenizer is None or not self._reading.count_tokens or any(code == "unfit-speech" for code, _ in found):
            return 0
        from sonant.chat.render import render  # needs transformers, which plain checks do not

        try:
            return len(render(as_written(conversation), tokenizer).token_ids)  # at most, however it is drawn
        except ChatError as error:
            found.append(("template-refuses", str(error)))
            return 0


def _read(line: bytes) -> tuple[Any, list[Found], Conversation | None]:
    """The JSON of a line, what is wrong with it, and the conversation if it is one."""
    if not line.strip():
        return None, [("empty-line", "nothing but white space")], None
    try:
        value = parse_json(line, "")
    except ManifestError as error:
        detail = str(error).removeprefix(": ").partition(";")[0]
        return None, [("not-utf8" if "not UTF-8" in detail else "bad-json", detail)], None
    found = list(shape_faults(value))
    try:
        return value, found, Conversation.from_json(value)
    except ChatError as error:
        return value, found or [("wrong-type", str(error))], None


def _embedded(part: AudioPart) -> _Place:
    name = _hash(part.name)
    return _Place(name, name, None)


def _absolute_path(conversation: Conversation) -> list[Found]:
    paths = (part.path for part in conversation.audio_parts)
    absolute = next((path for path in paths if path and os.path.isabs(path)), None)
    return [("absolute-path", f"{absolute} is absolute")] if absolute else []


def _last_word_s(conversation: Conversation) -> tuple[float, AudioPart | None]:
    """When the last word that is marked starts, and in which part; None if there is none."""
    try:
        if (part := conversation.spoken) is None:
            return 0.0, None
        starts = word_starts(part, conversation.messages[-1].spoken_text.split())
    except ChatError:  # content_faults told it
        return 0.0, None
    known = [start for start in starts or () if not math.isnan(start)]
    return (known[-1], part) if known else (0.0, None)


def sentence(answer: str) -> bytes:
    """Returns the words of an answer, however they are written; nothing if they are too few to tell it."""
    if answer.isascii():
        words = answer.translate(_WORDS).split()
    else:
        words = re.findall(r"\w+", answer.lower())
    return " ".join(words).encode() if len(words) >= MIN_SENTENCE_WORDS else b""


def _hash(text: str) -> int:
    return int(hashes([os.fsencode(text)])[0])


def _special_tokens(tokenizer: "ChatTokenizer | None") -> Sequence[str]:
    if tokenizer is None:
        return []
    tokens: list[Any] = tokenizer.hf.convert_ids_to_tokens(sorted(tokenizer.special_ids))
    return [str(token) for token in tokens if len(str(token)) > 2]

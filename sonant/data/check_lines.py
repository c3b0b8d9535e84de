"""Reads the lines of manifests into columns, in several processes.

manifest ─▶ blocks of lines ─▶ processes (spawned; one block: right here) ─▶ Columns, in the order of the lines
"""

import functools
import gc
import math
import multiprocessing
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sonant.chat.messages import AudioPart, Conversation, Message
from sonant.chat.spelling import word_starts
from sonant.data.check_audio import missing
from sonant.data.check_clean import CleanReader, Clip, Row, canonical
from sonant.data.check_columns import Block, Columns, Ints, RowFault, clip_name, hashes, hashes_of_stretches
from sonant.data.check_rows import Found, content_faults, shape_faults
from sonant.data.manifest import parse_json
from sonant.data.respan import as_written
from sonant.errors import ChatError, ManifestError

if TYPE_CHECKING:
    from sonant.chat.tokenizer import ChatTokenizer

MIN_SENTENCE_WORDS = 5  # shorter answers ("yes", "in Paris") are the same in every split
MANY_OBJECTS = 1 << 20  # made between two searches for circles; a block has some fifty thousand
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
    spawned = multiprocessing.get_context("spawn")
    # All rows of a block live until it is read, and none refers to another: looking for circles took a third of it.
    rarely = functools.partial(gc.set_threshold, MANY_OBJECTS)
    with ProcessPoolExecutor(min(workers, len(blocks)), mp_context=spawned, initializer=rarely) as pool:
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
        rows: list[Row] = []
        found: list[RowFault] = []
        read = _doubtful if self._reading.count_tokens else self._clean.read
        for line in data.removesuffix(b"\n").split(b"\n"):
            rows.append(read(line) or self._doubtful_row(line, len(rows), found))
        if not data:
            found = [found[0]._replace(code="no-rows", detail="0 bytes")]
        return self._columns(data, rows, found)

    def _columns(self, data: bytes, rows: Sequence[Row], found: list[RowFault]) -> Columns:
        known, compares = self._places.get, self._reading.compares_splits
        clips = [clip for row in rows for clip in row.clips]
        places = [known(clip.path) or self._place(clip) for clip in clips]
        counts = np.array([len(row.clips) for row in rows], np.int64)
        owners, firsts = np.repeat(np.arange(len(rows)), counts), (np.cumsum(counts) - counts).tolist()
        is_missing = np.array([place.found is not None for place in places], np.bool_)
        found += _missing(rows, owners, clips, places, np.flatnonzero(is_missing).tolist())
        is_heard = np.array([clip.is_heard for clip in clips], np.bool_)
        offsets_s = np.array([clip.offset_s for clip in clips], np.float64)
        durations_s = np.array([clip.duration_s for clip in clips], np.float64)
        names, real = (np.array([place[kind] for place in places], np.int64) for kind in (0, 1))
        spoken = [(first, *row.last_word) for first, row in zip(firsts, rows, strict=True) if row.last_word]
        ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))[: len(rows) - 1]
        return Columns(
            starts=np.append(0, ends + 1).astype(np.uint32),
            ids=hashes([row.id.encode() for row in rows]),
            contents=hashes([row.messages for row in rows]),
            hears=np.bincount(owners[is_heard], minlength=len(rows)) > 0,
            sentences=hashes([sentence(row.answer) for row in rows if compares]),
            speakers=hashes([(row.speaker or "").encode() for row in rows if compares]),
            num_text_tokens=np.array([row.num_text_tokens for row in rows if self._reading.count_tokens], np.int32),
            owners=owners.astype(np.int32),
            clips=hashes_of_stretches(names, offsets_s, durations_s),
            places=hashes_of_stretches(real, offsets_s, durations_s) if compares else real[:0],
            durations_s=durations_s,
            is_heard=is_heard,
            is_missing=is_missing,
            last_clips=np.array([first + clip for first, clip, _ in spoken], np.int32),
            last_starts_s=np.array([start_s for _, _, start_s in spoken], np.float64),
            found=found,
        )

    def _doubtful_row(self, line: bytes, number: int, found: list[RowFault]) -> Row:
        value, faults, conversation = _read(line)
        if conversation is None:
            row = Row()
        else:
            if not faults:
                self._clean.learn(value)
            faults += content_faults(conversation, markup=self._markup)
            faults += _absolute_path(conversation)
            row = Row(
                conversation.id,
                conversation.speaker,
                conversation.reference,
                canonical(conversation),
                [_clip(p, m) for m in conversation.messages for p in m.parts if isinstance(p, AudioPart)],
                self._num_text_tokens(conversation, faults),
                _last_word(conversation),
            )
        found += [RowFault(number, row.id, code, detail) for code, detail in faults]
        return row

    def _place(self, clip: Clip) -> _Place:
        name = clip.path if clip.is_embedded else clip_name(clip.path, self._folder)
        real = _hash(_real(name)) if self._reading.compares_splits else 0
        looks = self._reading.finds_files and not clip.is_embedded
        place = _Place(_hash(name), real, missing(name) if looks else None)
        if len(self._places) >= MAX_PLACES:
            self._places.clear()
        self._places[clip.path] = place
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


def _doubtful(line: bytes) -> None:
    """Nothing is beyond doubt where tokens are to be counted."""


def _clip(part: AudioPart, message: Message) -> Clip:
    return Clip(part.name, part.offset_s, part.duration_s, message.role != "assistant", part.path is None)


def _missing(
    rows: Sequence[Row], owners: Ints, clips: Sequence[Clip], places: Sequence[_Place], numbers: Sequence[int]
) -> Iterator[RowFault]:
    """Yields what is wrong with clips of no file, once for each row and clip."""
    keys = ((int(owners[n]), places[n], clips[n].offset_s, clips[n].duration_s) for n in numbers)
    for row, place, _, _ in dict.fromkeys(keys):
        assert place.found is not None
        yield RowFault(row, rows[row].id, *place.found)


def _absolute_path(conversation: Conversation) -> list[Found]:
    paths = (part.path for part in conversation.audio_parts)
    absolute = next((path for path in paths if path and os.path.isabs(path)), None)
    return [("absolute-path", f"{absolute} is absolute")] if absolute else []


def _last_word(conversation: Conversation) -> tuple[int, float] | None:
    """Which clip is the spoken answer, and when the last of its words that is marked starts."""
    try:
        if (part := conversation.spoken) is None:
            return None
        starts = word_starts(part, conversation.messages[-1].spoken_text.split())
    except ChatError:  # content_faults told it
        return None
    known = [start for start in starts or () if not math.isnan(start)]
    return (conversation.audio_parts.index(part), known[-1]) if known else None


def sentence(answer: str) -> bytes:
    """Returns the words of an answer, however they are written; nothing if they are too few to tell it."""
    if answer.isascii():
        words = answer.translate(_WORDS).split()
    else:
        words = re.findall(r"\w+", answer.lower())
    return " ".join(words).encode() if len(words) >= MIN_SENTENCE_WORDS else b""


def _real(name: str) -> str:
    try:
        return os.path.realpath(name)
    except ValueError:  # a NUL: no file has such a name
        return name


def _hash(text: str) -> int:
    return int(hashes([os.fsencode(text)])[0])


def _special_tokens(tokenizer: "ChatTokenizer | None") -> Sequence[str]:
    if tokenizer is None:
        return []
    tokens: list[Any] = tokenizer.hf.convert_ids_to_tokens(sorted(tokenizer.special_ids))
    return [str(token) for token in tokens if len(str(token)) > 2]

"""Reads rows that are beyond doubt, some microseconds each, and leaves every other to the slower, telling road.

line ─▶ msgspec: every key known, every value of its type ─▶ nothing in it to report ─▶ Row
                                     any doubt ─▶ None: `check_rows` says what is wrong, if anything

Keys of a corpus's own (`gender`, `provenance`, ...) are doubted once: after the slow road found nothing wrong with the
keys of a row that has them, they are learnt. What is learnt changes the pace, never a report.
"""

import itertools
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from sonant.chat.messages import AudioPart, Conversation, TextPart
from sonant.data.check_rows import AUDIO_KEYS, DAMAGED, LANGUAGE, MARKUP, MESSAGE_KEYS, ROW_KEYS, TEXT_KEYS, closest

MAX_LEARNT = 32  # keys of one kind of object
MAX_SEEN = 1 << 12
LONGEST_S = 1e9

Text: TypeAlias = Annotated[str, Meta(min_length=1)]
_encode = msgspec.json.Encoder(order="sorted").encode
Level: TypeAlias = Literal["row", "message", "text", "audio"]
KNOWN: dict[Level, tuple[str, ...]] = {"row": ROW_KEYS, "message": MESSAGE_KEYS, "text": TEXT_KEYS, "audio": AUDIO_KEYS}


class Clip(msgspec.Struct, frozen=True, gc=False):  # made in a third of a named tuple's time
    """A clip as written."""

    path: str
    offset_s: float
    duration_s: float | None
    is_heard: bool = True  # an assistant's clip is not: it says it
    is_embedded: bool = False  # the line holds it, and `path` is a name for its bytes


class Row(msgspec.Struct, frozen=True, gc=False):
    """What is kept of a line."""

    id: str = ""
    speaker: str | None = None
    answer: str = ""
    messages: bytes = b""  # as `canonical` writes them; empty: the line is no conversation
    clips: Sequence[Clip] = ()
    num_text_tokens: int = 0
    last_word: tuple[int, float] | None = None  # which of `clips` is the spoken answer, when its last word starts (s)


class CleanReader:
    """Reads lines; `read` gives None for every row that might have a fault.

    markup: special tokens of the tokenizer, which no text may hold.
    """

    def __init__(self, markup: Sequence[str] = ()) -> None:
        # Most texts hold none of the characters that markup begins with ("inst]" needs its bracket).
        self._openers = sorted({"<", "["} | {token[0] for token in markup})
        self._markup = markup
        self._learnt: dict[Level, set[str]] = {level: set() for level in KNOWN}
        self._roles: set[tuple[str, ...]] = set()
        self._languages: set[str | None] = {None, ""}
        self._texts: set[str] = set()  # short ones that were found plain: instructions come a million times
        self._decode = self._decoder()

    def read(self, line: bytes) -> Row | None:
        """Returns what a line holds if nothing can be wrong with it, seen alone."""
        try:
            row = self._decode(line)
            messages = row.messages
            if row.language not in self._languages and not self._is_language(row.language):
                return None
            roles = tuple([message.role for message in messages])
            if roles not in self._roles and not self._are_roles(roles):
                return None
            clips: list[Clip] = []
            answer = ""
            for message in messages:
                said = self._answer(message, clips)
                if said is None:
                    return None
                answer = said
            return Row(row.id, row.speaker, answer, _encode(messages), clips)
        except (msgspec.MsgspecError, RecursionError, OverflowError, ValueError):
            return None

    def learn(self, value: Any) -> None:
        """Makes the unknown keys of a row known; `value` is its JSON, of which no shape is wrong."""
        before = sum(map(len, self._learnt.values()))
        self._learn("row", value)
        for message in value["messages"]:
            self._learn("message", message)
            for part in message["content"] if isinstance(message["content"], list) else ():
                self._learn(part["type"], part)
        if sum(map(len, self._learnt.values())) > before:
            self._decode = self._decoder()

    def _learn(self, level: Level, values: dict[str, Any]) -> None:
        unknown = [key for key in values if key not in KNOWN[level] and closest(key, KNOWN[level]) is None]
        room = MAX_LEARNT - len(self._learnt[level])
        self._learnt[level].update(itertools.islice((key for key in unknown if len(key) < 64), max(0, room)))

    def _decoder(self) -> Any:
        """What decodes a line whose keys are all known or learnt."""

        def struct(level: Level, fields: Sequence[Any], **options: Any) -> Any:
            keys = sorted(self._learnt[level])
            own = [(f"own_{number}", Any | UnsetType, UNSET) for number in range(len(keys))]
            rename = {f"own_{number}": key for number, key in enumerate(keys)}
            return msgspec.defstruct(
                level, [*fields, *own], forbid_unknown_fields=True, rename=rename, gc=False, **options
            )

        text = struct("text", [("text", str)], tag_field="type", tag="text")
        audio_fields = [
            ("path", Text),
            ("offset_s", Annotated[float, Meta(ge=0, le=LONGEST_S)], 0.0),
            ("duration_s", Annotated[float, Meta(gt=0, le=LONGEST_S)] | None, None),
            ("transcript", str | None, None),
        ]
        audio = struct("audio", audio_fields, tag_field="type", tag="audio")
        content = list[text | audio]  # type: ignore[valid-type] # made as they are learnt
        message = struct("message", [("role", Literal["system", "user", "assistant"]), ("content", str | content)])
        messages = Annotated[list[message], Meta(min_length=1)]  # type: ignore[valid-type]
        optional = [(key, str | None, None) for key in ("task", "language", "speaker")]
        self._text_part = text
        return msgspec.json.Decoder(struct("row", [("id", Text), ("messages", messages), *optional])).decode

    def _answer(self, message: Any, clips: list[Clip]) -> str | None:
        """The text of an answer, "" of any other message; None if there is anything to report. Adds to the clips."""
        texts, content, answers = self._texts, message.content, message.role == "assistant"
        if type(content) is str:
            message.content = [self._text_part(content)]  # as `canonical` has it
            if content not in texts and not self._is_plain(content):
                return None
            if answers:
                return content if content.strip() else None
            return "" if content else None
        said = ""
        for part in content:
            if type(part) is self._text_part:
                text = part.text
                if text not in texts and not self._is_plain(text):
                    return None
                if answers:
                    said += text
                elif not text:
                    return None
            elif answers or part.path[0] == "/":
                return None
            else:
                part.offset_s = part.offset_s or 0.0  # never -0.0
                clips.append(Clip(part.path, part.offset_s, part.duration_s))
        return None if answers and not said.strip() else said

    def _is_plain(self, text: str) -> bool:
        if not (text.isascii() and text.isprintable()) and DAMAGED.search(text):
            return False
        for opener in self._openers:
            if opener in text:
                if MARKUP.search(text) or any(token in text for token in self._markup):
                    return False
                break
        if len(text) < 64 and len(self._texts) < MAX_SEEN:
            self._texts.add(text)
        return True

    def _is_language(self, language: str) -> bool:
        if not LANGUAGE.fullmatch(language):
            return False
        if len(self._languages) < MAX_SEEN:
            self._languages.add(language)
        return True

    def _are_roles(self, roles: tuple[str, ...]) -> bool:
        body = roles[1:] if roles[0] == "system" else roles
        if roles[-1] != "assistant" or any(role != ("user", "assistant")[i % 2] for i, role in enumerate(body)):
            return False
        if len(roles) < 64 and len(self._roles) < MAX_SEEN:
            self._roles.add(roles)
        return True


def canonical(conversation: Conversation) -> bytes:
    """Returns what the messages say: the same bytes for the same content, however it was written."""
    messages: list[dict[str, Any]] = [
        {"role": message.role, "content": list(map(_part, message.parts)), **message.extra}
        for message in conversation.messages
    ]
    return _encode(messages)


def _part(part: TextPart | AudioPart) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text, **part.extra}
    times = {"offset_s": part.offset_s or 0.0, "duration_s": part.duration_s}
    source = {"path": part.path} if part.path is not None else {"sha256": part.name}
    return {"type": "audio", **source, **times, "transcript": part.transcript, **part.extra}

"""Conversations as pure values: messages made of text and audio parts, to and from JSON.

    {"id": "ls-1089", "task": "asr", "messages": [
      {"role": "user", "content": [{"type": "text", "text": "Transcribe:"}, {"type": "audio", "path": "a.flac"}]},
      {"role": "assistant", "content": "he hoped there would be stew"}]}

An assistant's audio is spoken, never heard: it is the sound of the text before it in its message, all of it or the end
that its transcript names. A model without a voice reads the text alone.

    {"role": "assistant", "content": [{"type": "text", "text": "there was stew"}, {"type": "audio", "path": "b.flac",
     "words": [["there", 0.05], ["was", 0.4], ["stew", 0.62]]}]}      words: starts in seconds from the part's own start

Keys this file does not know are kept in `extra` and written back.
"""

import base64
import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, cast, get_args

import numpy as np
from numpy.typing import NDArray

from sonant.audio import io
from sonant.errors import ChatError

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = get_args(Role)
ALLOWED_ROLES = f"one of {', '.join(ROLES)}"
Extra: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class TextPart:
    """A stretch of text; always plain, whatever markup it holds."""

    text: str
    extra: Extra = field(default_factory=dict, hash=False)

    def to_json(self) -> dict[str, Any]:
        """Returns the part as JSON values."""
        return {"type": "text", "text": self.text, **self.extra}


@dataclass(frozen=True)
class AudioPart:
    """A stretch of a recording: a file (`path`) or its bytes (`data`), and what is said in it if known."""

    path: str | None = None
    offset_s: float = 0.0
    duration_s: float | None = None  # None: up to the end
    transcript: str | None = None
    data: bytes | None = field(default=None, repr=False)
    extra: Extra = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if (self.path is None) == (self.data is None):
            got = "neither" if self.path is None else "both"
            raise ChatError(f"an audio part needs either a path or data, got {got}; name the file in 'path'")
        if not (math.isfinite(self.offset_s) and self.offset_s >= 0):
            raise ChatError(f"audio {self.name}: offset_s is {self.offset_s}; it must be 0 or more seconds")
        if self.duration_s is not None and not (math.isfinite(self.duration_s) and self.duration_s > 0):
            raise ChatError(
                f"audio {self.name}: duration_s is {self.duration_s}; give more than 0 seconds or leave it out"
            )

    @property
    def source(self) -> str | bytes:
        """What `sonant.audio.io.load` reads."""
        source = self.path if self.path is not None else self.data
        assert source is not None
        return source

    @property
    def name(self) -> str:
        """The file name, or a digest of the bytes: a/x.wav and b/x.wav stay distinct, equal bytes do not."""
        if self.path is not None:
            return self.path
        assert self.data is not None
        return f"sha256:{hashlib.sha256(self.data).hexdigest()}"

    @property
    def key(self) -> tuple[str, float, float | None]:
        """What makes two parts the same sound: (path or digest, offset in seconds, duration in seconds)."""
        return self.name, self.offset_s, self.duration_s

    def load(self, *, sample_rate_hz: int) -> NDArray[np.float32]:
        """Returns the stretch as mono samples (S,) at a rate. Raises: AudioError as `sonant.audio.io.load`."""
        return io.load(self.source, sample_rate_hz=sample_rate_hz, offset_s=self.offset_s, duration_s=self.duration_s)

    def to_json(self) -> dict[str, Any]:
        """Returns the part as JSON values; bytes become base64, and what is at its default is left out."""
        data = None if self.data is None else base64.b64encode(self.data).decode("ascii")
        known = {"path": self.path, "duration_s": self.duration_s, "transcript": self.transcript, "data": data}
        known["offset_s"] = self.offset_s or None
        return {"type": "audio", **{key: value for key, value in known.items() if value is not None}, **self.extra}


Part: TypeAlias = TextPart | AudioPart


@dataclass(frozen=True)
class Message:
    """One turn: who speaks, and the parts in the order they are heard and read.

    An assistant's audio part is `spoken`: what its text sounds like, and no input of any model.
    """

    role: Role
    parts: tuple[Part, ...]
    extra: Extra = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ChatError(f"role is {self.role!r}; allowed are {', '.join(ROLES)}")

    @property
    def text(self) -> str:
        """The text parts, joined without anything between them."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def heard(self) -> tuple[AudioPart, ...]:
        """The audio parts that a model hears, in order: none in an assistant's message."""
        return () if self.role == "assistant" else self._audio

    @property
    def spoken(self) -> AudioPart | None:
        """The recording in which an assistant says the end of the message's text, if any.

        Raises: ChatError if there are several, text follows it, or its transcript is not the end of the text.
        """
        if self.role != "assistant" or not (audio := self._audio):
            return None
        if len(audio) > 1:
            names = ", ".join(part.name for part in audio)
            raise ChatError(
                f"an assistant's message holds {len(audio)} recordings ({names}); allowed is one, the sound of its "
                "text; join them, or give each a message"
            )
        if self.parts[-1] is not audio[0] or not self.text.strip():
            after = "text follows it" if self.text.strip() else "there is no text"
            raise ChatError(
                f"spoken audio {audio[0].name}: {after}; allowed is one recording behind all the text of an "
                "assistant's message; write what is said before it"
            )
        said = audio[0].transcript
        if said is not None and not (said.strip() and self.text.rstrip().endswith(said.strip())):
            raise ChatError(
                f"spoken audio {audio[0].name}: its transcript is {said[-60:]!r}, the text ends in "
                f"{self.text.rstrip()[-60:]!r}; allowed is the end of the text, letter by letter, or no transcript "
                "where all of it is said"
            )
        return audio[0]

    @property
    def spoken_text(self) -> str:
        """The end of the text that is said aloud, without the space around it; "" if none. Raises: as `spoken`."""
        part = self.spoken
        return "" if part is None else (self.text if part.transcript is None else part.transcript).strip()

    @property
    def _audio(self) -> tuple[AudioPart, ...]:
        return tuple(part for part in self.parts if isinstance(part, AudioPart))

    def to_json(self) -> dict[str, Any]:
        """Returns the message as JSON values; its content is always a list of parts."""
        return {"role": self.role, "content": [part.to_json() for part in self.parts], **self.extra}


@dataclass(frozen=True)
class Conversation:
    """One row of a manifest, or one question to a model."""

    messages: tuple[Message, ...]
    id: str = ""
    task: str = ""
    language: str | None = None
    speaker: str | None = None
    extra: Extra = field(default_factory=dict, hash=False)

    @property
    def audio_parts(self) -> tuple[AudioPart, ...]:
        """Every audio part, heard or spoken, in order."""
        return tuple(part for message in self.messages for part in message.parts if isinstance(part, AudioPart))

    @property
    def heard_parts(self) -> tuple[AudioPart, ...]:
        """The audio parts that a model hears, in order: what its assistants say is not among them."""
        return tuple(part for message in self.messages for part in message.heard)

    @property
    def spoken(self) -> AudioPart | None:
        """The recording of the closing assistant message, what a voice learns to say; earlier ones are only read.

        Raises: ChatError if it does not fit its text (see `Message.spoken`).
        """
        return self.messages[-1].spoken if self._is_answered else None

    @property
    def reference(self) -> str:
        """The text of the closing assistant message, the one `prompt` leaves out; "" if there is none."""
        return self.messages[-1].text if self._is_answered else ""

    def prompt(self) -> "Conversation":
        """Returns the conversation without its closing assistant message; a last user message always stays."""
        return replace(self, messages=self.messages[:-1]) if self._is_answered else self

    def with_root(self, folder: str | os.PathLike[str]) -> "Conversation":
        """Returns the conversation with relative audio paths starting at `folder`."""

        def rooted(part: Part) -> Part:
            if isinstance(part, TextPart) or part.path is None:
                return part
            return replace(part, path=os.path.join(folder, part.path))

        def moved(message: Message) -> Message:
            return replace(message, parts=tuple(map(rooted, message.parts))) if message._audio else message

        return replace(self, messages=tuple(map(moved, self.messages)))

    def to_json(self) -> dict[str, Any]:
        """Returns the conversation as JSON values that `from_json` reads back to an equal one."""
        known = {"id": self.id, "task": self.task, "language": self.language, "speaker": self.speaker}
        messages = [message.to_json() for message in self.messages]
        return {**{key: value for key, value in known.items() if value}, "messages": messages, **self.extra}

    @classmethod
    def from_json(cls, values: Any) -> "Conversation":
        """Returns the conversation that JSON `values` describe.

        Raises: ChatError, saying where (`messages[1].content[0]`), what was found and what is allowed.
        """
        fields = _Fields(values, "conversation", "an object with 'messages'")
        messages = fields.take("messages", list, "a list of messages", required=True)
        if not messages:
            raise ChatError("messages: is empty; a conversation has one message or more")
        return cls(
            messages=tuple(_message(message, f"messages[{i}]") for i, message in enumerate(messages)),
            id=fields.take("id", str, "text", default=""),
            task=fields.take("task", str, "text", default=""),
            language=fields.take("language", str, "text"),
            speaker=fields.take("speaker", str, "text"),
            extra=fields.rest,
        )

    @property
    def _is_answered(self) -> bool:
        return bool(self.messages) and self.messages[-1].role == "assistant"


def system(*parts: Part | str) -> Message:
    """Returns a system message; a str becomes a TextPart."""
    return _of("system", parts)


def user(*parts: Part | str) -> Message:
    """Returns a user message; a str becomes a TextPart."""
    return _of("user", parts)


def assistant(*parts: Part | str) -> Message:
    """Returns an assistant message; a str becomes a TextPart."""
    return _of("assistant", parts)


def _of(role: Role, parts: Sequence[Part | str]) -> Message:
    return Message(role, tuple(TextPart(part) if isinstance(part, str) else part for part in parts))


class _Fields:
    """A JSON object whose known keys are taken one by one; `rest` is what remains."""

    def __init__(self, values: Any, where: str, allowed: str) -> None:
        if not isinstance(values, Mapping):
            raise ChatError(f"{where}: is {_shown(values)}; allowed is {allowed}")
        self.rest: dict[str, Any] = dict(values)
        self.where = where

    def take(
        self, key: str, kind: type | tuple[type, ...], allowed: str, *, default: Any = None, required: bool = False
    ) -> Any:
        value = self.rest.pop(key, None)
        if value is None and not required:
            return default
        if not isinstance(value, kind) or isinstance(value, bool):
            got = "is missing" if value is None else f"is {_shown(value)}"
            raise ChatError(f"{self.where}.{key}: {got}; allowed is {allowed}")
        return value

    def take_seconds(self, key: str, *, default: float | None = None) -> float | None:
        value = self.take(key, (int, float), "a number of seconds", default=default)
        try:
            return None if value is None else float(value)
        except OverflowError:
            raise ChatError(
                f"{self.where}.{key}: has {len(str(value))} digits; allowed is a number of seconds"
            ) from None


def _message(values: Any, where: str) -> Message:
    fields = _Fields(values, where, "an object with 'role' and 'content'")
    role = fields.take("role", str, ALLOWED_ROLES, required=True)
    if role not in ROLES:
        raise ChatError(f"{where}.role: is {role!r}; allowed is {ALLOWED_ROLES}")
    content = fields.take("content", (str, list), "text or a list of parts", required=True)
    if isinstance(content, str):
        parts: tuple[Part, ...] = (TextPart(content),)
    else:
        parts = tuple(_part(part, f"{where}.content[{i}]") for i, part in enumerate(content))
    return Message(cast(Role, role), parts, extra=fields.rest)


def _part(values: Any, where: str) -> Part:
    fields = _Fields(values, where, "an object with 'type'")
    kind = fields.take("type", str, "'text' or 'audio'", required=True)
    if kind == "text":
        return TextPart(fields.take("text", str, "text", required=True), extra=fields.rest)
    if kind != "audio":
        raise ChatError(f"{where}.type: is {kind!r}; allowed is 'text' or 'audio'")
    data = fields.take("data", str, "base64 text")
    values = {
        "path": fields.take("path", str, "the name of an audio file"),
        "offset_s": fields.take_seconds("offset_s", default=0.0),
        "duration_s": fields.take_seconds("duration_s"),
        "transcript": fields.take("transcript", str, "text"),
    }
    try:
        return AudioPart(
            **values, data=None if data is None else base64.b64decode(data, validate=True), extra=fields.rest
        )
    except ValueError:
        raise ChatError(f"{where}.data: is {_shown(data)}; allowed is base64 text") from None
    except ChatError as error:
        raise ChatError(f"{where}: {error}") from None


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"

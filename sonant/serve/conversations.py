"""What clients say, in OpenAI's shapes, becomes a Conversation: counted, bounded, its recordings decoded.

    {"role": "user", "content": [{"type": "text", "text": "Who is"},
                                 {"type": "input_audio", "input_audio": {"data": "UklGR...", "format": "wav"}}]}

Text is text, whatever markup it holds, and a recording is samples: no path, template or tool of a client gets further.
"""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field

from sonant.chat.messages import AudioPart, Conversation, Message, Part, TextPart
from sonant.config import Config
from sonant.serve.decode_worker import RATE_HZ
from sonant.serve.failures import RefusedError
from sonant.serve.media_urls import fetch
from sonant.serve.service import Service
from sonant.serve.untrusted_audio import as_part

# What a client says is in a recording. Its bytes decide: a wrong word does no harm.
AudioFormat: TypeAlias = Literal["wav", "mp3", "flac", "ogg", "opus", "webm", "mp4", "m4a", "aac"]
AUDIO = "{audio}"  # where the recording goes in a wording; without it, the recording comes behind
ASKED = "asked"  # the id of every conversation here: what is drawn depends on the seed, and on the id


def _whole(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half a character (a lone surrogate); send whole ones") from None
    return text


# JSON can say half a character, which no tokenizer reads.
Words: TypeAlias = Annotated[str, AfterValidator(_whole)]


class TextContent(Config):
    """Written words."""

    type: Literal["text"]
    text: Words


class InputAudio(Config):
    """A recording in base64."""

    data: str
    format: AudioFormat


class InputAudioContent(Config):
    """A recording, heard where it stands among the words."""

    type: Literal["input_audio"]
    input_audio: InputAudio


class AudioURL(Config):
    """Where a recording is: a data: URL, or an address of a host that the operator listed."""

    url: str


class AudioURLContent(Config):
    """A recording by its address, as vLLM has it."""

    type: Literal["audio_url"]
    audio_url: AudioURL


UserContent: TypeAlias = Annotated[TextContent | InputAudioContent | AudioURLContent, Field(discriminator="type")]


class SystemMessage(Config):
    """What the model is told before anybody asks."""

    role: Literal["system", "developer"]
    content: Words | tuple[TextContent, ...]


class UserMessage(Config):
    """A question: words and recordings in any order."""

    role: Literal["user"]
    content: Words | tuple[UserContent, ...]


class EarlierAudio(Config):
    """An earlier spoken answer by its id."""

    id: str


class AssistantMessage(Config):
    """An earlier answer, as it came from this server: in words, or by the id of its sound.

    What our own answers never hold may stand there as null, so that an answer can be sent back as it is.
    """

    role: Literal["assistant"]
    content: Words | tuple[TextContent, ...] | None = None
    audio: EarlierAudio | None = None
    refusal: None = None
    annotations: None = None
    function_call: None = None
    tool_calls: None = None


AnyMessage: TypeAlias = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]


class Hearing:
    """The recordings of one request: counted, and together no longer than `max_audio_s`."""

    def __init__(self, service: Service) -> None:
        self._service, self._left_s, self._count = service, service.settings.max_audio_s, 0

    async def hear(self, data: bytes, *, param: str) -> AudioPart:
        """Returns a recording as the model may hear it. Raises: AudioError; RefusedError if it is one too many."""
        settings = self._service.settings
        self._count += 1
        if self._count > settings.max_audio_parts:
            raise RefusedError(
                f"there are more than {settings.max_audio_parts} recordings, the most that one request may hold; "
                "join or drop some",
                param=param,
            )
        if self._left_s <= 0:
            raise RefusedError(
                f"the recordings before this one last {settings.max_audio_s:g} s, the most that one request may hold; "
                "send less",
                param=param,
            )
        samples = await self._service.decoder.decode(data, max_duration_s=self._left_s)
        self._left_s -= len(samples) / RATE_HZ
        self._service.metrics.heard.inc(len(samples) / RATE_HZ)
        return as_part(samples)


def worded(wording: str, recording: AudioPart) -> Conversation:
    """Returns the question that a wording asks of a recording."""
    before, _, after = wording.partition(AUDIO)
    parts: list[Part] = [TextPart(before), recording, *([TextPart(after)] if after else [])]
    return Conversation((Message("user", tuple(parts)),), id=ASKED)


async def conversation_of(
    messages: Sequence[AnyMessage], service: Service, *, said: Callable[[str], str | None] = lambda _: None
) -> Conversation:
    """Returns the question that `messages` put.

    said: what was said under the id of an earlier spoken answer, if it is still known.

    Raises: RefusedError, naming the field, if there is too much of something, nothing is asked, or an id is not known;
        RequestError for an address that may not be asked; AudioError for a recording that cannot be used.
    """
    _check_counts(messages, service)
    hearing = Hearing(service)
    turns = []
    for number, message in enumerate(messages):
        where = f"messages.{number}"
        match message:
            case AssistantMessage():
                turns.append(Message("assistant", _answered(message, said, where=where)))
            case UserMessage():
                turns.append(Message("user", await _parts(message.content, service, hearing, where=where)))
            case SystemMessage():
                turns.append(Message("system", await _parts(message.content, service, hearing, where=where)))
    return Conversation(tuple(turns), id=ASKED)


def _check_counts(messages: Sequence[AnyMessage], service: Service) -> None:
    settings = service.settings
    if not messages:
        raise RefusedError("there is no message; send one or more, of which the last asks", param="messages")
    if len(messages) > settings.max_messages:
        raise RefusedError(
            f"there are {len(messages)} messages; {settings.max_messages} are allowed; leave out early ones",
            param="messages",
        )
    num_chars = 0
    for number, message in enumerate(messages):
        content = () if message.content is None else message.content
        if not isinstance(content, str) and len(content) > settings.max_parts:
            raise RefusedError(
                f"there are {len(content)} parts in one message; {settings.max_parts} are allowed; join some",
                param=f"messages.{number}.content",
            )
        texts = [content] if isinstance(content, str) else [p.text for p in content if isinstance(p, TextContent)]
        num_chars += sum(map(len, texts))
    if num_chars > settings.max_text_chars:
        raise RefusedError(
            f"the text is {num_chars} characters long; {settings.max_text_chars} are allowed; shorten it",
            param="messages",
        )
    if messages[-1].role != "user":
        raise RefusedError(
            f"the last message is of the {messages[-1].role}; it must be of the user, who asks",
            param=f"messages.{len(messages) - 1}.role",
        )


async def _parts(
    content: str | Sequence[UserContent], service: Service, hearing: Hearing, *, where: str
) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (TextPart(content),)
    parts: list[Part] = []
    for number, part in enumerate(content):
        param = f"{where}.content.{number}"
        match part:
            case TextContent():
                parts.append(TextPart(part.text))
            case InputAudioContent():
                parts.append(await hearing.hear(_bytes(part.input_audio.data, param=param), param=param))
            case AudioURLContent():
                parts.append(await hearing.hear(await _fetch(part.audio_url.url, service), param=param))
    return tuple(parts)


async def _fetch(url: str, service: Service) -> bytes:
    settings = service.settings
    return await fetch(
        url, hosts=settings.media_hosts, max_bytes=settings.max_body_bytes, timeout_s=settings.media_timeout_s
    )


def _bytes(data: str, *, param: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise RefusedError(
            "the recording is not valid base64; encode its bytes again, without a data: prefix",
            param=f"{param}.input_audio.data",
        ) from None


def _answered(message: AssistantMessage, said: Callable[[str], str | None], *, where: str) -> tuple[Part, ...]:
    if isinstance(message.content, str):
        return (TextPart(message.content),)
    if message.content is not None:
        return tuple(TextPart(part.text) for part in message.content)
    if message.audio is None:
        raise RefusedError("an earlier answer has neither content nor audio; send one", param=f"{where}.content")
    text = said(message.audio.id)
    if text is None:
        raise RefusedError(
            "there is no spoken answer of this id, or it has been forgotten; send what it said as content",
            param=f"{where}.audio.id",
            code="audio_not_found",
        )
    return (TextPart(text),)

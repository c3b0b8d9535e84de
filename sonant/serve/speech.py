"""POST /v1/audio/speech: a text is read aloud, where the model has a voice."""

import asyncio
import base64
import re
from collections.abc import AsyncIterator
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import Field

from sonant.chat.messages import Conversation, TextPart, user
from sonant.config import Config
from sonant.generate.reply import SpokenReply
from sonant.generate.sampling import GenerationConfig
from sonant.serve.answering.questions import Event, Finished, Question, SoundDelta
from sonant.serve.asking import Stream, begun, event_stream, sse, unless_gone
from sonant.serve.chat_shapes import Seed
from sonant.serve.conversations import ASKED, Words
from sonant.serve.failures import RefusedError
from sonant.serve.models import check_model
from sonant.serve.pieces import in_order
from sonant.serve.service import Service
from sonant.serve.sounds import MEDIA_TYPES, PCMStream, SoundFormat, written
from sonant.serve.voices import check_has_voice, voice_named

SENTENCE_END = re.compile(r"(?<=[.!?;])\s+|\n+")


class SpeechRequest(Config):
    """A text, and how it is to sound."""

    model: str
    input: Annotated[Words, Field(min_length=1, max_length=4096)]
    voice: str
    response_format: SoundFormat = "mp3"
    stream_format: Literal["audio", "sse"] = "audio"
    speed: Annotated[float, Field(ge=1, le=1)] = 1.0
    instructions: Literal[""] | None = None
    seed: Seed = 0  # not OpenAI's: another one says it otherwise


class SpeechDelta(Config):
    """The next of the sound, as PCM in base64."""

    type: Literal["speech.audio.delta"]
    audio: str


class SpeechUsage(Config):
    """Tokens read and said."""

    input_tokens: int
    output_tokens: int
    total_tokens: int


class SpeechDone(Config):
    """The end of the sound."""

    type: Literal["speech.audio.done"]
    usage: SpeechUsage


def routes(service: Service) -> APIRouter:
    """Returns the route."""
    router = APIRouter(prefix="/v1", tags=["audio"])
    sounds: dict[int | str, dict[str, object]] = {
        200: {"content": {media_type: {} for media_type in [*MEDIA_TYPES.values(), "text/event-stream"]}}
    }

    @router.post("/audio/speech", response_class=Response, responses=sounds)
    async def create_speech(asked: SpeechRequest, request: Request) -> Response:
        """Reads `input` aloud: as a file, or streamed as it is made (`pcm`, or `stream_format: sse`)."""
        _check(asked, service)
        events = in_order(service, [_question(asked, sentence, service) for sentence in sentences(asked.input)])
        if asked.response_format != "pcm":
            body = await unless_gone(request, _file(events, asked.response_format))
            return Response(body, media_type=MEDIA_TYPES[asked.response_format])
        first = await unless_gone(request, begun(events))
        if asked.stream_format == "sse":
            return event_stream(_told(first), events)
        return Stream(_pcm(first), events, media_type=MEDIA_TYPES["pcm"])

    return router


def sentences(text: str) -> list[str]:
    """Returns the sentences of a text, each to be said by itself: a voice learns to say one at a time.

    What holds no letter or digit belongs to the sentence before it, if there is one.
    """
    found: list[str] = []
    for piece in filter(None, map(str.strip, SENTENCE_END.split(text))):
        if found and not any(map(str.isalnum, piece)):
            found[-1] = f"{found[-1]} {piece}"
        else:
            found.append(piece)
    return found


def _check(asked: SpeechRequest, service: Service) -> None:
    check_model(service, asked.model)
    check_has_voice(service, param=None)
    if asked.stream_format == "sse" and asked.response_format != "pcm":
        raise RefusedError("events carry pcm; add response_format: pcm", param="response_format")
    if not asked.input.strip():
        raise RefusedError("the input holds nothing to say; send words", param="input")
    if service.spoken_after is not None and service.spoken_after in asked.input:
        raise RefusedError(
            f"this model says only what follows {service.spoken_after!r}, which the input holds; leave it out",
            param="input",
        )


def _question(asked: SpeechRequest, sentence: str, service: Service) -> Question:
    """Asks for the sentence to be read aloud, after the recording that lends the voice, and gives the answer, too."""
    lent = voice_named(service, asked.voice, param="voice")
    wording = TextPart(f"{service.settings.wordings.speech} {sentence}")
    return Question(
        conversation=Conversation((user(*([] if lent is None else [lent]), wording),), id=ASKED),
        config=GenerationConfig(seed=asked.seed),
        spoken=True,
        answer=sentence,
    )


async def _file(events: AsyncIterator[tuple[int, Event]], format: SoundFormat) -> bytes:
    replies = [_whole(event) async for _, event in events if isinstance(event, Finished)]
    samples = np.concatenate([reply.samples for reply in replies])
    if not len(samples):
        raise RefusedError("the input holds no letter to say; send words", param="input")
    return await asyncio.to_thread(written, samples, sample_rate_hz=replies[0].sample_rate_hz, format=format)


async def _pcm(events: AsyncIterator[tuple[int, Event]]) -> AsyncIterator[bytes]:
    """The sound as it comes; where it is cut off, the connection is, too."""
    stream: PCMStream | None = None
    async for _, event in events:
        match event:
            case SoundDelta():
                stream = stream or PCMStream(event.sample_rate_hz)
                yield stream.push(event.samples)
            case Finished():
                _whole(event)
    if stream is not None:
        yield stream.finish()


async def _told(events: AsyncIterator[tuple[int, Event]]) -> AsyncIterator[str]:
    stream: PCMStream | None = None
    read = said = 0
    async for _, event in events:
        match event:
            case SoundDelta():
                stream = stream or PCMStream(event.sample_rate_hz)
                yield _delta(stream.push(event.samples))
            case Finished():
                _whole(event)
                read, said = read + event.prompt_tokens, said + event.completion_tokens
    if stream is not None:
        yield _delta(stream.finish())
    usage = SpeechUsage(input_tokens=read, output_tokens=said, total_tokens=read + said)
    yield sse(SpeechDone(type="speech.audio.done", usage=usage))


def _whole(end: Finished) -> SpokenReply:
    """What was said. Raises: RefusedError if it was cut off: no sound is shortened without a word."""
    assert end.spoken is not None
    if not end.spoken.speech_finished:
        raise RefusedError(
            "the voice did not come to the end of a sentence within the time that it may last; send shorter sentences, "
            "or another seed",
            param="input",
            code="cut_off",
        )
    return end.spoken


def _delta(pcm: bytes) -> str:
    return sse(SpeechDelta(type="speech.audio.delta", audio=base64.b64encode(pcm).decode("ascii")))

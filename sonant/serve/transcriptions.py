"""POST /v1/audio/transcriptions and /v1/audio/translations: what a recording says, in its own language or another.

samples ── fits `segment_s`? ──▶ one piece ──┬─▶ "transcribe:" ♪piece♪ ──▶ Answerer ──▶ text, subtitles, events
      └── longer, or to be timed ──▶ cut at silences
"""

import asyncio
import uuid
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

import pydantic
from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import Field
from starlette.datastructures import FormData, UploadFile
from starlette.responses import JSONResponse, PlainTextResponse

from sonant.chat.messages import AudioPart
from sonant.config import Config
from sonant.generate.sampling import GenerationConfig
from sonant.serve.answering.questions import Event, Finished, Question, TextDelta
from sonant.serve.asking import WholeAnswer, begun, event_stream, sse, unless_gone
from sonant.serve.chat_shapes import Logprob
from sonant.serve.conversations import Words, worded
from sonant.serve.decode_worker import RATE_HZ
from sonant.serve.failures import RefusedError
from sonant.serve.models import check_model
from sonant.serve.pieces import Piece, in_order, pieces_of
from sonant.serve.service import Service
from sonant.serve.subtitles import Stretch, srt, vtt

MAX_FIELDS, MAX_FIELD_BYTES = 32, 64 * 1024
TextFormat: TypeAlias = Literal["json", "text", "srt", "verbose_json", "vtt"]
TIMED: tuple[TextFormat, ...] = ("srt", "verbose_json", "vtt")


class TranslationRequest(Config):
    """A translation as it is asked for, without its file; `prompt` is put in place of the server's own wording."""

    model: str
    prompt: Words | None = None
    response_format: TextFormat = "json"
    temperature: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    stream: bool = False


class TranscriptionRequest(TranslationRequest):
    """A transcription as it is asked for; "auto" cuts at silences also what is short."""

    language: str | None = None
    chunking_strategy: Literal["auto"] | None = None
    include: tuple[Literal["logprobs"], ...] = ()
    timestamp_granularities: tuple[Literal["segment"], ...] = ()


class TokenUsage(Config):
    """What was read and written."""

    type: Literal["tokens"]
    input_tokens: int
    output_tokens: int
    total_tokens: int


class DurationUsage(Config):
    """How much was heard."""

    type: Literal["duration"]
    seconds: float


class Transcription(Config):
    """The words."""

    text: str
    usage: TokenUsage
    logprobs: tuple[Logprob, ...] | None = None


class TimedSegment(Config):
    """The words of one stretch. What this server does not estimate is 0 or empty: seek, tokens, no_speech_prob."""

    id: int
    start: float
    end: float
    text: str
    avg_logprob: float
    compression_ratio: float
    temperature: float
    seek: int = 0
    tokens: tuple[int, ...] = ()
    no_speech_prob: float = 0.0


class VerboseTranscription(Config):
    """The words, and when they are said."""

    task: Literal["transcribe", "translate"]
    language: str
    duration: float
    text: str
    segments: tuple[TimedSegment, ...]
    usage: DurationUsage


class TextDeltaEvent(Config):
    """The next words."""

    type: Literal["transcript.text.delta"]
    delta: str
    logprobs: tuple[Logprob, ...] | None = None


class TextDoneEvent(Config):
    """All words."""

    type: Literal["transcript.text.done"]
    text: str
    usage: TokenUsage
    logprobs: tuple[Logprob, ...] | None = None


def routes(service: Service) -> APIRouter:
    """Returns the two routes."""
    router = APIRouter(prefix="/v1", tags=["audio"])
    answered: dict[int | str, dict[str, Any]] = {
        200: {
            "model": Transcription | VerboseTranscription,
            "content": {"text/plain": {}, "text/event-stream": {}, "application/x-subrip": {}, "text/vtt": {}},
        }
    }

    @router.post("/audio/transcriptions", responses=answered, openapi_extra=_form(TranscriptionRequest))
    async def create_transcription(request: Request) -> Response:
        """Writes down what a recording says; with `stream`, as it is written."""
        asked, data = await _read(request, TranscriptionRequest)
        languages = service.settings.wordings.languages
        if asked.language is not None and asked.language not in languages:
            raise RefusedError(
                f"this model transcribes {', '.join(languages)}; leave the language out, or give one of these",
                param="language",
            )
        wording = service.settings.wordings.transcription
        return await _answer(request, _Wanted(asked, wording, service, language=asked.language or languages[0]), data)

    @router.post("/audio/translations", responses=answered, openapi_extra=_form(TranslationRequest))
    async def create_translation(request: Request) -> Response:
        """Translates what a recording says."""
        asked, data = await _read(request, TranslationRequest)
        wordings = service.settings.wordings
        wanted = _Wanted(asked, wordings.translation, service, language=wordings.translates_to, task="translate")
        return await _answer(request, wanted, data)

    return router


@dataclass(frozen=True)
class _Wanted:
    """What is wanted of a recording."""

    asked: TranslationRequest
    wording: str
    service: Service
    language: str
    task: Literal["transcribe", "translate"] = "transcribe"

    @property
    def wants_logprobs(self) -> bool:
        return isinstance(self.asked, TranscriptionRequest) and "logprobs" in self.asked.include

    @property
    def is_cut(self) -> bool:
        """Whether it is cut at silences however short it is."""
        cut = isinstance(self.asked, TranscriptionRequest) and self.asked.chunking_strategy == "auto"
        return cut or self.asked.response_format in TIMED

    def question(self, part: AudioPart) -> Question:
        scored = self.wants_logprobs or self.asked.response_format == "verbose_json"
        return Question(
            conversation=worded(self.asked.prompt or self.wording, part),
            config=GenerationConfig(
                max_new_tokens=self.service.settings.max_new_tokens,
                temperature=self.asked.temperature,
                seed=uuid.uuid4().int % 2**62,
            ),
            top_logprobs=0 if scored else None,
            fit=True,
        )


async def _read(request: Request, shape: type[TranslationRequest]) -> tuple[Any, bytes]:
    """The fields and the file of a form. Raises: RequestValidationError; RefusedError if there is no file."""
    try:
        async with request.form(max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES) as form:
            return await _fields(form, shape)
    except UnicodeError as error:  # of a codec that the client names
        raise RefusedError(f"the form cannot be decoded ({error}); send UTF-8, and name no other charset") from None


async def _fields(form: FormData, shape: type[TranslationRequest]) -> tuple[Any, bytes]:
    upload = form.get("file")
    if not isinstance(upload, UploadFile):
        raise RefusedError("there is no file; send the recording as the file 'file' of a form", param="file")
    values: dict[str, Any] = {}
    for name, value in form.multi_items():
        name = name.removesuffix("[]")
        field = shape.model_fields.get(name)
        if field is not None and isinstance(field.default, tuple):
            values[name] = [*values.get(name, ()), value]
        elif name in values:
            raise RefusedError(f"{name}: is there twice; send it once", param=name)
        elif name != "file":
            values[name] = value
    try:
        asked = shape.model_validate(values)
    except pydantic.ValidationError as error:
        raise RequestValidationError(error.errors()) from None
    return asked, await upload.read()


def _form(shape: type[TranslationRequest]) -> dict[str, Any]:
    """The schema of the form that `_read` takes."""
    schema = shape.model_json_schema()
    schema["properties"]["file"] = {"type": "string", "format": "binary"}
    schema["required"] = [*schema["required"], "file"]
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


async def _answer(request: Request, wanted: _Wanted, data: bytes) -> Response:
    asked, service = wanted.asked, wanted.service
    check_model(service, asked.model)
    if asked.stream and asked.response_format != "json":
        raise RefusedError("a stream is of response_format json; ask for that, or without stream", param="stream")
    settings = service.settings
    samples = await unless_gone(request, service.decoder.decode(data, max_duration_s=settings.max_audio_s))
    duration_s = len(samples) / RATE_HZ
    service.metrics.heard.inc(duration_s)
    # Five minutes take half a second, which is not the others' to wait.
    cut = asyncio.to_thread(pieces_of, samples, most_s=settings.segment_s, cut=wanted.is_cut)
    pieces = await unless_gone(request, cut)
    events = in_order(service, [wanted.question(piece.part) for piece in pieces])
    if asked.stream:
        # A recording without speech has no event to wait for.
        first = await unless_gone(request, begun(events)) if pieces else events
        return event_stream(_streamed(first, wanted), events)
    answers = await unless_gone(request, _whole(events, len(pieces)))
    return _written(wanted, pieces, answers, duration_s=duration_s)


async def _whole(events: AsyncIterator[tuple[int, Event]], count: int) -> list[WholeAnswer]:
    answers = [WholeAnswer() for _ in range(count)]
    async for index, event in events:
        answers[index].add(event)
    return answers


def _written(wanted: _Wanted, pieces: list[Piece], answers: list[WholeAnswer], *, duration_s: float) -> Response:
    """The answer in the format that was asked for."""
    stretches = [
        Stretch(piece.start_s, piece.end_s, answer.end.text.strip())
        for piece, answer in zip(pieces, answers, strict=True)
    ]
    text = " ".join(stretch.text for stretch in stretches if stretch.text)
    match wanted.asked.response_format:
        case "text":
            return PlainTextResponse(text + "\n")
        case "srt":
            return PlainTextResponse(srt(stretches), media_type="application/x-subrip")
        case "vtt":
            return PlainTextResponse(vtt(stretches), media_type="text/vtt")
        case "verbose_json":
            segments = [_segment(i, *each, wanted) for i, each in enumerate(zip(stretches, answers, strict=True))]
            usage = DurationUsage(type="duration", seconds=duration_s)
            body: Config = VerboseTranscription(
                task=wanted.task,
                language=wanted.language,
                duration=duration_s,
                text=text,
                segments=tuple(segments),
                usage=usage,
            )
            return JSONResponse(body.model_dump(mode="json"))
        case _:
            tokens = [Logprob.of(token) for answer in answers for token in answer.tokens]
            scores = {"logprobs": tuple(tokens)} if wanted.wants_logprobs else {}
            body = Transcription(text=text, usage=_usage([answer.end for answer in answers]), **scores)
            return JSONResponse(body.model_dump(mode="json", exclude_unset=True))


def _segment(index: int, stretch: Stretch, answer: WholeAnswer, wanted: _Wanted) -> TimedSegment:
    scores, raw = [token.logprob for token in answer.tokens], stretch.text.encode()
    return TimedSegment(
        id=index,
        start=round(stretch.start_s, 3),
        end=round(stretch.end_s, 3),
        text=stretch.text,
        avg_logprob=sum(scores) / len(scores) if scores else 0.0,
        compression_ratio=len(raw) / len(zlib.compress(raw)),
        temperature=wanted.asked.temperature,
    )


async def _streamed(events: AsyncIterator[tuple[int, Event]], wanted: _Wanted) -> AsyncIterator[str]:
    text, latest = "", 0
    ends: list[Finished] = []
    logprobs: list[Logprob] = []
    async for index, event in events:
        match event:
            case TextDelta():
                scores = tuple(map(Logprob.of, event.tokens))
                logprobs += scores
                glue = " " if index != latest and text and event.text else ""  # between two pieces that say something
                latest = index if event.text else latest
                text += glue + event.text
                told = {"logprobs": scores} if wanted.wants_logprobs else {}
                yield sse(TextDeltaEvent(type="transcript.text.delta", delta=glue + event.text, **told))
            case Finished():
                ends.append(event)
    told = {"logprobs": tuple(logprobs)} if wanted.wants_logprobs else {}
    yield sse(TextDoneEvent(type="transcript.text.done", text=text, usage=_usage(ends), **told))


def _usage(ends: list[Finished]) -> TokenUsage:
    read, wrote = sum(end.prompt_tokens for end in ends), sum(end.completion_tokens for end in ends)
    return TokenUsage(type="tokens", input_tokens=read, output_tokens=wrote, total_tokens=read + wrote)

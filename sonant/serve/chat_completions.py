"""POST /v1/chat/completions: a conversation of words and recordings is answered, in writing or also aloud."""

import asyncio
import base64
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import cast

from fastapi import APIRouter, Request, Response
from starlette.responses import JSONResponse

from sonant.chat.messages import Conversation
from sonant.generate.reply import SpokenReply
from sonant.generate.sampling import GenerationConfig
from sonant.serve.answering.questions import Event, Finished, Question, Reason, SoundDelta, TextDelta, TokenScore
from sonant.serve.asking import Asked, WholeAnswer, begun, event_stream, sse, unless_gone
from sonant.serve.chat_shapes import (
    AnswerMessage,
    AudioDelta,
    ChatChunk,
    ChatCompletion,
    ChatLogprob,
    ChatLogprobs,
    ChatRequest,
    Choice,
    ChunkChoice,
    Delta,
    Logprob,
    SpokenAudio,
    Usage,
)
from sonant.serve.conversations import conversation_of
from sonant.serve.failures import RefusedError
from sonant.serve.models import check_model
from sonant.serve.service import Service
from sonant.serve.sounds import PCMStream, SoundFormat, written
from sonant.serve.voices import check_has_voice, voice_named

KEPT_S = 3600  # how long the text of a spoken answer is known by its id
MOST_KEPT = 1024


class SaidAloud:
    """What was said under which id, so that a client may send the id back in place of the words; bounded."""

    def __init__(self) -> None:
        self._texts: OrderedDict[str, tuple[int, str]] = OrderedDict()

    def keep(self, id: str, text: str) -> int:
        """Keeps an answer's text, and returns when it will be forgotten (seconds since 1970)."""
        until = int(time.time()) + KEPT_S
        self._texts[id] = (until, text)
        if len(self._texts) > MOST_KEPT:
            self._texts.popitem(last=False)
        return until

    def text(self, id: str) -> str | None:
        """Returns the text, or None if it is not known, or not any more."""
        until, text = self._texts.get(id, (0, ""))
        return text if time.time() < until else None


def routes(service: Service) -> APIRouter:
    """Returns the route."""
    router, said = APIRouter(prefix="/v1", tags=["chat"]), SaidAloud()

    @router.post("/chat/completions", responses={200: {"model": ChatCompletion, "content": {"text/event-stream": {}}}})
    async def create_chat_completion(asked: ChatRequest, request: Request) -> Response:
        """Answers a conversation that ends with a user's turn, at once or, with `stream`, as it is written and said."""
        _check(asked, service)
        completing = _Completing(asked, service, said)
        conversation = await unless_gone(request, conversation_of(asked.messages, service, said=said.text))
        questions = [_question(asked, conversation, service, draw=draw) for draw in range(asked.n or 1)]
        with Asked(service, questions) as answers:
            if not asked.stream:
                return JSONResponse(await unless_gone(request, completing.whole(answers)))
            events = answers.events()
            first = await unless_gone(request, begun(events))
            return event_stream(completing.chunks(first, count=len(questions)), events)

    return router


def _check(asked: ChatRequest, service: Service) -> None:
    """Raises: RefusedError for what no model of this server does, or more than it does at a time."""
    check_model(service, asked.model)
    settings = service.settings
    if (asked.n or 1) > settings.max_n:
        raise RefusedError(f"n is {asked.n}; {settings.max_n} is the most that is answered at a time", param="n")
    if len(_stops(asked)) > settings.max_stops or not all(_stops(asked)):
        raise RefusedError(f"stop: give up to {settings.max_stops} texts, none of them empty", param="stop")
    if asked.stream_options is not None and not asked.stream:
        raise RefusedError("stream_options belong to a stream; add stream: true", param="stream_options")
    if asked.top_logprobs is not None and not asked.logprobs:
        raise RefusedError("top_logprobs need logprobs: true", param="top_logprobs")
    if (asked.max_tokens or asked.max_completion_tokens or 1) > settings.max_new_tokens:
        raise RefusedError(
            f"more than {settings.max_new_tokens} new tokens are asked for, the most that this server gives; ask for "
            "fewer",
            param="max_tokens" if asked.max_tokens else "max_completion_tokens",
        )
    if asked.max_tokens and asked.max_completion_tokens and asked.max_tokens != asked.max_completion_tokens:
        raise RefusedError("max_tokens and max_completion_tokens differ; give one of them", param="max_tokens")
    _check_voice(asked, service)


def _check_voice(asked: ChatRequest, service: Service) -> None:
    if "text" not in (asked.modalities or ("text",)):
        raise RefusedError('an answer is always written, too; ask for modalities ["text", "audio"]', param="modalities")
    if not _is_spoken(asked):
        if asked.audio is not None:
            raise RefusedError('audio needs modalities ["text", "audio"]', param="audio")
        return
    check_has_voice(service, param="modalities")
    if asked.audio is None:
        raise RefusedError("say in audio which voice and which format", param="audio")
    if voice_named(service, asked.audio.voice, param="audio.voice") is not None:
        raise RefusedError(
            "this voice reads aloud (/v1/audio/speech); in a conversation the model speaks in its own, 'default'",
            param="audio.voice",
        )
    if asked.stream and asked.audio.format != "pcm16":
        raise RefusedError("sound is streamed as pcm16; ask for that, or without stream", param="audio.format")


def _is_spoken(asked: ChatRequest) -> bool:
    return "audio" in (asked.modalities or ())


def _stops(asked: ChatRequest) -> tuple[str, ...]:
    return (asked.stop,) if isinstance(asked.stop, str) else asked.stop or ()


def _question(asked: ChatRequest, conversation: Conversation, service: Service, *, draw: int) -> Question:
    """The `draw`-th question: the same words, another seed. A request without a seed draws anew each time."""
    seed = uuid.uuid4().int % 2**62 if asked.seed is None else asked.seed
    wanted = {
        "max_new_tokens": asked.max_completion_tokens or asked.max_tokens or service.settings.max_new_tokens,
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "top_k": asked.top_k,
        "repetition_penalty": asked.repetition_penalty,
        "seed": seed + draw,
    }
    return Question(
        conversation=conversation,
        config=GenerationConfig(**{name: value for name, value in wanted.items() if value is not None}),
        stop=_stops(asked),
        top_logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
        spoken=_is_spoken(asked),
        fit=asked.max_tokens is None and asked.max_completion_tokens is None,
    )


@dataclass
class _Speaking:
    """The sound of one answer of a stream."""

    id: str = field(default_factory=lambda: f"audio-{uuid.uuid4().hex}")
    pcm: PCMStream | None = None

    def push(self, delta: SoundDelta) -> AudioDelta:
        self.pcm = self.pcm or PCMStream(delta.sample_rate_hz)
        return AudioDelta(id=self.id, data=_base64(self.pcm.push(delta.samples)))

    def rest(self) -> str:
        return "" if self.pcm is None else _base64(self.pcm.finish())


class _Completing:
    """One completion on its way out."""

    def __init__(self, asked: ChatRequest, service: Service, said: SaidAloud) -> None:
        self.asked, self.model, self.said = asked, service.model_name, said
        self.id, self.created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())

    async def whole(self, answers: Asked) -> dict[str, object]:
        """Returns all answers as JSON values."""
        ends = await answers.whole()
        completion = ChatCompletion(
            id=self.id,
            object="chat.completion",
            created=self.created,
            model=self.model,
            choices=tuple([await self._choice(index, answer) for index, answer in enumerate(ends)]),
            usage=_usage([answer.end for answer in ends]),
        )
        return completion.model_dump(mode="json", exclude_unset=True)

    async def chunks(self, events: AsyncIterator[tuple[int, Event]], *, count: int) -> AsyncIterator[str]:
        """Yields the events of a stream of `count` answers."""
        ends: list[Finished] = []
        speaking = [_Speaking() for _ in range(count)]
        for index in range(count):
            yield self._chunk(index, Delta(role="assistant", content=""))
        async for index, event in events:
            match event:
                case TextDelta():
                    yield self._chunk(index, Delta(content=event.text), logprobs=self._logprobs(event.tokens))
                case SoundDelta():
                    yield self._chunk(index, Delta(audio=speaking[index].push(event)))
                case Finished():
                    ends.append(event)
                    if event.spoken is not None:
                        yield self._chunk(index, Delta(audio=self._closing(speaking[index], event)))
                    yield self._chunk(index, Delta(), reason=event)
        if self.asked.stream_options is not None and self.asked.stream_options.include_usage:
            yield sse(self._event((), usage=_usage(ends)))
        yield "data: [DONE]\n\n"

    async def _choice(self, index: int, answer: WholeAnswer) -> Choice:
        text, spoken = answer.end.text, answer.end.spoken
        audio = {} if spoken is None else {"audio": await self._audio(spoken)}
        return Choice(
            index=index,
            message=AnswerMessage(role="assistant", content=text, refusal=None, **audio),
            finish_reason=_reason(answer.end),
            logprobs=self._logprobs(answer.tokens),
        )

    async def _audio(self, spoken: SpokenReply) -> SpokenAudio:
        assert self.asked.audio is not None
        format = cast(SoundFormat, self.asked.audio.format.removesuffix("16"))
        id = f"audio-{uuid.uuid4().hex}"
        data = await asyncio.to_thread(written, spoken.samples, sample_rate_hz=spoken.sample_rate_hz, format=format)
        until = self.said.keep(id, spoken.text)
        return SpokenAudio(id=id, data=_base64(data), expires_at=until, transcript=spoken.spoken_text)

    def _closing(self, speaking: _Speaking, end: Finished) -> AudioDelta:
        assert end.spoken is not None
        until = self.said.keep(speaking.id, end.text)
        return AudioDelta(id=speaking.id, data=speaking.rest(), expires_at=until, transcript=end.spoken.spoken_text)

    def _chunk(
        self, index: int, delta: Delta, *, reason: Finished | None = None, logprobs: ChatLogprobs | None = None
    ) -> str:
        scores = {} if logprobs is None else {"logprobs": logprobs}
        finish_reason = None if reason is None else _reason(reason)
        return sse(self._event((ChunkChoice(index=index, delta=delta, finish_reason=finish_reason, **scores),)))

    def _event(self, choices: tuple[ChunkChoice, ...], *, usage: Usage | None = None) -> ChatChunk:
        return ChatChunk(
            id=self.id,
            object="chat.completion.chunk",
            created=self.created,
            model=self.model,
            choices=choices,
            **({} if usage is None else {"usage": usage}),
        )

    def _logprobs(self, tokens: Sequence[TokenScore]) -> ChatLogprobs | None:
        if not self.asked.logprobs:
            return None
        return ChatLogprobs(
            content=tuple(
                ChatLogprob(
                    token=score.text,
                    bytes=tuple(score.bytes),
                    logprob=score.logprob,
                    top_logprobs=tuple(map(Logprob.of, score.top)),
                )
                for score in tokens
            )
        )


def _reason(end: Finished) -> Reason:
    """Why an answer ended; one whose sound was cut off is not whole."""
    return "length" if end.spoken is not None and not end.spoken.speech_finished else end.reason


def _usage(ends: list[Finished]) -> Usage:
    """The prompt is read once, however many answers there are."""
    read, wrote = ends[0].prompt_tokens, sum(end.completion_tokens for end in ends)
    return Usage(prompt_tokens=read, completion_tokens=wrote, total_tokens=read + wrote)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")

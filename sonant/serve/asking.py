"""Putting questions to the answerer: answers that end with the request, whole or merged, and streams that may fail."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

from fastapi import Request
from pydantic import BaseModel
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from sonant.serve.answering.answer import Answer
from sonant.serve.answering.questions import Event, Finished, Question, SoundDelta, TextDelta, TokenScore
from sonant.serve.failures import CLIENT_GONE, RefusedError, error_body
from sonant.serve.service import Service

T = TypeVar("T")


class Asked:
    """The answers to some questions, in the order of the questions. As a context it gives them up if something fails.

    Raises: BusyError or ClosingError, with no question left behind, if one of them is not taken.
    """

    def __init__(self, service: Service, questions: Sequence[Question]) -> None:
        self.answers: list[Answer] = []
        self._metrics, self._began = service.metrics, time.perf_counter()
        try:
            for question in questions:
                self.answers.append(service.answerer.submit(question))
        except BaseException:
            self.cancel()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.cancel()

    def cancel(self) -> None:
        """Gives up what is not finished."""
        for answer in self.answers:
            answer.cancel()

    async def events(self) -> AsyncGenerator[tuple[int, Event]]:
        """Yields (which question, event) as they come. Raises what an answer raises."""
        queue: asyncio.Queue[tuple[int, Event | Exception]] = asyncio.Queue()

        async def read(number: int, answer: Answer) -> None:
            try:
                async for event in answer:
                    queue.put_nowait((number, event))
            except Exception as error:  # told to whoever asked
                queue.put_nowait((number, error))

        readers = [asyncio.create_task(read(number, answer)) for number, answer in enumerate(self.answers)]
        unfinished, first = len(readers), True
        try:
            while unfinished:
                number, event = await queue.get()
                if isinstance(event, Exception):
                    raise event
                if first and isinstance(event, TextDelta | SoundDelta):
                    self._metrics.first_token.observe(time.perf_counter() - self._began)
                    first = False
                unfinished -= isinstance(event, Finished)
                yield number, event
        finally:
            self.cancel()
            for reader in readers:
                reader.cancel()

    async def whole(self) -> "list[WholeAnswer]":
        """Returns the answers once all are finished. Raises what an answer raises."""
        answers = [WholeAnswer() for _ in self.answers]
        async with contextlib.aclosing(self.events()) as events:
            async for number, event in events:
                answers[number].add(event)
        return answers


@dataclass
class WholeAnswer:
    """What has come of an answer."""

    tokens: list[TokenScore] = field(default_factory=list)
    finished: Finished | None = None

    def add(self, event: Event) -> None:
        """Takes the next event."""
        match event:
            case TextDelta():
                self.tokens += event.tokens
            case Finished():
                self.finished = event

    @property
    def end(self) -> Finished:
        """The last event; there is one once all are read."""
        assert self.finished is not None
        return self.finished


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Returns what `work` gives, and ends it if the client goes away first; the request's body must have been read.

    Raises: RefusedError if the client is gone; what `work` raises.
    """

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, watching = asyncio.create_task(work), asyncio.create_task(watch())
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise RefusedError("the client has gone", status=CLIENT_GONE)
    finally:
        # Not awaited: in a request whose time is up, that would raise a cancellation that its deadline does not know.
        working.cancel()
        watching.cancel()


class Stream(StreamingResponse):
    """A response that is sent as it is made out of `events`, which are closed however it ends."""

    def __init__(self, chunks: AsyncIterator[str | bytes], events: AsyncGenerator[Any], *, media_type: str) -> None:
        super().__init__(chunks, media_type=media_type, headers={"X-Accel-Buffering": "no"})
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it."""
        # A client that goes away before the first chunk leaves a generator unstarted: its own `finally` never runs.
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()


def event_stream(chunks: AsyncIterator[str], events: AsyncGenerator[Any]) -> Stream:
    """Returns a response of server-sent events; an error in their midst becomes the last one."""
    return Stream(_told(chunks), events, media_type="text/event-stream")


async def begun(events: AsyncGenerator[T]) -> AsyncIterator[T]:
    """Returns the events once the first is there: what fails before it still gets a status of its own."""
    first = await anext(events)

    async def all_of_them() -> AsyncIterator[T]:
        yield first
        async for event in events:
            yield event

    return all_of_them()


def sse(event: BaseModel) -> str:
    """Returns one server-sent event; fields that were never set are left out."""
    return f"data: {event.model_dump_json(exclude_unset=True)}\n\n"


async def _told(events: AsyncIterator[str]) -> AsyncIterator[str]:
    try:
        async for event in events:
            yield event
    except Exception as error:  # the status is sent: this is the only way left to tell
        yield f"data: {json.dumps(error_body(error))}\n\n"

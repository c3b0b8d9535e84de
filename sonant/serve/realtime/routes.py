"""WebSocket /v1/realtime: the thin layer between a socket, the session's state machine and the answerer.

The guard has checked host, origin and key before. Browsers, which cannot set a WebSocket's headers, offer the
subprotocols "realtime" and "openai-insecure-api-key.KEY"; only the first is ever said back.
"""

import contextlib
import json
import time
from collections.abc import Callable

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup
from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from sonant.errors import ClosingError
from sonant.serve.asking import Asked
from sonant.serve.failures import RETRY_S, RefusedError, failure
from sonant.serve.models import check_model
from sonant.serve.realtime.outputs import Ask, Drop, Output
from sonant.serve.realtime.session import Session
from sonant.serve.service import Service

PROTOCOL = "realtime"
NORMAL, GOING_AWAY = 1000, 1001  # why a WebSocket is closed (RFC 6455, section 7.4.1)
LONG_MESSAGE = 256 * 1024  # a minute of sound takes 0.1 s to hear: others need not wait for that
_CLOSING = "this server is about to stop and takes no more questions"
_LOOK_S = 0.05  # between two looks at whether it is


def routes(service: Service) -> APIRouter:
    """Returns the route."""
    router, settings, doors = APIRouter(prefix="/v1"), service.settings, service.doors

    @router.websocket("/realtime")
    async def realtime(websocket: WebSocket) -> None:
        try:
            _check_query(websocket, service)
            if doors.sessions >= settings.max_sessions:
                raise RefusedError(
                    f"{doors.sessions} realtime sessions are open, the most this server takes; ask again",
                    status=429,
                    code="busy",
                    retry_after_s=RETRY_S,
                )
        except RefusedError as error:
            return await websocket.send_denial_response(failure(error))
        doors.sessions += 1
        service.metrics.sessions.inc()
        try:
            await websocket.accept(PROTOCOL if PROTOCOL in websocket.scope["subprotocols"] else None)
            await _Connection(websocket, service).run()
        finally:
            doors.sessions -= 1
            service.metrics.sessions.dec()

    return router


def _check_query(websocket: WebSocket, service: Service) -> None:
    """Raises: RefusedError for another model than is served, and for what the address might ask for besides."""
    asked = dict(websocket.query_params)
    if (model := asked.pop("model", None)) is not None:
        check_model(service, model)
    if asked:
        raise RefusedError(
            f"this server does not know {next(iter(asked))!r} in the address; it takes model alone: sessions are of "
            "type 'realtime'"
        )


class _Connection:
    """One client's socket. Whoever has news for the session takes its turn: what comes out goes out in order."""

    def __init__(self, websocket: WebSocket, service: Service) -> None:
        self._websocket, self._service = websocket, service
        self._ends_at = anyio.current_time() + service.settings.session_s
        self._session = Session(service, expires_at=int(time.time() + service.settings.session_s))
        self._turn = anyio.Lock()
        self._asked: dict[str, anyio.CancelScope] = {}

    async def run(self) -> None:
        """Serves the client until it leaves, says nothing for too long, or its time is over."""
        async with anyio.create_task_group() as tasks:
            self._tasks: TaskGroup = tasks
            with contextlib.suppress(WebSocketDisconnect):
                await self._step(self._session.begin)
                tasks.start_soon(self._end_with_the_server)
                await self._close(await self._listen(), code=NORMAL)
            tasks.cancel_scope.cancel()  # what is still being answered is of use to nobody

    async def _listen(self) -> RefusedError:
        """Passes on what the client says; returns why it is not listened to any longer."""
        settings = self._service.settings
        while True:
            patience_s = min(settings.session_idle_s, self._ends_at - anyio.current_time())
            with anyio.move_on_after(patience_s) as limit:
                message = await self._websocket.receive()
            if limit.cancelled_caught:
                break
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message["code"])
            await self._step(self._heard, message.get("text"))
        if anyio.current_time() >= self._ends_at:
            return RefusedError(
                f"a session lasts {settings.session_s:g} s at most; open another", code="session_expired"
            )
        return RefusedError(
            f"nothing was said for {settings.session_idle_s:g} s; open another session", code="session_idle"
        )

    def _heard(self, text: str | None) -> list[Output]:
        most = self._service.settings.max_event_bytes
        if text is None:
            return self._session.refuse(RefusedError("events are JSON in text messages; this one is binary"))
        if len(text) > most:
            return self._session.refuse(
                RefusedError(f"the event is longer than {most} bytes; send audio in smaller pieces", code="too_large")
            )
        return self._session.receive(text)

    async def _end_with_the_server(self) -> None:
        """Once the doors close: what was asked is answered, then the client is told, and left."""
        while not self._service.doors.closing or self._asked:
            await anyio.sleep(_LOOK_S)
        with contextlib.suppress(WebSocketDisconnect):
            ending = RefusedError(f"{_CLOSING}; open another session", status=503, code="closing")
            await self._close(ending, code=GOING_AWAY)

    async def _close(self, ending: RefusedError, *, code: int) -> None:
        await self._step(self._session.refuse, ending)
        async with self._turn:  # nobody may speak behind the closing
            self._tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await self._websocket.close(code, ending.code)

    async def _step(self, advance: Callable[..., list[Output]], *news: object) -> None:
        """Tells the session some news and does what it says. A client that does not read makes all of this wait."""
        async with self._turn:
            is_long = any(isinstance(text, str) and len(text) > LONG_MESSAGE for text in news)
            outputs = await anyio.to_thread.run_sync(advance, *news) if is_long else advance(*news)
            for output in outputs:
                match output:
                    case Ask():
                        self._asked[output.id] = anyio.CancelScope()
                        self._tasks.start_soon(self._answer, output)
                    case Drop():
                        self._asked[output.id].cancel()
                    case _:
                        await self._websocket.send_text(json.dumps(output))

    async def _answer(self, ask: Ask) -> None:
        """Passes on what the answerer says to a question."""
        with self._asked[ask.id], contextlib.suppress(WebSocketDisconnect):
            try:
                if self._service.doors.closing:
                    raise ClosingError(f"{_CLOSING}; ask again in another session")
                asked = Asked(self._service, [ask.question])
                try:
                    async with contextlib.aclosing(asked.events()) as events:
                        async for _, event in events:
                            await self._step(self._session.answered, ask.id, event)
                finally:
                    asked.cancel()
            except WebSocketDisconnect:
                raise
            except Exception as error:  # told to whoever asked
                await self._step(self._session.failed, ask.id, error)
        del self._asked[ask.id]

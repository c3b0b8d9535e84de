"""What every request passes before a route sees it, WebSockets included.

    host     a name that this server has: else a web page could rebind its own name to this machine
    origin   a browser says which page asks: only pages of this server may
    key      by header, compared in constant time; not for /health and the page
    room     so many requests at a time, before their bodies are read
    time     so many seconds from the first byte to the last

Each is plain ASGI: Starlette's own base class would buffer streams and does not see WebSockets.
"""

import hashlib
import hmac
import json
from collections.abc import Callable, Iterable
from typing import TypeAlias
from urllib.parse import urlsplit

import anyio
from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sonant.serve.failures import RETRY_S, TOO_LARGE, RefusedError, error_body, failure
from sonant.serve.few_values import FewValues
from sonant.serve.metrics import Measured
from sonant.serve.page import is_public
from sonant.serve.service import Doors, Service
from sonant.serve.settings import ServeConfig

Check: TypeAlias = Callable[[Scope], RefusedError | None]

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
MAX_VALUES = 100_000  # in a body of JSON, besides as many as its text may have commas
KEY_PROTOCOL = "openai-insecure-api-key."  # how browsers, which cannot set headers of a WebSocket, send a key
SAFE_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}


def guard(app: FastAPI, service: Service) -> None:
    """Puts the guard before the application."""
    settings = service.settings
    # The innermost comes first.
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=settings.max_body_bytes)  # counts what comes
    app.add_middleware(FewValues, max_values=settings.max_text_chars + MAX_VALUES)
    app.add_middleware(Refuse, check=size_check(settings))
    app.add_middleware(Deadline, timeout_s=settings.request_timeout_s)
    app.add_middleware(Room, doors=service.doors, max_requests=settings.max_requests)
    for check in (key_check(settings), _origin_fault, host_check(settings)):
        app.add_middleware(Refuse, check=check)
    app.add_middleware(SafeHeaders)
    app.add_middleware(Measured, metrics=service.metrics)


def is_open(path: str) -> bool:
    """Returns whether an address answers without a key: it tells nothing and computes nothing."""
    return path == "/health" or is_public(path)


class Refuse:
    """Refuses the requests in which `check` finds a fault."""

    def __init__(self, app: ASGIApp, *, check: Check) -> None:
        self.app, self.check = app, check

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fault = None if scope["type"] == "lifespan" else self.check(scope)
        if fault is None:
            await self.app(scope, receive, send)
        else:
            await failure(fault)(scope, receive, send)


def key_check(settings: ServeConfig) -> Check:
    """Returns the check of the key; it finds no fault if none is set."""
    if settings.key is None:
        return lambda scope: None
    wanted = _digest(settings.key.get_secret_value())

    def check(scope: Scope) -> RefusedError | None:
        # Digests are of one length: the comparison takes the same time for any guess.
        right = [hmac.compare_digest(_digest(key), wanted) for key in _keys(scope)]
        if is_open(scope["path"]) or right == [True]:
            return None
        return RefusedError(
            "the key is missing or wrong; send it as the header 'Authorization: Bearer KEY'",
            status=401,
            code="invalid_api_key",
        )

    return check


def host_check(settings: ServeConfig) -> Check:
    """Returns the check of the host that was asked for; a server for other machines that knows no name takes any."""
    if not (settings.hosts or settings.is_loopback):
        return lambda scope: None
    names = {_bare(name) for name in (*settings.hosts, *LOOPBACK_NAMES, settings.host)}

    def check(scope: Scope) -> RefusedError | None:
        asked = Headers(scope=scope).getlist("host")
        if len(asked) == 1 and _bare(asked[0]) in names:
            return None
        return RefusedError(
            "this server is not known by the name in the header Host; ask for localhost, or name the host in 'hosts'",
            status=403,
            code="unknown_host",
        )

    return check


def size_check(settings: ServeConfig) -> Check:
    """Returns the check of the size that a request says it has."""

    def check(scope: Scope) -> RefusedError | None:
        said = Headers(scope=scope).get("content-length", "0")
        if said.isdecimal() and len(said) < 20 and int(said) <= settings.max_body_bytes:
            return None
        return RefusedError(TOO_LARGE, status=413)

    return check


def _origin_fault(scope: Scope) -> RefusedError | None:
    headers = Headers(scope=scope)
    origins = headers.getlist("origin")
    if not origins or [_host_of(origin) for origin in origins] == headers.getlist("host"):
        return None
    return RefusedError(
        "a page of another origin may not use this server; open the server's own page", status=403, code="other_origin"
    )


def _host_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:  # "http://[" names none
        return None


class Room:
    """Takes so many HTTP requests at a time; more are told to come again, before their bodies fill memory.

    WebSockets count their own sessions; once the doors close, nobody comes in.
    """

    def __init__(self, app: ASGIApp, *, doors: Doors, max_requests: int) -> None:
        self.app, self.doors, self.max_requests = app, doors, max_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or is_open(scope["path"]) or scope["path"] == "/metrics":
            await self.app(scope, receive, send)
        elif self.doors.closing:
            message = "this server is about to stop; ask again in a while"
            fault = RefusedError(message, status=503, code="closing", retry_after_s=RETRY_S)
            await failure(fault)(scope, receive, send)
        elif scope["type"] == "websocket":
            await self.app(scope, receive, send)
        elif self.doors.under_way >= self.max_requests:
            message = f"{self.doors.under_way} requests are under way, the most this server takes; ask again"
            await failure(RefusedError(message, status=429, code="busy", retry_after_s=RETRY_S))(scope, receive, send)
        else:
            self.doors.under_way += 1
            try:
                await self.app(scope, receive, send)
            finally:
                self.doors.under_way -= 1


class Deadline:
    """Ends HTTP requests that take longer: with a 503, or, once an answer streams, with an error as its last event."""

    def __init__(self, app: ASGIApp, *, timeout_s: float) -> None:
        self.app, self.timeout_s = app, timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        begun: list[str] = []  # the media type, once the response has begun

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                begun.append(Headers(raw=message["headers"]).get("content-type", ""))
            await send(message)

        with anyio.move_on_after(self.timeout_s) as limit:
            await self.app(scope, receive, watched)
        if not limit.cancelled_caught:
            return
        late = RefusedError(
            f"no answer within {self.timeout_s:g} s; ask for less, or again when the server is less busy",
            status=503,
            code="timeout",
            retry_after_s=RETRY_S,
        )
        if not begun:
            await failure(late)(scope, receive, send)
        elif begun[0].startswith("text/event-stream"):
            event = f"data: {json.dumps(error_body(late))}\n\n".encode()
            await send({"type": "http.response.body", "body": event, "more_body": False})
        # Anything else stays without its end: uvicorn cuts the connection, and the client knows that bytes are missing.


class SafeHeaders:
    """Adds headers that keep browsers careful, where a route has not set its own."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def safer(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                headers = MutableHeaders(scope=message)
                for name, value in SAFE_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, safer)


def _keys(scope: Scope) -> Iterable[str]:
    headers = Headers(scope=scope)
    for value in headers.getlist("authorization"):
        scheme, _, key = value.partition(" ")
        if scheme.lower() == "bearer":
            yield key.strip()
    if scope["type"] == "websocket":
        for protocol in ",".join(headers.getlist("sec-websocket-protocol")).split(","):
            if protocol.strip().startswith(KEY_PROTOCOL):
                yield protocol.strip().removeprefix(KEY_PROTOCOL)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _bare(host: str) -> str:
    """A host without its port, in small letters."""
    name, colon, port = host.strip().lower().rpartition(":")
    return name if colon and port.isdigit() else host.strip().lower()

"""How a request is refused, or fails: OpenAI's error body, and a status that says whose fault it was.

    {"error": {"message": "...", "type": "invalid_request_error", "param": "messages.0.content", "code": null}}

A fault of ours is told in fixed words: what a library says may hold addresses of memory, paths or other people's data.
"""

import logging
import math
from typing import Any, TypeAlias

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from sonant.config import Config
from sonant.errors import AudioError, BusyError, ChatError, ClosingError, RequestError, SonantError

ErrorBody: TypeAlias = dict[str, dict[str, str | None]]

log = logging.getLogger(__name__)

OURS = "the server failed to answer this; it is no fault of the request, and its log says more"
TOO_LARGE = "the request is larger than this server takes; send shorter audio, or ask its operator for more"
MAX_WORDS = 300  # of a library's reason, in letters
RETRY_S = 1.0  # when to ask again, where nobody knows better
CLIENT_GONE = 499  # as nginx has it: nobody reads the answer
_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class Fault(Config):
    """What was wrong: for people, by kind, in which field, and a word for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class Failure(Config):
    """The body of every answer that is none."""

    error: Fault


class RefusedError(RequestError):
    """A request that cannot be answered as it stands: the status, the field, and a word for programs."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.retry_after_s = status, param, code, retry_after_s


def refusal_of(error: Exception) -> RefusedError:
    """Returns what a client is told of an error; one that we did not raise on purpose is logged and not told."""
    match error:
        case RefusedError():
            return error
        case BusyError():
            return RefusedError(str(error), status=429, code="busy", retry_after_s=error.retry_after_s)
        case ClosingError():
            return RefusedError(str(error), status=503, code="closing", retry_after_s=RETRY_S)
        case RequestError() | ChatError() | AudioError():
            return RefusedError(str(error))
    log.error("a request failed", exc_info=error)
    return RefusedError(OURS, status=500, code="failed")


def error_body(error: Exception) -> ErrorBody:
    """Returns the body that tells a client of an error."""
    refusal = refusal_of(error)
    ours = "server_error" if refusal.status >= 500 else "invalid_request_error"
    kind = _KINDS.get(refusal.status, ours)
    return {"error": {"message": str(refusal), "type": kind, "param": refusal.param, "code": refusal.code}}


def failure(error: Exception) -> JSONResponse:
    """Returns the response that tells a client of an error; it serves HTTP and refused WebSockets alike."""
    refusal = refusal_of(error)
    headers = {}
    if refusal.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(refusal.retry_after_s)))
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error_body(refusal), status_code=refusal.status, headers=headers)


def handle_failures(app: FastAPI) -> None:
    """Makes the application tell every failure in OpenAI's words."""

    async def ours_or_theirs(_: Request, error: Exception) -> JSONResponse:
        return failure(error)

    async def malformed(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return failure(_malformed([dict(fault) for fault in error.errors()]))

    async def http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        response = failure(_of_http(error))
        response.headers.update(error.headers or {})
        return response

    app.add_exception_handler(SonantError, ours_or_theirs)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, ours_or_theirs)


def _of_http(error: HTTPException) -> RefusedError:
    told = {
        404: "there is no such address here; GET /openapi.json lists what there is",
        405: "this address takes other methods; the header Allow names them",
        413: TOO_LARGE,
    }
    return RefusedError(told.get(error.status_code, str(error.detail)), status=error.status_code)


def _malformed(faults: list[dict[str, Any]]) -> RefusedError:
    """The first fault in words, and how many more there are; values are not repeated: they may be megabytes."""
    first = faults[0]
    where = ".".join(str(part)[:100] for part in first["loc"] if part != "body")
    match first["type"]:
        case "extra_forbidden":
            what = "this server does not know this field; leave it out"
        case "none_required":
            what = "this server does not support this; leave it out"
        case "json_invalid":
            where, what = "", "the body is not valid JSON"
        case "model_attributes_type" if not where:
            what = "send a JSON object, with the header Content-Type: application/json"
        case _:
            what = str(first["msg"])
            what = what if len(what) <= MAX_WORDS else what[: MAX_WORDS - 3] + "..."  # some quote what was sent
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return RefusedError(f"{where or 'body'}: {what}{more}", param=where or None)

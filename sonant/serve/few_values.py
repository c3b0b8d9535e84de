"""A bound on how many values a JSON body holds, counted before it is parsed.

A recording in base64 may be megabytes long and is one value. Megabytes of `[1,1,1,...]` are millions: reading them and
telling what is wrong with each took 5 s a megabyte, in the thread that serves everybody, and 30 times the memory.
"""

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_BETWEEN_VALUES = (b",", b"[", b"{")


class FewValues:
    """Refuses HTTP requests whose body holds more than `max_values` values; commas in texts are counted with them.

    Forms are left alone: their parser has bounds of its own.
    """

    def __init__(self, app: ASGIApp, *, max_values: int) -> None:
        self.app, self.max_values = app, max_values

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, counting what is received."""
        if scope["type"] != "http" or Headers(scope=scope).get("content-type", "").startswith("multipart/"):
            return await self.app(scope, receive, send)
        num_values = 0

        async def counted() -> Message:
            nonlocal num_values
            message = await receive()
            num_values += sum(message.get("body", b"").count(sign) for sign in _BETWEEN_VALUES)
            if num_values > self.max_values:
                raise HTTPException(400, f"the body holds more than {self.max_values} values; send fewer messages")
            return message

        await self.app(scope, counted, send)

"""An answer on its way from the thread that makes it to the event loop that sends it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from sonant.serve.answering.questions import Event, Finished


class Answer(AsyncIterator[Event]):
    """The events of an answer as they come: text, sound, and in the end `Finished`.

    Raises what went wrong: RequestError, ChatError or AudioError for a question that cannot be answered, ClosingError
    if the server stopped first, anything else for a fault of ours. After `cancel` it ends.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event | Exception | None] = asyncio.Queue()
        self._ended = False
        self.cancelled = False

    async def __anext__(self) -> Event:
        if self._ended:
            raise StopAsyncIteration
        event = await self._events.get()
        self._ended = event is None or isinstance(event, Finished | Exception)
        if event is None:
            raise StopAsyncIteration
        if isinstance(event, Exception):
            raise event
        return event

    def cancel(self) -> None:
        """Gives up the answer, from any thread; its row leaves at the next step. A finished answer stays as it is."""
        self.cancelled = True
        self._put(None)

    def send(self, event: Event | Exception) -> None:
        """Passes on what was made, or what went wrong: from the thread that makes it."""
        if not self.cancelled:
            self._put(event)

    def _put(self, event: Event | Exception | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody reads any more
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

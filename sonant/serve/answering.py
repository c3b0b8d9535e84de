"""Answering many at once (interface; the work follows)."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from sonant.generate.assistant import Assistant
from sonant.serve.questions import Event, Question


@dataclass(frozen=True)
class AnswererStats:
    """What an answerer does now, and what it has done since it started."""

    rows: int  # answers that are being written or said
    waiting: int  # questions whose turn has not come
    accepted: int
    finished: int
    failed: int
    cancelled: int
    refused: int  # for want of room
    prompt_tokens: int
    completion_tokens: int


class Answer(AsyncIterator[Event]):
    """The events of an answer as they come: text, sound, and in the end `Finished`.

    Raises what went wrong: RequestError, ChatError or AudioError for a question that cannot be answered, ClosingError
    if the server stopped first, any other for a fault of ours. After `cancel` it ends.
    """

    async def __anext__(self) -> Event:
        raise NotImplementedError

    def cancel(self) -> None:
        """Gives up the answer, from any thread; its row leaves at the next step. A finished answer stays as it is."""
        raise NotImplementedError


class Answerer:
    """Answers questions together: one thread owns the model, and rows join and leave its running batch."""

    def __init__(self, assistant: Assistant, *, max_rows: int = 16, max_waiting: int = 64) -> None:
        self.assistant, self.max_rows, self.max_waiting = assistant, max_rows, max_waiting

    def start(self) -> None:
        """Starts the thread."""
        raise NotImplementedError

    def submit(self, question: Question) -> Answer:
        """Returns the answer to come; call it where an event loop runs.

        Raises: BusyError if `max_waiting` questions wait already, ClosingError once `drain` or `close` was called.
        """
        raise NotImplementedError

    async def drain(self, timeout_s: float) -> bool:
        """Takes no more questions; returns whether all that were accepted are answered, after `timeout_s` at most."""
        raise NotImplementedError

    def close(self) -> None:
        """Stops the thread; answers that are not finished raise ClosingError."""
        raise NotImplementedError

    def stats(self) -> AnswererStats:
        """Returns what it does now, and what it has done."""
        raise NotImplementedError

"""The queue of questions: who was accepted, who can join, and how it went with them. For all threads."""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

from sonant.errors import BusyError, ClosingError
from sonant.generate.reply import SpokenReply
from sonant.serve.answering.open_request import OpenRequest
from sonant.serve.answering.questions import Reason

_SMOOTHING = 0.1  # the weight of the last answer in the mean time of one
_PATIENCE_S = 0.03  # that one who can join waits for others
_GUESS_S = 1.0  # of an answer, as long as none was finished


@dataclass
class Counts:
    """What has happened so far."""

    accepted: int = 0
    finished: int = 0
    failed: int = 0
    cancelled: int = 0
    refused: int = 0  # for want of room
    prompt_tokens: int = 0  # of finished answers
    completion_tokens: int = 0


class RequestQueue:
    """Questions from the moment they are accepted until they are over; `room` is for so many.

    ```
    enter ──▶ (an example is made) ──▶ make_ready ──▶ take ──▶ finish | fail | give_up
    ```
    """

    def __init__(self, *, room: int) -> None:
        self.room, self.counts = room, Counts()
        self.open: set[OpenRequest] = set()  # accepted and not over
        self.draining = self.stopped = False
        self._ready: deque[OpenRequest] = deque()  # those who can join
        self._changed = threading.Condition(threading.RLock())  # guards all of this
        self._answer_s, self._since = _GUESS_S, 0.0

    def enter(self, request: OpenRequest) -> None:
        """Accepts a question. Raises: BusyError if there is no room, ClosingError once nothing more is accepted."""
        with self._changed:
            if self.draining:
                raise ClosingError("this server is about to stop and takes no more questions; ask it once it is back")
            if len(self.open) >= self.room:
                self.counts.refused += 1
                retry_after_s = len(self.open) * self._answer_s
                raise BusyError(
                    f"{self.room} questions are being answered or wait, which is all that this server takes; "
                    f"ask again in {retry_after_s:.1f} seconds",
                    retry_after_s=retry_after_s,
                )
            if not self.open:
                self._since = perf_counter()  # there is work again: the time before it does not count
            self.open.add(request)
            self.counts.accepted += 1

    def make_ready(self, requests: Sequence[OpenRequest], *, first: bool = False) -> None:
        """Lets these join next, behind or before all others."""
        with self._changed:
            for request in requests:
                request.ready = perf_counter()
            if first:
                self._ready.extendleft(reversed(requests))
            else:
                self._ready.extend(requests)
            self._changed.notify()

    def wait(self) -> None:
        """Returns once somebody can join, or the queue was stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self.stopped)

    def take(self, places: int, *, company: bool) -> list[OpenRequest]:
        """Returns those who join now, `places` at most. company: others are being answered, so nobody is alone.

        In company one waits a moment for others who will join too: prompts cost less if they are read together.
        """
        with self._changed:
            for request in [request for request in self._ready if request.answer.cancelled]:
                self._ready.remove(request)
                self.give_up(request)
            if company and self._ready and perf_counter() - self._ready[0].ready < _PATIENCE_S:
                return []
            taken: list[OpenRequest] = []
            while self._ready and len(taken) < places:
                if self._ready[0].alone:
                    return taken if taken or company else [self._ready.popleft()]
                taken.append(self._ready.popleft())
            return taken

    def stop(self) -> None:
        """Accepts nothing more, and wakes whoever waits."""
        with self._changed:
            self.draining = self.stopped = True
            self._changed.notify_all()

    def finish(self, request: OpenRequest, reason: Reason, *, spoken: SpokenReply | None = None) -> None:
        """An answer is over: its last event goes out."""
        with self._changed:
            now = perf_counter()
            took, self._since = now - self._since, now
            begun = self.counts.finished > 0
            self._answer_s = (1 - _SMOOTHING) * self._answer_s + _SMOOTHING * took if begun else took
            self.counts.prompt_tokens += request.num_read
            self.counts.completion_tokens += request.num_taken
        self._close(request, "finished")
        request.finish(reason, spoken=spoken)  # counted before it is told: whoever has heard it finds it counted

    def fail(self, request: OpenRequest, error: Exception) -> None:
        """An answer is over: what went wrong goes out."""
        self._close(request, "failed")
        request.answer.send(error)

    def give_up(self, request: OpenRequest) -> None:
        """An answer is over: nobody waits for it."""
        self._close(request, "cancelled")

    def _close(self, request: OpenRequest, how: Literal["finished", "failed", "cancelled"]) -> None:
        with self._changed:
            if request in self.open:
                self.open.remove(request)
                setattr(self.counts, how, getattr(self.counts, how) + 1)

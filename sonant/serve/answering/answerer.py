"""Answering many at once: one thread hears, one writes, and questions join and leave its running batch.

submit ──▶ RequestQueue ──Listener──▶ ready ──▶ Scheduler: rows of a RunningBatch ──▶ TextDelta .. ┬─▶ Finished
(event     who waits,     (a thread             (the answering thread)                         │
 loop)     how many        of its own)                                   the voice, if spoken ──┴─▶ SoundDelta ..
"""

import asyncio
import logging
import threading
import time
from dataclasses import dataclass

import torch

from sonant.errors import ClosingError
from sonant.generate.assistant import Assistant
from sonant.serve.answering.answer import Answer
from sonant.serve.answering.listener import Listener, compute_with
from sonant.serve.answering.open_request import OpenRequest
from sonant.serve.answering.questions import Question
from sonant.serve.answering.request_queue import Counts, RequestQueue
from sonant.serve.answering.scheduler import Scheduler

log = logging.getLogger(__name__)

_LOOK_S = 0.01  # between two looks at whether all is answered


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
    prompt_tokens: int  # of finished answers
    completion_tokens: int


class Answerer:
    """Answers questions together; each gets the answer that the model gives to it alone.

    max_rows: how many are answered at a time, those that are being said included; max_waiting: how many more may wait;
    threads: how many cores each of both takes, the encoders and what writes; None: as many as torch takes.
    """

    def __init__(
        self, assistant: Assistant, *, max_rows: int = 16, max_waiting: int = 64, threads: int | None = None
    ) -> None:
        self.assistant = assistant
        self._queue = RequestQueue(room=max_rows + max_waiting)
        self._scheduler = Scheduler(assistant, self._queue, max_rows=max_rows)
        self._num_threads = threads or torch.get_num_threads()
        self._listener = Listener(assistant, self._queue, threads=self._num_threads)
        self._thread = threading.Thread(target=self._run, name="sonant-answers", daemon=True)

    def start(self) -> None:
        """Starts the threads, if they do not run."""
        self._listener.start()
        if not self._thread.is_alive():
            self._thread.start()

    def submit(self, question: Question) -> Answer:
        """Returns the answer to come; call it where an event loop runs.

        Raises: BusyError if as many are being answered or wait as may, ClosingError once it drains or is closed.
        """
        request = OpenRequest(question, Answer(), tokenizer=self.assistant.tokenizer)
        self._queue.enter(request)
        self._listener.hear(request)
        return request.answer

    async def drain(self, timeout_s: float) -> bool:
        """Takes no more questions; returns whether all that were accepted are over, after `timeout_s` at most."""
        self._queue.draining = True
        until = time.monotonic() + timeout_s
        while self._queue.open and time.monotonic() < until:
            await asyncio.sleep(_LOOK_S)
        return not self._queue.open

    def close(self) -> None:
        """Stops the threads; answers that are not finished raise ClosingError."""
        self._queue.stop()
        if self._thread.is_alive():
            self._thread.join()
        self._listener.close()
        for request in list(self._queue.open):
            self._queue.fail(request, ClosingError("this server stopped before the answer was finished; ask it again"))

    def stats(self) -> AnswererStats:
        """Returns what it does now, and what it has done."""
        num_open = len(self._queue.open)
        rows = min(self._scheduler.num_requests, num_open)
        return AnswererStats(rows=rows, waiting=num_open - rows, **vars(self._queue.counts))

    def count_anew(self) -> None:
        """Forgets what was counted so far."""
        self._queue.counts = Counts()

    @torch.inference_mode()  # a tenth faster than without gradients alone; nothing here is ever trained
    def _run(self) -> None:
        compute_with(self._num_threads)
        while not self._queue.stopped:
            if not self._scheduler.num_requests:
                self._queue.wait()
            try:
                self._scheduler.turn()
                self._scheduler.say_next()
            except Exception:  # a fault of ours that belongs to no question
                log.exception("a turn of the answering thread failed")

"""Answering many at once: one thread owns the model, and questions join and leave its running batch.

submit ──▶ RequestQueue ──make example──▶ ready ──▶ Scheduler: rows of a RunningBatch ──▶ TextDelta .. ┬─▶ Finished
(event     who waits,     (a thread                 (the answering thread)                          │
 loop)     how many        of its own)                                        the voice, if spoken ──┴─▶ SoundDelta ..
"""

import asyncio
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from sonant.errors import ClosingError
from sonant.generate.assistant import Assistant
from sonant.serve.answer import Answer
from sonant.serve.open_request import OpenRequest
from sonant.serve.questions import Question
from sonant.serve.request_queue import Counts, RequestQueue
from sonant.serve.scheduler import Scheduler

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
    threads: how many the model computes with; None: as many as torch takes.
    """

    def __init__(
        self, assistant: Assistant, *, max_rows: int = 16, max_waiting: int = 64, threads: int | None = None
    ) -> None:
        self.assistant = assistant
        self._queue = RequestQueue(room=max_rows + max_waiting)
        self._scheduler = Scheduler(assistant, self._queue, max_rows=max_rows)
        # A thread that starts a team of threads of its own has OpenMP put them all to sleep between two products from
        # then on, also those of the model.
        self._makers = ThreadPoolExecutor(1, "sonant-examples", _compute_with, (1,))
        self._num_threads = threads or torch.get_num_threads()
        self._thread = threading.Thread(target=self._run, name="sonant-answers", daemon=True)

    def start(self) -> None:
        """Starts the thread, if it does not run."""
        if not self._thread.is_alive():
            self._thread.start()

    def submit(self, question: Question) -> Answer:
        """Returns the answer to come; call it where an event loop runs.

        Raises: BusyError if as many are being answered or wait as may, ClosingError once it drains or is closed.
        """
        request = OpenRequest(question, Answer(), tokenizer=self.assistant.tokenizer)
        self._queue.enter(request)
        self._makers.submit(self._make_example, request)
        return request.answer

    async def drain(self, timeout_s: float) -> bool:
        """Takes no more questions; returns whether all that were accepted are over, after `timeout_s` at most."""
        self._queue.draining = True
        until = time.monotonic() + timeout_s
        while self._queue.open and time.monotonic() < until:
            await asyncio.sleep(_LOOK_S)
        return not self._queue.open

    def close(self) -> None:
        """Stops the thread; answers that are not finished raise ClosingError."""
        self._queue.stop()
        if self._thread.is_alive():
            self._thread.join()
        self._makers.shutdown(cancel_futures=True)
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

    def _make_example(self, request: OpenRequest) -> None:
        """Makes what the model reads: in a thread of its own, so that no step waits for recordings to be loaded."""
        if request.answer.cancelled:
            self._queue.give_up(request)
            return
        try:
            if request.question.spoken:
                _ = self.assistant.voice  # refuses here, before anything is written, if there is none
            request.example = self.assistant.example(request.question.conversation)
        except Exception as error:  # told to whoever asked
            self._queue.fail(request, error)
        else:
            self._queue.make_ready([request])

    @torch.inference_mode()  # a tenth faster than without gradients alone; nothing here is ever trained
    def _run(self) -> None:
        _compute_with(self._num_threads)
        while not self._queue.stopped:
            if not self._scheduler.num_requests:
                self._queue.wait()
            try:
                self._scheduler.turn()
                self._scheduler.say_next()
            except Exception:  # a fault of ours that belongs to no question
                log.exception("a turn of the answering thread failed")


def _compute_with(num_threads: int) -> None:
    """Has products of this thread use so many threads, whatever others name."""
    torch.get_num_threads()  # the first time a thread takes what was named last, by any thread, over what is its own
    torch.set_num_threads(num_threads)

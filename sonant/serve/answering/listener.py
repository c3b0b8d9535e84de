"""Hearing what is asked: a thread of its own runs the encoders while another writes answers.

    hear ──▶ who waits ──a few at a time──▶ examples ──encoders──▶ frames ──▶ RequestQueue.make_ready

While some are heard, others gather; so many are heard together where many ask, and one at once where nobody else does.
No answer that is being written stands still meanwhile, and on two cores or more both threads compute.
"""

import logging
import threading
from collections import deque
from collections.abc import Iterator, Sequence

import torch

from sonant.batch import Example
from sonant.generate.assistant import Assistant
from sonant.generate.encode import with_frames
from sonant.serve.answering.open_request import OpenRequest
from sonant.serve.answering.request_queue import RequestQueue

log = logging.getLogger(__name__)

TOGETHER_S = 60.0  # of audio, padding included, that is heard or read at a time: all others wait for it
_FEW = 8  # questions; more are heard hardly faster, and the first of them would wait for the last


class Listener:
    """Makes what the model reads of every question, and passes it on to `queue`; who cannot be heard fails alone."""

    def __init__(self, assistant: Assistant, queue: RequestQueue, *, threads: int) -> None:
        self.assistant, self.queue, self.num_threads = assistant, queue, threads
        self._waiting: deque[OpenRequest] = deque()
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="sonant-ears", daemon=True)

    def start(self) -> None:
        """Starts the thread, if it does not run."""
        if not self._thread.is_alive():
            self._thread.start()

    def hear(self, request: OpenRequest) -> None:
        """Has a question heard as soon as its turn comes."""
        with self._changed:
            self._waiting.append(request)
            self._changed.notify()

    def close(self) -> None:
        """Stops the thread once it has heard those whose turn it is; the others stay open."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    @torch.inference_mode()  # see `Answerer._run`
    def _run(self) -> None:
        compute_with(self.num_threads)
        while requests := self._next():
            try:
                for together in of_like_length(list(self._examples(requests))):
                    self._encode(together)
            except Exception as error:  # a fault of ours: whoever came after would wait for ever
                log.exception("a turn of the listening thread failed")
                for request in requests:
                    if not request.ready:
                        self.queue.fail(request, error)

    def _next(self) -> list[OpenRequest]:
        """Those whose turn it is, once there are any; none when all is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopped)
            return [] if self._stopped else [self._waiting.popleft() for _ in range(min(_FEW, len(self._waiting)))]

    def _examples(self, requests: Sequence[OpenRequest]) -> Iterator[OpenRequest]:
        """Yields those that can be read; several answers to one question need it once."""
        made: dict[int, Example] = {}
        for request in requests:
            if request.answer.cancelled:
                self.queue.give_up(request)
                continue
            asked = request.question.conversation
            try:
                if request.question.spoken:
                    _ = self.assistant.voice  # refuses here, before anything is written, if there is none
                if id(asked) not in made:
                    made[id(asked)] = self.assistant.example(asked)
            except Exception as error:  # told to whoever asked
                self.queue.fail(request, error)
            else:
                request.example = made[id(asked)]
                yield request

    def _encode(self, requests: Sequence[OpenRequest]) -> None:
        """Lets requests join the answers once they are heard: together, or each alone if that fails."""
        examples = {id(request.read): request.read for request in requests}
        try:
            heard = dict(zip(examples, with_frames(self.assistant.model, list(examples.values())), strict=True))
        except Exception as error:
            if len(examples) == 1:
                for request in requests:
                    self.queue.fail(request, error)
                return
            for key in examples:
                self._encode([request for request in requests if id(request.read) == key])
            return
        for request in requests:
            request.example = heard[id(request.read)]
        self.queue.make_ready(requests)


def of_like_length(requests: Sequence[OpenRequest]) -> Iterator[list[OpenRequest]]:
    """Yields those that are heard, or read, together: padded to the longest they are no more than a minute of audio."""
    together: list[OpenRequest] = []
    for request in sorted(requests, key=lambda request: request.read.audio_duration_s):
        if together and (len(together) + 1) * request.read.audio_duration_s > TOGETHER_S:
            yield together
            together = []
        together.append(request)
    if together:
        yield together


def compute_with(num_threads: int) -> None:
    """Has products of this thread use so many threads, whatever others name."""
    torch.get_num_threads()  # the first time a thread takes what was named last, by any thread, over what is its own
    torch.set_num_threads(num_threads)

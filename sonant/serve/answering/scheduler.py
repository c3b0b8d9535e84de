"""What the answering thread does, and it alone touches the model: rows are written, answers are said.

A turn drops what was cancelled, lets in who is ready, and takes one step of all rows. Spoken answers are said one after
another, and after each step of the voice there is a turn:

    voice  f  f  f  f  f  f ..         f: one step of the speech head, for one answer
    rows    s  s  s  s  s  s ..        s: one step of all rows that are written meanwhile
"""

import logging
from collections import deque
from collections.abc import Sequence
from functools import partial

from torch import Tensor

from sonant.batch import collate
from sonant.errors import ClosingError
from sonant.generate.assistant import Assistant
from sonant.generate.engine import Row, RunningBatch
from sonant.generate.reply import Reply, SoundChunk
from sonant.serve.answering.listener import of_like_length
from sonant.serve.answering.open_request import OpenRequest
from sonant.serve.answering.questions import Reason, SoundDelta
from sonant.serve.answering.request_queue import RequestQueue

log = logging.getLogger(__name__)


class Scheduler:
    """The answers that are made at present, `max_rows` at a time; who joins comes from `queue`, who is over goes there.

    A question that fails fails alone: if a step of several rows fails, each of them is asked again without company.
    """

    def __init__(self, assistant: Assistant, queue: RequestQueue, *, max_rows: int) -> None:
        self.assistant, self.queue, self.max_rows = assistant, queue, max_rows
        self._batch = self._new_batch()
        self._rows: dict[int, tuple[Row, OpenRequest]] = {}
        self._unsaid: deque[tuple[OpenRequest, Reply, Reason]] = deque()  # the first of them is being said

    @property
    def num_requests(self) -> int:
        """Returns how many are answered now."""
        return len(self._rows) + len(self._unsaid)

    def turn(self) -> None:
        """Drops what was cancelled, lets in who is ready, takes one step of all rows."""
        gone = [number for number, (_, request) in self._rows.items() if request.answer.cancelled]
        for number in gone:
            self.queue.give_up(self._leave(number))
        self._let_in()
        if self._rows:
            self._step()

    def say_next(self) -> None:
        """Says the answer that has waited longest, if any does, with a turn after each step of the voice."""
        if not self._unsaid:
            return
        request, reply, reason = self._unsaid[0]
        try:
            between = partial(self._between, request)
            seed = request.question.config.seed
            for made in self.assistant.voice.stream(
                request.read, reply, began=request.began, seed=seed, between=between
            ):
                if isinstance(made, SoundChunk):
                    request.answer.send(SoundDelta(made.samples, self.assistant.voice.sample_rate_hz))
                else:
                    self.queue.finish(request, reason, spoken=made)
        except _GivenUpError:
            self.queue.give_up(request)
        except Exception as error:  # told to whoever asked
            self.queue.fail(request, error)
        finally:
            self._unsaid.popleft()

    def _between(self, request: OpenRequest) -> None:
        if self.queue.stopped:
            raise ClosingError("this server stopped before the answer was said; ask again when it is back")
        if request.answer.cancelled:
            raise _GivenUpError
        self.turn()

    def _let_in(self) -> None:
        if any(request.alone for _, request in self._rows.values()):
            return
        joining = self.queue.take(self.max_rows - self.num_requests, company=bool(self._rows))
        for request in joining:
            if request.question.answer is not None:
                self._take_given(request, request.question.answer)
        for requests in of_like_length([request for request in joining if request.question.answer is None]):
            self._join(requests)

    def _join(self, requests: Sequence[OpenRequest]) -> None:
        try:
            batch = collate([request.read for request in requests]).to(self.assistant.device)
            fit = [line for line, request in enumerate(requests) if request.question.fit]
            rows = self._batch.join(batch, [request.question.config for request in requests], fit=fit)
        except Exception as error:
            if len(requests) == 1:
                self.queue.fail(requests[0], error)
                return
            for request in requests:
                self._join([request])
            return
        for row, request in zip(rows, requests, strict=True):
            request.num_read = row.num_read
            self._rows[row.number] = row, request

    def _step(self) -> None:
        try:
            step = self._batch.step()
        except Exception as error:
            self._ask_again(error)
            return
        for number, logits, over in zip(step.rows, step.logits, step.over, strict=True):
            row, request = self._rows[number]
            try:
                self._take(row, request, logits, over=over)
            except Exception as error:
                self.queue.fail(self._leave(number), error)

    def _ask_again(self, error: Exception) -> None:
        """After a step that failed: what the batch holds is not known any more, nor whose fault it was."""
        requests = [request for _, request in self._rows.values()]
        self._rows, self._batch = {}, self._new_batch()
        if len(requests) == 1:
            self.queue.fail(requests[0], error)
            return
        log.warning("a step of %d rows failed; each is asked again, alone", len(requests), exc_info=error)
        for request in requests:
            request.alone = True
        self.queue.make_ready(requests, first=True)

    def _take(self, row: Row, request: OpenRequest, logits: Tensor, *, over: bool) -> None:
        said = row.drawing.said
        if len(said) <= request.num_taken:
            return  # it was asked again
        ends_turn = said[-1] in self.assistant.tokenizer.stop_ids
        if not request.take(said[-1], logits, ends_turn=ends_turn, last=over):
            return
        self._leave(row.number)
        stopped = request.writing.stopped
        reason: Reason = "stop" if ends_turn or stopped else "length"
        if not request.question.spoken:
            self.queue.finish(request, reason)
            return
        written = self.assistant.given(request.read, request.writing.shown) if stopped else self.assistant.written(said)
        self._unsaid.append((request, written, reason))

    def _take_given(self, request: OpenRequest, answer: str) -> None:
        """What is to be said without being written first."""
        try:
            reply = self.assistant.given(request.read, answer)
        except Exception as error:
            self.queue.fail(request, error)
            return
        request.num_read, request.num_taken = len(request.read.token_ids), len(reply.token_ids)
        self._unsaid.append((request, reply, "stop"))

    def _leave(self, number: int) -> OpenRequest:
        self._batch.leave([number])
        return self._rows.pop(number)[1]

    def _new_batch(self) -> RunningBatch:
        return RunningBatch(self.assistant.model, stop_ids=self.assistant.tokenizer.stop_ids)


class _GivenUpError(Exception):
    """Nobody waits for this answer any more."""

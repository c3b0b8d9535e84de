"""What the answering thread does, and it alone touches the model: rows are written, answers are said.

A turn drops what was cancelled, lets in who is ready, and takes one step of all rows. Spoken answers are said one after
another, and after each step of the voice there is a turn:

    voice  f  f  f  f  f  f ..         f: one step of the speech head, for one answer
    rows    s  s  s  s  s  s ..        s: one step of all rows that are written meanwhile
"""

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial

from torch import Tensor

from sonant.batch import collate
from sonant.generate.assistant import Assistant
from sonant.generate.engine import Row, RunningBatch
from sonant.generate.reply import Reply, SoundChunk
from sonant.serve.line import Line
from sonant.serve.questions import Reason, SoundDelta
from sonant.serve.talk import Talk

log = logging.getLogger(__name__)

_READ_TOGETHER_S = 60.0  # of audio, padding included, that is read at a time: longer, and those who talk would wait


class Work:
    """The answers that are made at present, `max_rows` at a time; who joins comes from `line`, who is over goes there.

    A question that fails fails alone: if a step of several rows fails, each of them is asked again without company.
    """

    def __init__(self, assistant: Assistant, line: Line, *, max_rows: int) -> None:
        self.assistant, self.line, self.max_rows = assistant, line, max_rows
        self._batch = self._new_batch()
        self._rows: dict[int, tuple[Row, Talk]] = {}
        self._unsaid: deque[tuple[Talk, Reply, Reason]] = deque()  # the first of them is being said

    @property
    def num_talks(self) -> int:
        """Returns how many are answered now."""
        return len(self._rows) + len(self._unsaid)

    def turn(self) -> None:
        """Drops what was cancelled, lets in who is ready, takes one step of all rows."""
        gone = [number for number, (_, talk) in self._rows.items() if talk.answer.cancelled]
        for number in gone:
            self.line.give_up(self._leave(number))
        self._let_in()
        if self._rows:
            self._step()

    def say_next(self) -> None:
        """Says the answer that has waited longest, if any does, with a turn after each step of the voice."""
        if not self._unsaid:
            return
        talk, reply, reason = self._unsaid[0]
        try:
            between = partial(self._between, talk)
            seed = talk.question.config.seed
            for made in self.assistant.voice.stream(talk.read, reply, began=talk.began, seed=seed, between=between):
                if isinstance(made, SoundChunk):
                    talk.answer.send(SoundDelta(made.samples, self.assistant.voice.sample_rate_hz))
                else:
                    self.line.finish(talk, reason, spoken=made)
        except _GivenUpError:
            self.line.give_up(talk)
        except Exception as error:  # told to whoever asked
            self.line.fail(talk, error)
        finally:
            self._unsaid.popleft()

    def _between(self, talk: Talk) -> None:
        if talk.answer.cancelled or self.line.stopped:
            raise _GivenUpError
        self.turn()

    def _let_in(self) -> None:
        if any(talk.alone for _, talk in self._rows.values()):
            return
        joining = self.line.take(self.max_rows - self.num_talks, company=bool(self._rows))
        for talk in joining:
            if talk.question.answer is not None:
                self._take_given(talk, talk.question.answer)
        for talks in _of_like_length([talk for talk in joining if talk.question.answer is None]):
            self._join(talks)

    def _join(self, talks: Sequence[Talk]) -> None:
        try:
            batch = collate([talk.read for talk in talks]).to(self.assistant.device)
            fit = [line for line, talk in enumerate(talks) if talk.question.fit]
            rows = self._batch.join(batch, [talk.question.config for talk in talks], fit=fit)
        except Exception as error:
            if len(talks) == 1:
                self.line.fail(talks[0], error)
                return
            for talk in talks:
                self._join([talk])
            return
        for row, talk in zip(rows, talks, strict=True):
            talk.num_read = row.num_read
            self._rows[row.number] = row, talk

    def _step(self) -> None:
        try:
            step = self._batch.step()
        except Exception as error:
            self._ask_again(error)
            return
        for number, logits, over in zip(step.rows, step.logits, step.over, strict=True):
            row, talk = self._rows[number]
            try:
                self._take(row, talk, logits, over=over)
            except Exception as error:
                self.line.fail(self._leave(number), error)

    def _ask_again(self, error: Exception) -> None:
        """After a step that failed: what the batch holds is not known any more, nor whose fault it was."""
        talks = [talk for _, talk in self._rows.values()]
        self._rows, self._batch = {}, self._new_batch()
        if len(talks) == 1:
            self.line.fail(talks[0], error)
            return
        log.warning("a step of %d rows failed; each is asked again, alone", len(talks), exc_info=error)
        for talk in talks:
            talk.alone = True
        self.line.make_ready(talks, first=True)

    def _take(self, row: Row, talk: Talk, logits: Tensor, *, over: bool) -> None:
        said = row.drawing.said
        if len(said) <= talk.num_taken:
            return  # it was asked again
        ends_turn = said[-1] in self.assistant.tokenizer.stop_ids
        if not talk.take(said[-1], logits, ends_turn=ends_turn, last=over):
            return
        self._leave(row.number)
        stopped = talk.writing.stopped
        reason: Reason = "stop" if ends_turn or stopped else "length"
        if not talk.question.spoken:
            self.line.finish(talk, reason)
            return
        written = self.assistant.given(talk.read, talk.writing.shown) if stopped else self.assistant.written(said)
        self._unsaid.append((talk, written, reason))

    def _take_given(self, talk: Talk, answer: str) -> None:
        """What is to be said without being written first."""
        try:
            reply = self.assistant.given(talk.read, answer)
        except Exception as error:
            self.line.fail(talk, error)
            return
        talk.num_read, talk.num_taken = len(talk.read.token_ids), len(reply.token_ids)
        self._unsaid.append((talk, reply, "stop"))

    def _leave(self, number: int) -> Talk:
        self._batch.leave([number])
        return self._rows.pop(number)[1]

    def _new_batch(self) -> RunningBatch:
        return RunningBatch(self.assistant.model, stop_ids=self.assistant.tokenizer.stop_ids)


class _GivenUpError(Exception):
    """Nobody waits for this answer any more."""


def _of_like_length(talks: Sequence[Talk]) -> Iterator[list[Talk]]:
    """Yields those whose prompts are read together: padded to the longest they are no more than a minute of audio."""
    together: list[Talk] = []
    for talk in sorted(talks, key=lambda talk: talk.read.audio_duration_s):
        if together and (len(together) + 1) * talk.read.audio_duration_s > _READ_TOGETHER_S:
            yield together
            together = []
        together.append(talk)
    if together:
        yield together

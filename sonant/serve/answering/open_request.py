"""One question on its way to its answer: tokens come in, what can be sent goes out."""

import time

from torch import Tensor

from sonant.batch import Example
from sonant.chat.tokenizer import ChatTokenizer
from sonant.generate.reply import SpokenReply
from sonant.generate.writing import Writing
from sonant.serve.answering.answer import Answer
from sonant.serve.answering.questions import Finished, Question, Reason, TextDelta, TokenScore


class OpenRequest:
    """A question, the answer to it, and how far that is.

    Tokens may come again: if a batch fails its rows are asked once more, each alone (see `Scheduler`), and draw what
    they drew before. `num_taken` tells which of them are dealt with: what was sent is not sent twice.
    """

    def __init__(self, question: Question, answer: Answer, *, tokenizer: ChatTokenizer) -> None:
        self.question, self.answer = question, answer
        self.began = time.perf_counter()
        self.ready = 0.0  # when it could join; 0: it was not heard yet
        self.example: Example | None = None  # the question as the model reads it, once it is made
        self.writing = Writing(tokenizer, stop=question.stop)
        self.alone = False  # it is answered in no company
        self.num_read = 0
        self.num_taken = 0  # tokens that were drawn and dealt with
        self._scores: list[TokenScore] = []
        self._num_scored = 0  # of which so many are sent

    @property
    def read(self) -> Example:
        """The question as the model reads it."""
        assert self.example is not None
        return self.example

    def take(self, token_id: int, logits: Tensor, *, ends_turn: bool, last: bool) -> bool:
        """Deals with the next token and sends what can be sent; returns whether the text ends with it.

        logits: (V,); ends_turn: it is a stop token, and no text; last: no other follows.
        """
        self.num_taken += 1
        piece = ""
        if not ends_turn:
            piece = self.writing.push(token_id)
            if self.question.top_logprobs is not None:
                self._scores.append(self._score(token_id, logits, top=self.question.top_logprobs))
        over = last or self.writing.stopped
        if over:
            piece += self.writing.end()
        scores = self._ready_scores(all_of_them=over) if self._scores and (piece or over) else []
        if piece or scores:
            self.answer.send(TextDelta(piece, tuple(scores)))
        return over

    def finish(self, reason: Reason, *, spoken: SpokenReply | None = None) -> None:
        """Sends the last event."""
        given = self.question.answer
        text = self.writing.shown if given is None else given
        self.answer.send(Finished(text, reason, self.num_read, self.num_taken, spoken))

    def _ready_scores(self, *, all_of_them: bool) -> list[TokenScore]:
        """The scores that go with the text that is shown and were not sent; of a stop string none."""
        upto = len(self._scores) if all_of_them and not self.writing.stopped else self.writing.num_shown
        scores, self._num_scored = self._scores[self._num_scored : upto], max(upto, self._num_scored)
        return scores

    def _score(self, token_id: int, logits: Tensor, *, top: int) -> TokenScore:
        logprobs = logits.log_softmax(-1)
        best = logprobs.topk(min(top, len(logprobs)))
        tops = [self._scored(*each) for each in zip(best.indices.tolist(), best.values.tolist(), strict=True)]
        return self._scored(token_id, float(logprobs[token_id]), tuple(tops))

    def _scored(self, token_id: int, logprob: float, top: tuple[TokenScore, ...] = ()) -> TokenScore:
        spelled = self.writing.tokenizer.token_bytes(token_id)
        return TokenScore(spelled.decode(errors="replace"), spelled, logprob, top)

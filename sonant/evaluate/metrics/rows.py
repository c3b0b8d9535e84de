"""What only shows beside the whole row: answered or merely transcribed, and what a reply came to in the end."""

from collections.abc import Callable, Sequence
from typing import Any

from sonant.chat.messages import Conversation
from sonant.evaluate.metrics.instructions import last_body, transcript_of
from sonant.evaluate.metrics.score import RowMetric
from sonant.evaluate.metrics.text import equal, token_f1, word_errors
from sonant.evaluate.normalize import basic

TRANSCRIBED_WER = 0.3  # a reply with no more word errors than this against what was said is taken for a transcript


def answered_not_transcribed(answers: Sequence[str], rows: Sequence[Conversation]) -> list[tuple[float, float]]:
    """Returns (1 if the reply is no mere transcript of the recording, else 0; 1) of each row.

    A mere transcript has at most TRANSCRIBED_WER word errors a word against what was said, and more of them against the
    reference. A row whose reference is itself a transcript by that bound, or whose recording is not written down, says
    nothing here, and has size 0.
    """
    return [_answered(answer, row) for answer, row in zip(answers, rows, strict=True)]


def _answered(answer: str, row: Conversation) -> tuple[float, float]:
    said, reply, reference = basic(transcript_of(row) or ""), basic(answer), basic(row.reference)
    if not said or _error_rate(reference, said) <= TRANSCRIBED_WER:
        return 0.0, 0.0
    errors = _error_rate(reply, said)
    return float(errors > TRANSCRIBED_WER or errors >= _error_rate(reply, reference)), 1.0


def _error_rate(hypothesis: str, reference: str) -> float:
    errors, num_words = word_errors(hypothesis, reference)
    return errors / max(num_words, 1)


def _final(compare: Callable[[str, str], tuple[float, float]]) -> Any:
    """Compares what a reply comes to (its last line, or the body of its last instruction) with the key `final`."""

    def count(answers: Sequence[str], rows: Sequence[Conversation]) -> list[tuple[float, float]]:
        finals = [row.extra.get("final", row.reference) for row in rows]
        return [
            compare(last_body(answer, row), basic(final))
            for answer, row, final in zip(answers, rows, finals, strict=True)
        ]

    return count


ANSWERED = RowMetric("answered_not_transcribed", True, answered_not_transcribed)
FINAL_EXACT = RowMetric("final_exact", True, _final(equal))
FINAL_F1 = RowMetric("final_f1", True, _final(token_f1))

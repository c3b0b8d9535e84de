"""Signs that a model has run away: repetition, more errors than words, replies much shorter or longer than wanted."""

from collections.abc import Sequence
from dataclasses import dataclass

from sonant.evaluate.metrics.text import word_errors
from sonant.evaluate.normalize import basic

TIMES = 3  # a stretch that comes this often in direct succession is a repetition
LONGEST_STRETCH = 30  # words


@dataclass(frozen=True)
class Degeneration:
    """Percentages of replies; the last two are only known of tasks scored by word errors."""

    repetition: float  # a stretch of 1 to 30 words stands 3 times or more in a row, and no right answer does that
    empty: float
    over_one: float | None = None  # more word errors than the reference has words
    length_ratio: float | None = None  # words of all replies to words of all references, in percent

    @property
    def is_striking(self) -> bool:
        """Whether there is any sign: a length ratio counts as one from a quarter off."""
        return bool(self.repetition or self.empty or self.over_one or not 75 <= (self.length_ratio or 100) <= 125)


def degeneration(answers: Sequence[str], references: Sequence[Sequence[str]], *, errors: bool) -> Degeneration:
    """Returns the signs in the replies of one arm; `errors` says whether words are to be counted against references.

    Of several right answers the first is compared with. Source: failures of the released WavLLM in third parties' logs.
    """
    replies, wanted = (
        [basic(answer) for answer in answers],
        [[basic(text) for text in several] for several in references],
    )
    repeated = [repeats(reply) and not any(map(repeats, right)) for reply, right in zip(replies, wanted, strict=True)]
    found = Degeneration(_percent(sum(repeated), len(replies)), _percent(replies.count(""), len(replies)))
    if not errors:
        return found
    counts = [word_errors(reply, right[0]) for reply, right in zip(replies, wanted, strict=True)]
    over = sum(count > max(num_words, 1) for count, num_words in counts)
    num_said, num_wanted = sum(len(reply.split()) for reply in replies), sum(num for _, num in counts)
    return Degeneration(found.repetition, found.empty, _percent(over, len(replies)), _percent(num_said, num_wanted))


def repeats(text: str) -> bool:
    """Returns whether a stretch of words (of characters, where a text has no spaces) comes 3 times in succession."""
    units: Sequence[str] = words if len(words := text.split()) > 1 else text
    for length in range(1, min(LONGEST_STRETCH, len(units) // TIMES) + 1):
        run = 0
        for unit, later in zip(units, units[length:], strict=False):
            run = run + 1 if unit == later else 0
            if run >= (TIMES - 1) * length:
                return True
    return False


def _percent(count: float, size: float) -> float:
    return 100 * count / max(size, 1)

"""How well a projector says a text, judged without the LLM: its vectors are read as the tokens nearest to them."""

from collections.abc import Callable, Sequence

from sonant.errors import EvaluationError
from sonant.evaluate.metrics.text import WER
from sonant.evaluate.normalize import basic


def nearest_scores(
    heard: Sequence[Sequence[int]], said: Sequence[Sequence[int]], *, decode: Callable[[Sequence[int]], str]
) -> dict[str, float]:
    """Returns percentages over clips of which tokens `heard` were read and tokens `said` would have been right.

    nearest accuracy     right tokens in their own slot / tokens said: one miscount costs all that follows
    nearest wer          word errors of the decoded tokens, which forgive a miscount as a reader does
    exact count          clips with as many tokens as were said
    count within one     clips with one more or one less, or exactly as many

    Raises: EvaluationError without clips.
    """
    if not said:
        raise EvaluationError("no clips to read; name dev manifests with transcribed audio")
    right = sum(a == b for one, other in zip(heard, said, strict=True) for a, b in zip(one, other, strict=False))
    off = [abs(len(one) - len(other)) for one, other in zip(heard, said, strict=True)]
    texts = [[basic(decode(ids)) for ids in side] for side in (heard, said)]
    return {
        "nearest accuracy": 100 * right / max(1, sum(map(len, said))),
        "nearest wer": WER.score(*texts).value,
        "exact count": 100 * sum(n == 0 for n in off) / len(off),
        "count within one": 100 * sum(n <= 1 for n in off) / len(off),
    }

"""How well a projector says a text, judged without the LLM: its vectors are read as the tokens nearest to them."""

from collections.abc import Callable, Sequence
from typing import Protocol

from sonant.errors import EvaluationError
from sonant.evaluate.metrics.text import WER
from sonant.evaluate.normalize import basic


class Reading(Protocol):
    """One clip: what was said, and what the vectors are read as (`sonant.models.projector.Reading`)."""

    @property
    def said(self) -> Sequence[int]: ...
    @property
    def token_ids(self) -> Sequence[int]: ...
    @property
    def cosines(self) -> Sequence[float]: ...
    @property
    def norm_ratios(self) -> Sequence[float]: ...


def nearest_scores(readings: Sequence[Reading], *, decode: Callable[[Sequence[int]], str]) -> dict[str, float]:
    """Returns scores over clips; all but the last two are percentages.

    nearest wer          word errors of the decoded tokens, which forgive a miscount as a reader does
    nearest accuracy     right tokens in their own slot / tokens said: one miscount costs all that follow
    raw accuracy         those of them that need no snapping: cosine of CLEAR or more with the token's embedding
    exact count          clips with as many tokens as were said
    count within one     clips with one more, one less or as many
    cosine, norm ratio   of a vector and the embedding that its slot should hold, on average

    Raises: EvaluationError without clips.
    """
    if not readings:
        raise EvaluationError("no clips to read; name dev manifests with transcribed audio")
    off = [abs(len(each.token_ids) - len(each.said)) for each in readings]
    slots = [
        (heard == said, cosine, ratio)
        for each in readings
        for heard, said, cosine, ratio in zip(each.token_ids, each.said, each.cosines, each.norm_ratios, strict=False)
    ]
    num_said, num_slots = max(1, sum(len(each.said) for each in readings)), max(1, len(slots))
    heard, said = ([basic(decode(getattr(r, side))) for r in readings] for side in ("token_ids", "said"))
    return {
        "nearest wer": WER.score(heard, said).value,
        "nearest accuracy": 100 * sum(right for right, _, _ in slots) / num_said,
        "raw accuracy": 100 * sum(right and cosine >= CLEAR for right, cosine, _ in slots) / num_said,
        "exact count": 100 * sum(n == 0 for n in off) / len(off),
        "count within one": 100 * sum(n <= 1 for n in off) / len(off),
        "cosine": sum(cosine for _, cosine, _ in slots) / num_slots,
        "norm ratio": sum(ratio for _, _, ratio in slots) / num_slots,
    }


CLEAR = 0.9  # a vector this near to an embedding is read as that token, not as a blur of several

"""Two roads to the same answers, compared: the largest difference of their scores, and the first token that differs.

expected  a b c d <stop>      scores are compared up to the first token that differs: what comes after it
found     a b x y <stop>      answers another text
              ^
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Token = int | str  # its id or, where a road shows no ids, its text


@dataclass(frozen=True, eq=False)
class Answer:
    """What one question got: N tokens and the scores behind each."""

    tokens: tuple[Token, ...]  # (N,)
    scores: Tensor  # (N, V) float32 logits; (N,) log-probabilities of the tokens; or (N, M) log mels of N frames

    @property
    def span(self) -> float:
        """The largest score less the smallest: what rounding is measured by; 0 for none."""
        finite = self.scores[self.scores.isfinite()]
        return float(finite.max() - finite.min()) if finite.numel() else 0.0


@dataclass(frozen=True)
class FirstDifference:
    """Where two roads part: a token and what stands in its place; None where an answer has ended."""

    row: int
    position: int
    expected: Token | None
    found: Token | None
    margin: float | None  # by how much the expected token's score beats the other's; small: a tie


@dataclass(frozen=True)
class Comparison:
    """How far apart the answers of two roads are."""

    largest_difference: float  # of scores that follow the same tokens; NaN or inf where a road has such
    first_difference: FirstDifference | None  # None: all tokens are equal
    num_tokens: int  # that were compared


def compare(expected: Sequence[Answer], found: Sequence[Answer]) -> Comparison:
    """Returns how far `found` is from `expected`, row by row; the first difference is that of the first row with one.

    Scores may be -inf on both roads (a token that cannot be said).

    Raises: ValueError if there are not as many answers on both roads.
    """
    pairs = list(zip(expected, found, strict=True))
    parted = [_first_difference(row, *pair) for row, pair in enumerate(pairs)]
    counts = [_comparable(*pair, parting) for pair, parting in zip(pairs, parted, strict=True)]
    differences = [_largest(e.scores[:n], f.scores[:n]) for (e, f), n in zip(pairs, counts, strict=True)]
    return Comparison(
        largest_difference=float(torch.tensor(differences).max()),  # the maximum of torch is NaN if any is
        first_difference=next((parting for parting in parted if parting is not None), None),
        num_tokens=sum(counts),
    )


def log_probabilities(answers: Sequence[Answer]) -> list[Answer]:
    """Returns answers of logits as those see them who are told the log-probability of each token alone."""
    return [
        Answer(answer.tokens, answer.scores.log_softmax(-1).gather(1, torch.tensor(answer.tokens)[:, None])[:, 0])
        for answer in answers
    ]


def _first_difference(row: int, expected: Answer, found: Answer) -> FirstDifference | None:
    for position in range(max(len(expected.tokens), len(found.tokens))):
        mine = expected.tokens[position] if position < len(expected.tokens) else None
        other = found.tokens[position] if position < len(found.tokens) else None
        if mine != other:
            return FirstDifference(row, position, mine, other, _margin(expected, position, mine, other))
    return None


def _margin(expected: Answer, position: int, mine: Token | None, other: Token | None) -> float | None:
    if expected.scores.dim() != 2 or not isinstance(mine, int) or not isinstance(other, int):
        return None
    return float(expected.scores[position, mine] - expected.scores[position, other])


def _comparable(expected: Answer, found: Answer, parting: FirstDifference | None) -> int:
    """How many positions have the same past; of log-probabilities also the same token."""
    shorter = min(len(expected.scores), len(found.scores))
    if parting is None:
        return shorter
    return min(shorter, parting.position + (1 if expected.scores.dim() == 2 else 0))


def _largest(expected: Tensor, found: Tensor) -> float:
    if not expected.numel():
        return 0.0
    difference = (expected - found).abs()
    return float(difference.masked_fill(expected == found, 0.0).max())  # -inf on both roads is no difference

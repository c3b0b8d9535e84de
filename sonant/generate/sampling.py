"""Choosing the next token from logits: greedy, temperature, top-k, top-p, repetition penalty; knowing a loop."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from sonant.config import Config

LONGEST_LOOP = 12  # tokens of the longest stretch whose repetition is noticed
_COLDEST = 1e-5  # a lower temperature is greedy: what is divided by it may be more than a float32 holds


class GenerationConfig(Config):
    """How an answer is drawn. The default is greedy: the same question always has the same answer."""

    max_new_tokens: Annotated[int, Field(ge=1)] = 128
    temperature: Annotated[float, Field(ge=0)] = 0.0  # 0 is greedy
    top_k: Annotated[int, Field(ge=0)] = 0  # 0 keeps every token
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    # An answer ends, unfinished, once its last 1 to 12 tokens stand so many times in a row; None: never.
    max_repeats: Annotated[int, Field(ge=2)] | None = None
    seed: int = 0
    # "ctc": what a CTC head heard is read ahead as a guess, several tokens at once. Same answers in fewer steps.
    drafts: Literal["none", "ctc"] = "none"


@dataclass(frozen=True, eq=False)
class Drawing:
    """One answer as it is drawn: how, from numbers of its own, and what it says so far."""

    config: GenerationConfig
    generator: torch.Generator
    said: list[int]

    @classmethod
    def begun(cls, config: GenerationConfig, *, name: str) -> "Drawing":
        """Returns an answer of which nothing is said. Its draws depend on `config.seed` and `name` alone."""
        seed = (config.seed + zlib.crc32(name.encode())) % 2**64
        return cls(config, torch.Generator().manual_seed(seed), [])


def draw(logits: Tensor, answers: Sequence[Drawing]) -> Tensor:
    """Returns the next token of each answer, (B,) int64, from its line of `logits` (B, V) float.

    What an answer draws does not depend on its company. Nothing is appended to what is said.
    """
    alike: dict[tuple[float, ...], list[int]] = {}
    for line, answer in enumerate(answers):
        config = answer.config
        how = (config.temperature, config.top_k, config.top_p, config.repetition_penalty)
        alike.setdefault(how, []).append(line)
    if len(alike) == 1:
        return _drawn(logits, answers)
    tokens = torch.empty(len(answers), dtype=torch.int64, device=logits.device)
    for lines in alike.values():
        tokens[lines] = _drawn(logits[lines], [answers[line] for line in lines])
    return tokens


def _drawn(logits: Tensor, answers: Sequence[Drawing]) -> Tensor:
    """(B,) int64 of answers that are drawn in one way."""
    config = answers[0].config
    if config.repetition_penalty != 1.0:
        logits = penalise_repetition(logits, [a.said for a in answers], penalty=config.repetition_penalty)
    if config.temperature < _COLDEST:
        return logits.argmax(-1)
    kept = keep_top_p(keep_top_k(logits / config.temperature, config.top_k), config.top_p)
    probabilities = kept.softmax(-1).cpu()
    draws = [torch.multinomial(p, 1, generator=a.generator) for p, a in zip(probabilities, answers, strict=True)]
    return torch.cat(draws).to(logits.device)


def penalise_repetition(logits: Tensor, previous: Sequence[Sequence[int]], *, penalty: float) -> Tensor:
    """Returns (B, V) logits in which tokens already said are `penalty` times less likely (Keskar et al. 2019)."""
    logits = logits.clone()
    for row, said in enumerate(previous):
        ids = torch.tensor(sorted(set(said)), dtype=torch.long, device=logits.device)
        scores = logits[row, ids]
        logits[row, ids] = torch.where(scores > 0, scores / penalty, scores * penalty)
    return logits


def loops(said: Sequence[int], *, times: int) -> bool:
    """Returns whether `said` ends in a stretch of 1 to 12 tokens that stands `times` times in direct succession.

    It looks at a row's own tokens alone, so that a row ends at the same token in any company.
    """
    for size in range(1, min(LONGEST_LOOP, len(said) // times) + 1):
        tail = said[-size * times :]
        if tail[size:] == tail[:-size]:
            return True
    return False


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Returns (B, V) logits with all but the k best set to -inf; k = 0 keeps all."""
    if k == 0 or k >= logits.shape[-1]:
        return logits
    threshold = logits.topk(k, dim=-1).values[:, -1:]
    return logits.masked_fill(logits < threshold, float("-inf"))


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Returns (B, V) logits with all but the smallest set of tokens whose probability reaches p set to -inf."""
    if p >= 1:
        return logits
    ordered, index = logits.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(-1)
    # A token is dropped when those before it already reach p; the first is always kept, also where p is 0 in float32.
    dropped = probabilities.cumsum(-1) - probabilities >= p
    dropped[:, 0] = False
    return logits.masked_fill(dropped.scatter(-1, index, dropped), float("-inf"))

"""The certificate: every way a model can be asked, how far its answers are from each question's alone, and whether
that is rounding.

    tolerance = roundings * (step of the model's coarsest dtype at 1) * (largest score - smallest score)

Sums made in another order differ in their last digits: by some steps of the dtype, at the size of what is summed, for
which the span of the scores stands (a voice's frames have the span of their mels). float32 rounds each of the thousands
of terms of a sum: 256 steps, of which trained tiny ones take 16, and 72 where frames come from a cache. Narrower types
are summed in float32 and rounded once a layer: 8 steps. A fault moves scores by per cents of their span, of which 256
steps of float32 are 0.003.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch

from sonant import __version__
from sonant.chat.messages import Conversation
from sonant.errors import RequestError
from sonant.generate.assistant import Assistant
from sonant.generate.sampling import GenerationConfig
from sonant.parity.compare import Answer, Comparison, Token, compare
from sonant.parity.model_ways import MODEL_WAYS
from sonant.parity.outside_ways import OUTSIDE_WAYS
from sonant.parity.ways import NotApplicable, Subject, Way

ROUNDINGS = {torch.float32: 256, torch.bfloat16: 8, torch.float16: 8}
WAYS = (*MODEL_WAYS[:-1], *OUTSIDE_WAYS, *MODEL_WAYS[-1:])  # text first, then what is said
FORMAT, VERSION = "sonant-parity", 1
Verdict = Literal["equal", "differs", "not applicable"]


@dataclass(frozen=True)
class Finding:
    """What came of one way."""

    way: str
    compares: str
    verdict: Verdict
    note: str = ""  # why it is not applicable, how it failed, or what one should know
    tolerance: float | None = None
    comparison: Comparison | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns JSON values; a difference that is no number is null."""
        values: dict[str, Any] = {"way": self.way, "compares": self.compares, "verdict": self.verdict}
        if self.comparison is not None:
            found, parting = self.comparison, self.comparison.first_difference
            values |= {
                "largest_difference": _number(found.largest_difference),
                "tolerance": self.tolerance,
                "tokens_equal": parting is None,
                "first_difference": None if parting is None else vars(parting),
                "num_tokens": found.num_tokens,
            }
        return values | ({"note": self.note} if self.note else {})


@dataclass(frozen=True)
class Certificate:
    """All findings about one model."""

    model: str
    dtype: str
    questions: tuple[str, ...]  # ids, in the order of rows
    left_out: tuple[str, ...]  # ids of those for which the LLM has no room
    num_tokens: int  # of the reference's answers
    findings: tuple[Finding, ...]

    @property
    def holds(self) -> bool:
        """Returns whether no way differs."""
        return all(finding.verdict != "differs" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Returns the certificate as JSON values."""
        versions = {name: metadata.version(name) for name in ("torch", "transformers", "peft")}
        known = {"format": FORMAT, "version": VERSION, "holds": self.holds}
        asked = {"model": self.model, "dtype": self.dtype, "questions": self.questions, "left_out": self.left_out}
        ways = {"ways": [finding.to_json() for finding in self.findings]}
        return {
            **known,
            **asked,
            "num_tokens": self.num_tokens,
            **ways,
            "versions": {"sonant": __version__, **versions},
        }


def certify(
    assistant: Assistant,
    questions: Sequence[Conversation],
    *,
    scratch: Path,
    name: str = "",
    max_new_tokens: int = 32,
    ways: Sequence[Way] = WAYS,
    progress: Callable[[str], None] = lambda way: None,
) -> Certificate:
    """Returns what came of each way, by greedy answers to `questions`; a way that fails differs, and says how.

    scratch: an empty folder for what the ways write; name: of the model; progress: called with each way to come.

    Raises: RequestError if no question fits the model; AudioError or ChatError if one cannot be read.
    """
    fitting = [question for question in questions if _fits(assistant, question, max_new_tokens)]
    if not fitting:
        raise RequestError(
            f"none of {len(questions)} questions fits this LLM, which holds {assistant.model.positions} positions, "
            f"with an answer of {max_new_tokens} tokens; ask shorter ones (--rows), or lower --max-new-tokens"
        )
    config = GenerationConfig(max_new_tokens=max_new_tokens)
    subject = Subject(assistant, fitting, config, scratch)
    dtype = _coarsest_dtype(assistant)
    return Certificate(
        model=name,
        dtype=str(dtype).removeprefix("torch."),
        questions=tuple(question.id for question in fitting),
        left_out=tuple(question.id for question in questions if question not in fitting),
        num_tokens=sum(len(answer.tokens) for answer in subject.reference),
        findings=tuple(_finding(way, subject, dtype, progress) for way in ways),
    )


def spell(token: Token | None, assistant: Assistant) -> str:
    """Returns how a token reads in a finding."""
    if token is None:
        return "the end"
    return repr(token if isinstance(token, str) else assistant.tokenizer.hf.convert_ids_to_tokens(token))


def _finding(way: Way, subject: Subject, dtype: torch.dtype, progress: Callable[[str], None]) -> Finding:
    progress(way.name)
    try:
        roads = way.run(subject)
        found = compare(roads.expected, roads.found)
    except NotApplicable as why:
        return Finding(way.name, way.compares, "not applicable", str(why))
    except Exception as error:  # a way that breaks is a finding, and the ways after it have theirs
        return Finding(way.name, way.compares, "differs", f"failed: {type(error).__name__}: {error}")
    tolerance = ROUNDINGS[dtype] * torch.finfo(dtype).eps * _span(roads.expected, subject)
    equal = found.first_difference is None and found.largest_difference <= tolerance
    return Finding(way.name, way.compares, "equal" if equal else "differs", roads.note, tolerance, found)


def _span(expected: Sequence[Answer], subject: Subject) -> float:
    """Of all scores that the expected answers were chosen by; those who see a few see no span."""
    judged = subject.reference if any(answer.scores.dim() == 1 for answer in expected) else expected
    return max(answer.span for answer in judged)


def _fits(assistant: Assistant, question: Conversation, max_new_tokens: int) -> bool:
    limit = assistant.model.positions
    if limit is None:
        return True
    asked = assistant.example(question)
    heard = assistant.model.audio_tokens(asked.audio_duration_s) + len(asked.audio_positions)
    return len(asked.token_ids) + heard + max_new_tokens <= limit


def _coarsest_dtype(assistant: Assistant) -> torch.dtype:
    dtypes = {parameter.dtype for parameter in assistant.model.parameters() if parameter.is_floating_point()}
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)


def _number(value: float) -> float | None:
    return value if torch.tensor(value).isfinite() else None

"""The ways by which one model can be asked. Each must answer as the reference does: each question alone, step by step.

A way is a name, what it compares, and a function of a `Subject` that goes both roads. `model_ways` has those that need
nothing but the model, `outside_ways` those through other people's code.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from sonant.batch import collate
from sonant.chat.messages import Conversation
from sonant.generate.assistant import Assistant
from sonant.generate.engine import Step, decode
from sonant.generate.sampling import GenerationConfig
from sonant.models.checkpoint import save_speech_lm
from sonant.models.quantized import is_quantized
from sonant.parity.compare import Answer


class NotApplicable(Exception):
    """This model cannot go this way, or this installation cannot; the message says why."""


@dataclass(eq=False)
class Subject:
    """The model under test, what it is asked, and a folder for what a way must write."""

    assistant: Assistant
    questions: Sequence[Conversation]
    config: GenerationConfig  # greedy
    scratch: Path

    @cached_property
    def reference(self) -> list[Answer]:
        """The answers that every way is measured by: each question alone, by the assistant as it is."""
        return answers(self.assistant, self.questions, config=self.config, together=False)

    @cached_property
    def saved(self) -> Path:
        """A folder with the model as it is, standing alone; a quantised LLM stays where it came from."""
        folder, model = self.scratch / "saved", self.assistant.model
        include: Literal["trained", "all"] = "trained" if is_quantized(model.llm) else "all"
        save_speech_lm(model, self.assistant.tokenizer, folder, include=include)
        return folder


@dataclass(frozen=True)
class Roads:
    """What both roads gave, a row a question."""

    expected: Sequence[Answer]
    found: Sequence[Answer]
    note: str = ""


@dataclass(frozen=True)
class Way:
    """One way to ask a model. `run` raises NotApplicable where this model cannot go it."""

    name: str
    compares: str
    run: Callable[[Subject], Roads]


def answers(
    assistant: Assistant, questions: Sequence[Conversation], *, config: GenerationConfig, together: bool
) -> list[Answer]:
    """Returns the greedy answers, with the logits behind each token: `together` in one batch, or each alone."""
    if not together:
        return [answers(assistant, [question], config=config, together=True)[0] for question in questions]
    batch = collate([assistant.example(question) for question in questions]).to(assistant.device)
    return gathered(
        decode(assistant.model, batch, config=config, stop_ids=assistant.tokenizer.stop_ids), num_rows=len(questions)
    )


def gathered(steps: Iterable[Step], *, num_rows: int) -> list[Answer]:
    """Returns the answers that decoding gave, step by step, to rows 0 to num_rows - 1."""
    tokens: list[list[int]] = [[] for _ in range(num_rows)]
    logits: list[list[Tensor]] = [[] for _ in range(num_rows)]
    for step in steps:
        for row, token, scores in zip(step.rows, step.token_ids.tolist(), step.logits.float().cpu(), strict=True):
            tokens[row].append(token)
            logits[row].append(scores)
    return [Answer(tuple(said), torch.stack(scores)) for said, scores in zip(tokens, logits, strict=True)]

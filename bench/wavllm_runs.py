"""The runs behind the figures of WavLLM: where they lie, what each model answers, and what the answers are worth."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bench.figure import RUNS
from sonant.chat.messages import Conversation
from sonant.data.manifest import Manifest
from sonant.evaluate.metrics.instructions import INSTRUCTION_FOLLOWING, part_marks
from sonant.evaluate.metrics.score import Estimate, ratio
from sonant.evaluate.metrics.verification import equal_error_rate
from sonant.evaluate.run import score_task
from sonant.evaluate.tasks import task_named
from sonant.evaluate.wordings import Wording, reworded
from sonant.generate.assistant import Assistant
from sonant.generate.choices import choice_scores
from sonant.generate.sampling import GenerationConfig
from sonant.models.lora import multiply_lora
from sonant.synth.world.speakers import speakers, throat_of

FOLDER = RUNS / "wavllm"
WORLD = FOLDER / "world"
ROWS = 200  # of each set of single tasks
ANSWER = GenerationConfig(max_new_tokens=96)


@dataclass(frozen=True)
class Examined:
    """A finished stage, its LoRA times `scale`; what its model answers is kept beside it."""

    stage: Path
    scale: float = 1.0

    @property
    def exists(self) -> bool:
        """Whether it has come to its end."""
        return (self.stage / "model" / "checksums.json").exists()

    def answers(self, name: str, prompts: Sequence[Conversation], *, lora: bool = True) -> list[str]:
        """What the model says, asked once."""

        def ask() -> list[str]:
            return [reply.text for reply in self.model().replies(list(prompts), config=ANSWER, lora=lora)]

        return list(self.kept(name, ask))

    def likelihoods(self, name: str, prompts: Sequence[Conversation], *, lora: bool = True) -> NDArray[np.float64]:
        """(N, 2) log-likelihoods of yes and no, asked once."""

        def ask() -> list[list[float]]:
            scores: list[list[float]] = choice_scores(self.model(), list(prompts), ("yes", "no"), lora=lora).tolist()
            return scores

        return np.array(self.kept(name, ask))

    def score(self, name: str, metric: str, *, limit: int | None = ROWS, wording: Wording | None = None) -> float:
        """One metric of a test set, in per cent."""
        rows = rows_of(name, limit)
        prompts = [reworded(row, wording) if wording else row.prompt() for row in rows]
        asked = limit if limit is None or len(rows_of(name)) <= limit else f"spread {limit}"
        return score_of(rows, self.answers(f"{name} {wording.name if wording else ''} {asked}", prompts), metric)

    def followed(self, name: str) -> Estimate:
        """The share (%) of rows that are wholly followed, with its draws: of orders, whose rows stand or fall together.

        A model that loses an order loses most of its rows; drawn one by one they would promise more than is known.
        """
        rows = rows_of(name)
        counts = INSTRUCTION_FOLLOWING.counts(self._all_answers(name, rows), rows)
        orders = ["+".join(row.extra["combination"]) for row in rows]
        return ratio(counts, np.unique(orders, return_inverse=True)[1])

    def parts(self, name: str) -> float:
        """The share (%) of single instructions that are followed, where rows hold several."""
        rows = rows_of(name)
        answers = self._all_answers(name, rows)
        marks = [mark.followed for row, text in zip(rows, answers, strict=True) for mark in part_marks(text, row)]
        return 100 * sum(marks) / len(marks)

    def eer(self, name: str) -> float:
        """The equal error rate (%) by the likelihoods of yes and no, over `unheard` rows."""
        rows = rows_of(name)
        likelihoods, kept = self.likelihoods(f"{name} choices", [row.prompt() for row in rows]), unheard(rows)
        return eer_of([rows[i] for i in kept], likelihoods[kept])

    def manner(self) -> float:
        """Unweighted accuracy (%) of manners, over `unheard` rows."""
        rows = rows_of("manner")
        answers, kept = self._all_answers("manner", rows), unheard(rows)
        return score_of([rows[i] for i in kept], [answers[i] for i in kept], "unweighted_accuracy")

    def model(self) -> Assistant:
        """The model, read anew."""
        assistant = Assistant.from_folder(self.stage / "model")
        if self.scale != 1:
            multiply_lora(assistant.model.llm, self.scale)
        return assistant

    def kept(self, name: str, ask: Callable[[], Any]) -> Any:
        """What `ask` gave, if it was ever asked."""
        folder = "answers" if self.scale == 1 else f"answers-{self.scale:g}"
        path = self.stage / folder / f"{'-'.join(name.split())}.json"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(ask()), encoding="utf-8")
        return json.loads(path.read_text(encoding="utf-8"))

    def steps_and_minutes(self) -> tuple[int, float]:
        """How many steps its log tells of, and what they took by the clock."""
        lines = [json.loads(line) for line in (self.stage / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        steps = [line for line in lines if "loss" in line]
        return steps[-1]["step"], sum(line["seconds"] for line in steps) / 60

    def _all_answers(self, name: str, rows: Sequence[Conversation]) -> list[str]:
        return self.answers(f"{name}  None", [row.prompt() for row in rows])


Runs = Mapping[int, Examined]  # by seed


def runs_of(arm: str, stage: Literal["stage1", "stage2"], seeds: Sequence[int]) -> dict[int, Examined]:
    """Returns the finished ones, by seed."""
    every = {seed: Examined(FOLDER / f"{arm}{seed}" / stage) for seed in seeds}
    return {seed: run for seed, run in every.items() if run.exists}


def rows_of(name: str, limit: int | None = None) -> list[Conversation]:
    """Returns a test set, or so many of its rows from all over it: kinds of rows stand one behind the other there."""
    rows = Manifest(WORLD / "test" / f"{name}.jsonl")
    count = len(rows) if limit is None else min(limit, len(rows))
    return [rows[len(rows) * i // count] for i in range(count)]


def unheard(rows: Sequence[Conversation]) -> list[int]:
    """Returns which rows no voice of training speaks, nor one that is hardly told apart from it."""
    trained = {speaker.throat for speaker in speakers("train")}
    voices = [row.extra.get("speakers") or [row.speaker] for row in rows]
    return [i for i, each in enumerate(voices) if not any(throat_of(voice) in trained for voice in each)]


def score_of(rows: Sequence[Conversation], answers: Sequence[str], metric: str) -> float:
    """Returns a metric, in per cent, of answers to rows of one task."""
    task = rows[0].task
    return score_task(task, rows, {"system": list(answers)}, how=task_named(task)).scores[metric]["system"].value


def eer_of(rows: Sequence[Conversation], likelihoods: NDArray[np.float64]) -> float:
    """Returns the equal error rate, in per cent, of (N, 2) log-likelihoods of yes and no."""
    is_one = np.array([row.reference == "yes" for row in rows])
    return equal_error_rate(likelihoods[:, 0] - likelihoods[:, 1], is_one).score.value

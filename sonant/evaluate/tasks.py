"""What each task is scored by. A row of a manifest names its task; a name not listed here is scored by exact match."""

from dataclasses import dataclass
from typing import Any

from sonant.chat.messages import Conversation
from sonant.evaluate.metrics.instructions import ALL_CORRECT, INSTRUCTION_FOLLOWING
from sonant.evaluate.metrics.labels import INVALID_LABEL, UNWEIGHTED, WEIGHTED
from sonant.evaluate.metrics.language import RIGHT_LANGUAGE
from sonant.evaluate.metrics.named import exact_name
from sonant.evaluate.metrics.rows import ANSWERED, FINAL_EXACT, FINAL_F1
from sonant.evaluate.metrics.score import AnyMetric
from sonant.evaluate.metrics.text import (
    ACCURACY,
    BLEU,
    CER,
    CHRF,
    CONTAINS,
    EXACT,
    F1,
    NO_CHOICE,
    ROUGE_L,
    WER,
)
from sonant.evaluate.metrics.verification import ORDER_CONSISTENCY
from sonant.evaluate.normalize import NormalizerName, normalizer_version

JUDGE, JUDGE_FAILED = "judge", "judge_failed"  # metrics by verdicts: points of the most possible, share without one
CHOICE_ACCURACY, EER = "choice_accuracy", "eer"  # metrics by likelihoods: the likeliest choice is right; equal errors


@dataclass(frozen=True)
class Task:
    """Metrics, the first of which is the headline, the normaliser of both sides, and the rubric of a judge if any."""

    metrics: tuple[AnyMetric, ...]
    normalizer: NormalizerName = "basic"
    judge: str | None = None
    choices: tuple[str, ...] = ()  # answers whose likelihoods are asked for too; of two, the first is "the same"

    @property
    def headline(self) -> str:
        """The metric that tables and gates look at."""
        return self.metrics[0].name if self.metrics else JUDGE

    @property
    def higher_is_better(self) -> dict[str, bool]:
        """Metric -> whether more of it is better."""
        judged = {JUDGE: True, JUDGE_FAILED: False} if self.judge else {}
        chosen = {CHOICE_ACCURACY: True, EER: False} if self.choices else {}
        return {m.name: m.higher_is_better for m in self.metrics} | chosen | judged

    @property
    def pins(self) -> dict[str, Any]:
        """What a score depends on besides answers and references."""
        metrics = [exact_name(m) for m in self.metrics]
        own = {name for _, at, name in (metric.partition("@") for metric in metrics) if at}
        return {
            "metrics": metrics,
            "normalizer": {"name": self.normalizer, "version": normalizer_version(self.normalizer)},
            "metric_normalizers": {name: normalizer_version(name) for name in sorted(own)} or None,
            "choices": self.choices or None,
        }


ANSWER = Task(metrics=(EXACT,))
TASKS = {
    "asr": Task(metrics=(WER, CER)),
    "asr_words": Task(metrics=(WER, CER)),
    "translation": Task(metrics=(EXACT, BLEU, CHRF, RIGHT_LANGUAGE)),
    "spoken_qa": ANSWER,
    "mixed_modal": ANSWER,
    "multi_turn": ANSWER,
    "text_only": ANSWER,
    "text_translation": Task(metrics=(EXACT, BLEU, CHRF, RIGHT_LANGUAGE)),
    "question": Task(metrics=(CONTAINS, EXACT, F1), normalizer="squad"),
    "multiple_choice": Task(metrics=(ACCURACY, NO_CHOICE), normalizer="none"),
    "summary": Task(metrics=(ROUGE_L,)),
    "chat": Task(metrics=(), judge="grade"),
    "continuation": ANSWER,
    "instruction": Task(metrics=(EXACT, ANSWERED)),
    "manner": Task(metrics=(WEIGHTED, UNWEIGHTED, INVALID_LABEL)),
    "verification": Task(metrics=(EXACT, ORDER_CONSISTENCY), choices=("yes", "no")),
    "combined": Task(metrics=(INSTRUCTION_FOLLOWING, ALL_CORRECT)),
    "text_combined": Task(metrics=(INSTRUCTION_FOLLOWING, ALL_CORRECT)),
    "combined_chained": Task(metrics=(INSTRUCTION_FOLLOWING, ALL_CORRECT, FINAL_EXACT, FINAL_F1)),
}


def task_named(name: str) -> Task:
    """Returns the task of that name, or exact match for a name we do not know."""
    return TASKS.get(name, ANSWER)


def references_of(row: Conversation) -> tuple[str, ...]:
    """Returns the right answers of a row: its reference, and the aliases that it lists."""
    return tuple(dict.fromkeys((row.reference, *row.extra.get("aliases", ()))))

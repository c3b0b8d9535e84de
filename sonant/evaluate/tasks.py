"""What each task is scored by. A row of a manifest names its task; a name not listed here is scored by exact match."""

from dataclasses import dataclass

from sonant.evaluate.metrics.score import Metric
from sonant.evaluate.metrics.text import BLEU, CER, CHRF, EXACT, WER
from sonant.evaluate.normalize import NormalizerName


@dataclass(frozen=True)
class Task:
    """Metrics, the first of which is the headline, and the normaliser of both sides."""

    metrics: tuple[Metric, ...]
    normalizer: NormalizerName = "basic"

    @property
    def headline(self) -> Metric:
        """The metric that tables and gates look at."""
        return self.metrics[0]


ANSWER = Task(metrics=(EXACT,))
TASKS = {
    "asr": Task(metrics=(WER, CER)),
    "asr_words": Task(metrics=(WER, CER)),
    "translation": Task(metrics=(EXACT, BLEU, CHRF)),
    "spoken_qa": ANSWER,
    "mixed_modal": ANSWER,
    "multi_turn": ANSWER,
    "text_only": ANSWER,
    "text_translation": Task(metrics=(EXACT, BLEU, CHRF)),
}


def task_named(name: str) -> Task:
    """Returns the task of that name, or exact match for a name we do not know."""
    return TASKS.get(name, ANSWER)

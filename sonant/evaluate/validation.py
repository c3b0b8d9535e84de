"""Scores on a few dev rows while a model trains: what the best checkpoint is chosen by."""

from collections.abc import Callable, Mapping
from pathlib import Path

from sonant.data.training_set import DataConfig
from sonant.errors import EvaluationError
from sonant.evaluate.metrics.language import RIGHT_LANGUAGE
from sonant.evaluate.metrics.rows import ANSWERED
from sonant.evaluate.metrics.text import BLEU, EXACT
from sonant.evaluate.run import group_by_task, score_task
from sonant.evaluate.tasks import Task
from sonant.generate.assistant import Assistant
from sonant.generate.sampling import GenerationConfig

# Whether a task is done at all, in the language asked for, before how well: what training on ASR prompts alone costs.
FOLLOWING: Mapping[str, Task] = {
    "translation": Task(metrics=(RIGHT_LANGUAGE, BLEU)),
    "spoken_qa": Task(metrics=(ANSWERED, EXACT)),
}


def validator(
    data: DataConfig, assistant: Assistant, *, how: Mapping[str, Task] | None = None
) -> Callable[[int], dict[str, float]] | None:
    """Returns a function that answers dev rows and gives the headline score of each task and their composite.

    composite: the mean over tasks of accuracy, where an error rate counts as 100 minus itself: no task may be traded
    for another. The trainer calls it with the model in eval mode. Without dev manifests there is none.
    how: tasks that are scored otherwise than usual, by the mean of several metrics, none of them an error rate.
    """
    if not data.dev:
        return None
    tasks = group_by_task([Path(data.root, manifest) for manifest in data.dev], limit=data.dev_rows)
    config = GenerationConfig(max_new_tokens=data.dev_new_tokens)

    def validate(step: int) -> dict[str, float]:
        scores: dict[str, float] = {}
        accuracies = []
        for task, rows in tasks.items():
            answers = [reply.text for reply in assistant.replies([row.prompt() for row in rows], config=config)]
            own = (how or {}).get(task)
            result = score_task(task, rows, {"system": answers}, how=own)
            if "system" not in result.scores[result.headline]:
                raise EvaluationError(
                    f"dev rows of {task}: {result.headline} says nothing about them; do they lack 'target_language'?"
                )
            counted = result.scores if own else {result.headline: result.scores[result.headline]}
            values = {f"{task} {name}": arms["system"].value for name, arms in counted.items()}
            scores |= values
            value = sum(values.values()) / len(values)
            accuracies.append(value if result.higher_is_better else 100 - value)
        return scores | {"composite": sum(accuracies) / len(accuracies)}

    return validate

"""Scores on a few dev rows while a model trains: what the best checkpoint is chosen by."""

from collections.abc import Callable
from pathlib import Path

from sonant.data.training_set import DataConfig
from sonant.evaluate.run import group_by_task, score_task
from sonant.generate.assistant import Assistant
from sonant.generate.sampling import GenerationConfig


def validator(data: DataConfig, assistant: Assistant) -> Callable[[int], dict[str, float]] | None:
    """Returns a function that answers dev rows and gives the headline score of each task and their composite.

    composite: the mean over tasks of accuracy, where an error rate counts as 100 minus itself: no task may be traded
    for another. The trainer calls it with the model in eval mode. Without dev manifests there is none.
    """
    if not data.dev:
        return None
    tasks = group_by_task([Path(data.root, manifest) for manifest in data.dev], limit=data.dev_rows)
    config = GenerationConfig(max_new_tokens=data.dev_new_tokens)

    def validate(step: int) -> dict[str, float]:
        scores, accuracies = {}, []
        for task, rows in tasks.items():
            answers = [reply.text for reply in assistant.replies([row.prompt() for row in rows], config=config)]
            result = score_task(task, rows, {"system": answers})
            value = result.scores[result.headline]["system"].value
            scores[f"{task} {result.headline}"] = value
            accuracies.append(value if result.higher_is_better else 100 - value)
        return scores | {"composite": sum(accuracies) / len(accuracies)}

    return validate

"""Names and rare words that an answer lost: the words a listener cannot guess."""

from collections import Counter
from collections.abc import Sequence

from sonant.chat.messages import Conversation
from sonant.errors import EvaluationError
from sonant.evaluate.metrics.score import RowMetric
from sonant.evaluate.normalize import basic


def missing_entities(hypothesis: str, reference: str, entities: Sequence[str]) -> tuple[float, float]:
    """Returns (words of entities that the hypothesis lacks, words of entities in the reference).

    Only entities that stand in the reference count, as often as they stand there; case and punctuation do not matter,
    nor does the place of a word.

    Raises: EvaluationError for an entity without a word.
    """
    said, wanted = basic(reference).split(), Counter[str]()
    for entity in dict.fromkeys(map(basic, entities)):
        words = entity.split()
        if not words:
            raise EvaluationError(f"entities {list(entities)!r}: one of them has no word; leave it out")
        times = sum(said[i : i + len(words)] == words for i in range(len(said) - len(words) + 1))
        wanted |= Counter({word: number * times for word, number in Counter(words).items()})
    missing = wanted - Counter(basic(hypothesis).split())
    return float(missing.total()), float(wanted.total())


def entity_errors(answers: Sequence[str], rows: Sequence[Conversation]) -> list[tuple[float, float]]:
    """Returns `missing_entities` of each row, of those in its `entities`; a row without that key has size 0.

    Raises: EvaluationError if `entities` is no list of texts.
    """
    return [missing_entities(answer, row.reference, _entities(row)) for answer, row in zip(answers, rows, strict=True)]


ENTITY_ERRORS = RowMetric("entity_error_rate", False, entity_errors)


def _entities(row: Conversation) -> list[str]:
    entities = row.extra.get("entities", [])
    if not isinstance(entities, list) or not all(isinstance(entity, str) for entity in entities):
        raise EvaluationError(f"row {row.id!r}: 'entities' is {entities!r}; give a list of words or names")
    return entities

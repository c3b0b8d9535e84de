import pytest

from sonant.chat.messages import Conversation, assistant, user
from sonant.errors import EvaluationError
from sonant.evaluate.metrics.entities import ENTITY_ERRORS, missing_entities


def row(reference: str, **extra: object) -> Conversation:
    return Conversation((user("what is said?"), assistant(reference)), id="1", extra=extra)


@pytest.mark.parametrize(
    ("hypothesis", "entities", "expected"),
    [
        ("Anna met Bob in New York", ["Anna", "Bob", "New York"], (0, 4)),
        ("hannah met bob in new yolk", ["Anna", "Bob", "New York"], (2, 4)),
        ("", ["Anna", "Bob"], (2, 2)),
        ("Anna met Bob", ["Carl"], (0, 0)),  # not said: nothing to lose
        ("anna? met BOB!", ["anna", "Anna", "bob"], (0, 2)),
        ("Anna met Bob in New York", [], (0, 0)),
        ("york", ["New York", "York"], (1, 2)),  # one York was said
    ],
)
def test_words_of_entities_that_an_answer_lacks_are_counted(
    hypothesis: str, entities: list[str], expected: tuple[int, int]
) -> None:
    assert missing_entities(hypothesis, "Anna met Bob in New York.", entities) == expected


def test_an_entity_said_twice_must_be_heard_twice() -> None:
    assert missing_entities("anna and anna", "anna, bob and anna", ["anna"]) == (0, 2)
    assert missing_entities("anna and hannah", "anna, bob and anna", ["anna"]) == (1, 2)


def test_rows_without_entities_say_nothing() -> None:
    rows = [row("anna met bob", entities=["anna", "bob"]), row("anna met bob")]
    assert ENTITY_ERRORS.counts(["hannah met bob", "nothing"], rows).tolist() == [[1, 2], [0, 0]]
    with pytest.raises(EvaluationError, match=r"row '1': 'entities' is 'anna'; give a list"):
        ENTITY_ERRORS.counts(["a"], [row("a", entities="anna")])
    with pytest.raises(EvaluationError, match="one of them has no word"):
        missing_entities("a", "a", ["?!"])

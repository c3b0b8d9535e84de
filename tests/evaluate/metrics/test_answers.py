import pytest

from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.evaluate.metrics.answers import LENIENT, STRICT, faults, right_answers


def matched(answer: str, key: str, question: str = "what is it", **extra: object) -> tuple[float, float]:
    """(strict, lenient)"""
    row = Conversation((user(AudioPart("a.wav", transcript=question)), assistant(key)), id="1", extra=extra)
    return STRICT.counts([answer], [row])[0, 0], LENIENT.counts([answer], [row])[0, 0]


@pytest.mark.parametrize(
    ("answer", "key", "question", "expected"),
    [
        ("The Pacific Ocean.", "pacific ocean", "what is the largest ocean", (1, 1)),
        ("it is the pacific ocean", "Pacific Ocean", "what is the largest ocean", (0, 1)),
        ("the ocean", "Pacific Ocean", "what is the largest ocean", (0, 0)),
        ("Shakespeare", "William Shakespeare", "Who wrote Hamlet?", (0, 1)),
        ("Roosevelt", "Theodore Roosevelt", "Which president was it?", (0, 1)),
        ("there are 28", "Twenty Eight", "how many are there", (0, 1)),
        ("twenty-eight", "28", "how many are there", (0, 1)),
        ("twenty eight", "Eight", "how many are there", (0, 0)),
        ("one hundred and six", "206", "how many are there", (0, 0)),
        ("Leonardo da Vinchi", "Leonardo da Vinci", "who painted it", (0, 0)),  # five letters: not misspelt
        ("Micheal Phelps", "Michael Phelps", "what is his name", (0, 0)),  # two letters
        ("mississipi", "Mississippi", "which river", (0, 1)),
        ("", "Paris", "which city", (0, 0)),
    ],
)
def test_strict_and_lenient_matches(answer: str, key: str, question: str, expected: tuple[int, int]) -> None:
    assert matched(answer, key, question) == expected


def test_an_alias_is_right_for_the_lenient_match_alone() -> None:
    assert matched("Big Apple", "New York", "which city", aliases=["Big Apple"]) == (0, 1)


def test_what_the_key_of_llama_questions_gets_wrong_is_lenient_too() -> None:
    medals = "how many medals did carl lewis win"
    assert matched("ten", "Twenty Eight", medals) == (0, 1)
    assert matched("twenty eight", "Twenty Eight", medals) == (1, 1)
    assert matched("ten", "Twenty Eight", "how many medals did michael phelps win") == (0, 0)
    assert {fault.key for fault in faults()} == {
        "Twenty Eight", "Roosevelt", "Caspian Sea", "Victoria Falls", "Javelin Throw",
    }  # fmt: skip
    assert all(fault.fault for fault in faults())


def test_last_names_will_do_only_where_a_person_is_asked_for() -> None:
    row = Conversation((user(AudioPart("a.wav", transcript="who was it")), assistant("Carl Lewis")), id="1")
    assert right_answers(row) == ("Carl Lewis", "Lewis")

import pytest

from sonant.evaluate.metrics.degeneration import Degeneration, degeneration, repeats


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("the cat sleeps", False),
        ("no no no", True),
        ("no no", False),
        ("a b a b a c", False),
        ("x a b a b a b", True),
        ("one two three " * 3, True),
        ("bad bad cat bad bad", False),
        ("谢谢谢", True),
        ("blue", False),
        ("", False),
    ],
)
def test_a_stretch_that_comes_three_times_in_a_row_is_a_repetition(text: str, found: bool) -> None:
    assert repeats(text) is found


def test_signs_by_hand() -> None:
    """Of four: one repeats (and has 4 errors on 2 words), one is empty, one repeats as its reference does."""
    answers = ["The cat.", "a a a a", "", "five five five"]
    references = [["the cat"], ["a b"], ["two words"], ["five five five", "555"]]
    found = degeneration(answers, references, errors=True)
    # Word errors over words: 0/2, 3/2, 2/2, 0/3; 2 + 4 + 0 + 3 words said, 2 + 2 + 2 + 3 wanted.
    assert found == Degeneration(25.0, 25.0, 25.0, pytest.approx(100.0))
    assert found.is_striking
    assert degeneration(answers[:1], references[:1], errors=False) == Degeneration(0.0, 0.0)
    assert not Degeneration(0.0, 0.0, 0.0, 90.0).is_striking
    assert Degeneration(0.0, 0.0, 0.0, 66.0).is_striking

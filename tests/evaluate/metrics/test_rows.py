import numpy as np
import pytest

from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.evaluate.metrics.rows import ANSWERED, FINAL_EXACT, FINAL_F1
from sonant.evaluate.metrics.score import ratio, ratios_by_group
from sonant.evaluate.run import score_task

SPOKEN = Conversation(
    (user("follow the instruction in the audio:", AudioPart("a.wav", transcript="what colour is the sky today")),
     assistant("the sky is blue")),
    id="s1",
)  # fmt: skip


@pytest.mark.parametrize(
    ("reply", "answered"),
    [
        ("the sky is blue", 1.0),
        ("green", 1.0),  # wrong, but an answer
        ("What colour is the sky today?", 0.0),
        ("what color is the sky today", 0.0),  # 1 of 6 words
        ("what is the sky", 1.0),  # 2 of 6 are gone: past the bound
    ],
)
def test_a_reply_that_merely_transcribes_is_told_from_an_answer(reply: str, answered: float) -> None:
    """The released WavLLM, asked to follow spoken instructions, transcribed 19 of 20."""
    assert ANSWERED.counts([reply], [SPOKEN]).tolist() == [[answered, 1.0]]


def test_where_the_transcript_is_the_right_answer_nothing_is_counted() -> None:
    row = Conversation((user(AudioPart("a.wav", transcript="the cat")), assistant("The cat.")), id="1")
    assert ANSWERED.counts(["the cat"], [row]).tolist() == [[0.0, 0.0]]


def test_where_nobody_wrote_down_what_was_said_nothing_is_counted() -> None:
    row = Conversation((user(AudioPart("a.wav")), assistant("b")), id="2")
    assert ANSWERED.counts(["a"], [row]).tolist() == [[0.0, 0.0]]
    assert score_task("instruction", [row], {"system": ["b"]}).scores["answered_not_transcribed"] == {}


def test_of_a_chain_of_thought_the_last_line_counts() -> None:
    rows = [Conversation((user("a"), assistant("x\ny z")), id=str(i), extra={"final": "y z"}) for i in range(2)]
    answers = ["I heard x.\nY z.", "y z\nI heard x"]
    assert FINAL_EXACT.counts(answers, rows).tolist() == [[1.0, 1.0], [0.0, 1.0]]
    assert ratio(FINAL_F1.counts(["y q", "q"], rows)).value == 25.0  # F1 of 1/2 and 0


def test_a_draw_without_any_row_that_counts_is_no_zero() -> None:
    # Three of sixty rows count, all right: 4 % of the draws hold none of them, and were taken for 0 %.
    counts = np.zeros((60, 2))
    counts[:3] = 1
    score = ratio(counts).score
    assert (score.value, score.low, score.high) == (100, 100, 100)
    few, _ = ratios_by_group(counts, np.arange(60) // 30)
    assert (few.score.low, few.score.high) == (100, 100)
    assert ratio(np.zeros((5, 2))).score.value == 0

"""The word pointer: where marks put it, when it moves on, and what a step reads through it."""

import pytest
import torch
from small_speech_head import POINTER, clips, even_starts, small_head, states

from sonant.errors import TrainingError
from sonant.models.speech_head.word_pointer import advances, ages, pointers


def test_the_pointer_follows_the_marks_and_begins_in_the_silence_before_the_first_word() -> None:
    pointer = pointers(
        torch.tensor([[0.2, 0.41]]), torch.tensor([2]), torch.tensor([8]), step_s=0.1
    )  # steps 2 and 4 are nearest
    assert pointer.tolist() == [[0, 0, 1, 1, 2, 2, 2, 2]]
    assert advances(pointer, torch.tensor([8])).tolist() == [[0, 1, 0, 1, 0, 0, 0, 1]]
    assert ages(pointer).tolist() == [[0, 1, 0, 1, 0, 1, 2, 3]]


def test_each_slot_gets_a_step_however_close_its_marks() -> None:
    starts = torch.tensor([[0.0, 0.01, 0.02], [0.7, 0.7, 0.7]])
    pointer = pointers(starts, torch.tensor([3, 3]), torch.tensor([8, 8]), step_s=0.1)
    assert pointer.tolist() == [[0, 1, 2, 3, 3, 3, 3, 3], [0, 0, 0, 0, 0, 1, 2, 3]]


def test_rows_of_unequal_words_and_steps_do_not_touch_each_other() -> None:
    starts = torch.tensor([[0.1, 0.3], [0.2, float("nan")]])
    pointer = pointers(starts, torch.tensor([2, 1]), torch.tensor([5, 3]), step_s=0.1)
    assert pointer[0].tolist() == [0, 1, 1, 2, 2]
    assert pointer[1, :3].tolist() == [0, 0, 1]
    assert advances(pointer, torch.tensor([5, 3]))[1, :3].tolist() == [0, 1, 1]


def test_a_word_without_a_mark_and_too_short_a_clip_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"\[1\] have words without a start, and \[\] are too short"):
        pointers(torch.tensor([[0.1], [float("nan")]]), torch.tensor([1, 1]), torch.tensor([5, 5]), step_s=0.1)
    with pytest.raises(TrainingError, match=r"\[0\] are too short"):
        pointers(torch.tensor([[0.0, 0.1]]), torch.tensor([2]), torch.tensor([2]), step_s=0.1)


def test_passing_the_last_word_is_the_stop_and_durations_are_the_median_of_what_is_foretold() -> None:
    head = small_head(**POINTER, max_seconds=10.0)
    assert head.advance is not None
    torch.nn.init.zeros_(head.advance.weight)
    # Never above one half; yet 1 - 0.8^t is, from the fourth step on: three slots of four steps.
    torch.nn.init.constant_(head.advance.bias, float(torch.tensor(0.2).logit()))
    state, done = head.begin(states([[2, 3]]), seeds=[0]), []
    while state.rows:
        done.append(bool(head.step(state).done[0]))
    assert done == [False] * 11 + [True]


def test_letters_beyond_the_next_word_are_out_of_reach() -> None:
    # Two convolutions over five letters reach four letters far: into the next word, not into the first.
    head = small_head(**POINTER, llm_states="none")
    words, frames = [[6, 8, 3]], (32,)
    mels, lengths = clips(*frames)
    starts = even_starts(words, frames)
    said = states(words)
    before = head(said, mels, lengths, word_starts=starts).output[0]
    said.letters[0, -1] = 122
    after = head(said, mels, lengths, word_starts=starts).output[0]
    same = torch.isclose(before, after, atol=1e-6).all(-1)
    assert same[:8].all()  # the silence knows the word after it, which is the first
    assert not same[8:].any()


def test_the_llms_states_reach_the_steps_of_their_word_and_of_the_word_before() -> None:
    head = small_head(**POINTER)
    words, frames = [[4, 4, 4]], (32,)
    mels, lengths = clips(*frames)
    starts = even_starts(words, frames)
    said = states(words)
    before = head(said, mels, lengths, word_starts=starts).output[0]
    said.hidden[0, 2] += torch.randn(64)
    after = head(said, mels, lengths, word_starts=starts).output[0]
    same = torch.isclose(before, after, atol=1e-6).all(-1)
    assert same[:16].all()
    assert not same[16:].any()

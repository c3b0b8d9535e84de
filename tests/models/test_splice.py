"""The splice: text stays text, frames stand in their slots, labels and masks move with their tokens."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sonant.models.splice import IGNORED, Slots, Spliced, pad_left, splice

DIM = 3


def _rows(draw_lengths: list[tuple[int, list[tuple[int, int]]]]) -> tuple[dict[str, Tensor], Slots, Tensor, Tensor]:
    """Rows given as (number of tokens, [(position, frames), ...]); every token and frame gets its own number."""
    num_rows, width = len(draw_lengths), max(n for n, _ in draw_lengths)
    token_ids = torch.full((num_rows, width), 7)  # padding holds a legal id
    loss_mask = torch.zeros(num_rows, width)
    embeds = torch.full((num_rows, width, DIM), 999.0)
    for row, (length, _) in enumerate(draw_lengths):
        token_ids[row, :length] = torch.arange(length) + 100 * row
        loss_mask[row, :length] = (torch.arange(length) % 3 == 0).float()
        embeds[row, :length] = (torch.arange(length) + 100.0 * row)[:, None]
    segments = [(row, p, n) for row, (_, slots) in enumerate(draw_lengths) for p, n in slots]
    frames = max([n for _, _, n in segments], default=0) + 1  # one frame of padding more than needed
    audio = -1.0 - torch.arange(len(segments) * frames * DIM, dtype=torch.float32).view(len(segments), frames, DIM)
    slots = Slots(
        torch.tensor([s[0] for s in segments], dtype=torch.int64), torch.tensor([s[1] for s in segments]).long()
    )
    lengths = torch.tensor([n for n, _ in draw_lengths])
    fields = {"token_embeds": embeds, "token_ids": token_ids, "token_lengths": lengths, "loss_mask": loss_mask}
    return fields, slots, audio, torch.tensor([s[2] for s in segments], dtype=torch.int64)


def _splice(rows: list[tuple[int, list[tuple[int, int]]]]) -> tuple[Spliced, dict[str, Tensor], Tensor]:
    fields, slots, audio, audio_lengths = _rows(rows)
    return splice(**fields, slots=slots, audio=audio, audio_lengths=audio_lengths), fields, audio


def test_the_drawing_in_the_docstring_is_true() -> None:
    spliced, _, _ = _splice([(4, [(2, 3), (3, 2)]), (2, [(0, 1)])])
    assert spliced.lengths.tolist() == [9, 3]
    no = IGNORED
    assert spliced.labels.tolist() == [[0, 1, no, no, no, 2, no, no, 3], [no, 100, 101, *[no] * 6]]
    assert spliced.is_audio.int().tolist() == [[0, 0, 1, 1, 1, 0, 1, 1, 0], [1, 0, 0, 0, 0, 0, 0, 0, 0]]
    assert spliced.attention_mask.tolist() == [[1] * 9, [1] * 3 + [0] * 6]
    assert spliced.inputs_embeds[0, :, 0].tolist() == [0, 1, -1, -4, -7, 2, -13, -16, 3]


row = st.integers(1, 9).flatmap(
    lambda n: st.tuples(st.just(n), st.lists(st.tuples(st.integers(0, n), st.integers(1, 4)), max_size=4).map(sorted))
)


@settings(max_examples=40, deadline=None)
@given(st.lists(row, min_size=1, max_size=4))
def test_without_its_audio_a_row_is_the_text_again_and_spans_are_the_frames_in_order(rows: list) -> None:
    spliced, fields, audio = _splice(rows)
    segment = 0
    for index, (length, slots) in enumerate(rows):
        size = int(spliced.lengths[index])
        assert size == length + sum(n for _, n in slots)
        text = ~spliced.is_audio[index, :size]
        assert torch.equal(spliced.labels[index, :size][text], fields["token_ids"][index, :length])
        expected = fields["loss_mask"][index, :length] * (torch.arange(length) > 0)
        assert torch.equal(spliced.loss_mask[index, :size][text], expected)
        assert torch.equal(spliced.inputs_embeds[index, :size][text], fields["token_embeds"][index, :length])
        frames = torch.cat([audio[segment + i, :n] for i, (_, n) in enumerate(slots)] or [audio.new_zeros(0, DIM)])
        assert torch.equal(spliced.inputs_embeds[index, :size][~text], frames)
        assert not spliced.inputs_embeds[index, size:].any()
        assert not spliced.loss_mask[index, size:].any()
        assert (spliced.labels[index, size:] == IGNORED).all()
        assert not spliced.is_audio[index, size:].any()
        segment += len(slots)


def test_two_turns_with_audio_supervise_exactly_the_two_answers() -> None:
    """NeMo's first splice shifted labels by the sum of all audios: wrong when an answer precedes a later audio."""
    fields, slots, audio, audio_lengths = _rows([(12, [(1, 4), (7, 3)])])
    fields["loss_mask"] = torch.tensor([[0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 1]]).float()
    spliced = splice(**fields, slots=slots, audio=audio, audio_lengths=audio_lengths)
    assert spliced.labels[spliced.loss_mask > 0].tolist() == [3, 4, 9, 10, 11]


def test_longer_second_audio_leaves_the_first_turn_unchanged() -> None:
    short, _, _ = _splice([(8, [(1, 2), (6, 1)])])
    long, _, _ = _splice([(8, [(1, 2), (6, 4)])])
    first = 6 + 2
    assert torch.equal(short.labels[0, :first], long.labels[0, :first])
    assert torch.equal(short.loss_mask[0, :first], long.loss_mask[0, :first])


def test_gradient_reaches_tokens_and_frames_once_and_never_padding() -> None:
    fields, slots, audio, audio_lengths = _rows([(3, [(1, 2)]), (2, [])])
    fields["token_embeds"].requires_grad_()
    audio.requires_grad_()
    splice(**fields, slots=slots, audio=audio, audio_lengths=audio_lengths).inputs_embeds.sum().backward()
    assert fields["token_embeds"].grad[:, :, 0].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert audio.grad[:, :, 0].tolist() == [[1, 1, 0]]


def test_padding_that_is_not_finite_never_reaches_the_rows() -> None:
    fields, slots, audio, audio_lengths = _rows([(3, [(1, 1)])])
    audio[0, 1:] = float("nan")
    spliced = splice(**fields, slots=slots, audio=audio, audio_lengths=audio_lengths)
    assert spliced.inputs_embeds.isfinite().all()


def test_text_only_rows_pass_through_without_audio() -> None:
    spliced, fields, _ = _splice([(5, []), (3, [])])
    assert torch.equal(spliced.inputs_embeds[0], fields["token_embeds"][0])
    assert spliced.is_audio.sum() == 0
    assert spliced.lengths.tolist() == [5, 3]


def test_rows_go_to_the_right_end_for_decoding() -> None:
    spliced, fields, _ = _splice([(3, [(1, 2)]), (2, [])])
    embeds, mask = spliced.left_padded()
    assert mask.long().tolist() == [[1, 1, 1, 1, 1], [0, 0, 0, 1, 1]]
    assert torch.equal(embeds[0], spliced.inputs_embeds[0])
    assert torch.equal(embeds[1, 3:], fields["token_embeds"][1, :2])
    assert embeds[1, :3].eq(0).all()
    ids, _ = pad_left(torch.tensor([[1, 2, 0], [3, 4, 5], [0, 0, 0]]), torch.tensor([2, 3, 0]))
    assert ids.tolist() == [[0, 1, 2], [3, 4, 5], [0, 0, 0]]

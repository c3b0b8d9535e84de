"""The splice: audio frames inserted between token embeddings, by index arithmetic over the whole batch at once."""

from dataclasses import dataclass

import torch
from torch import Tensor

IGNORED = -100  # the label of audio frames and padding; no token id is negative


@dataclass(frozen=True)
class Spliced:
    """What the LLM reads: rows of text and audio, right-padded to the longest. L here counts tokens and frames."""

    inputs_embeds: Tensor  # (B, L, D) zeros over the padding
    lengths: Tensor  # (B,) int64, tokens + frames of each row
    labels: Tensor  # (B, L) int64, the token AT each position (not shifted); IGNORED over audio and padding
    loss_mask: Tensor  # (B, L) float32, 0 over audio, padding and the first token of a row
    is_audio: Tensor  # (B, L) bool
    audio_lengths: Tensor  # (A,) int64, the frames of each segment: in order they are what stands at `is_audio`

    @property
    def attention_mask(self) -> Tensor:
        """Returns (B, L) int64, 1 over tokens and frames, 0 over the padding on the right."""
        positions = torch.arange(self.labels.shape[1], device=self.lengths.device)
        return (positions < self.lengths[:, None]).long()

    def left_padded(self) -> tuple[Tensor, Tensor]:
        """Returns the rows (B, L, D), each moved to the right end as decoding wants them, and their mask (B, L) bool.

        a a t t .         . a a t t
        t t t . .   ->    . . t t t
        """
        return pad_left(self.inputs_embeds, self.lengths)


@dataclass(frozen=True)
class Slots:
    """Where frames go: the frames of segment a stand before token `positions[a]` of row `rows[a]`."""

    rows: Tensor  # (A,) int64
    positions: Tensor  # (A,) int64 in 0..token_lengths[row], non-decreasing inside a row


def splice(
    token_embeds: Tensor,
    token_ids: Tensor,
    token_lengths: Tensor,
    loss_mask: Tensor,
    *,
    slots: Slots,
    audio: Tensor,
    audio_lengths: Tensor,
) -> Spliced:
    """Returns the rows with each segment's frames inserted at its slot; labels and masks move with their tokens.

    Two rows, three segments (a, b in row 0 before tokens 2 and 3; c in row 1 before token 0):

        token_ids   u u A A      loss_mask 0 0 1 1     audio  a a a .    rows      0 0 1
                    u A . .                0 1 . .            b b . .    positions 2 3 0
                                                              c . . .
        inputs      u u a a a A b b A
                    c u A . . . . . .
        labels      u u - - - A - - A        (- and . are IGNORED)
                    - u A . . . . . .
        loss_mask   0 0 0 0 0 1 0 0 1
                    0 0 1 . . . . . .

    So every label stays beside its own token however many audios precede it. The frame or token at t - 1 predicts the
    token at t. A row's first token is never supervised (`Batch.num_target_tokens` does not count it either).

    Shapes: token_embeds (B, L, D); token_ids, loss_mask (B, L); token_lengths (B,); audio (A, T, D), of which
    audio_lengths (A,) frames count; audio is converted to the dtype of token_embeds.
    Source: NeMo SALM's third splice (replace each locator), generalised to segments and without locator tokens.
    """
    num_rows, num_tokens, dim = token_embeds.shape
    device = token_embeds.device
    token_positions, frame_starts = _positions(num_rows, num_tokens, slots=slots, audio_lengths=audio_lengths)
    lengths = token_lengths.index_add(0, slots.rows, audio_lengths)
    width = int(lengths.max())

    # Each row gets one spare cell at its end, where everything that does not count is written and then cut off.
    row_starts = torch.arange(num_rows, device=device) * (width + 1)
    is_token = torch.arange(num_tokens, device=device) < token_lengths[:, None]
    frames = torch.arange(audio.shape[1], device=device)
    is_frame = frames < audio_lengths[:, None]
    token_cells = row_starts[:, None] + torch.where(is_token, token_positions, width)
    frame_cells = row_starts[slots.rows, None] + torch.where(is_frame, frame_starts[:, None] + frames, width)

    def place(blank: Tensor, values: Tensor, cells: Tensor) -> Tensor:
        size = num_rows * (width + 1)
        flat = blank.expand(size, *values.shape[2:]).index_copy(0, cells.flatten(), values.flatten(0, 1))
        return flat.unflatten(0, (num_rows, width + 1))[:, :width]

    embeds = torch.cat([token_embeds.flatten(0, 1), audio.flatten(0, 1).to(token_embeds.dtype)])[None]
    predicted = torch.arange(num_tokens, device=device) > 0
    return Spliced(
        inputs_embeds=place(
            embeds.new_zeros(1, dim), embeds, torch.cat([token_cells.flatten(), frame_cells.flatten()])
        ),
        lengths=lengths,
        labels=place(token_ids.new_full((1,), IGNORED), token_ids, token_cells),
        loss_mask=place(loss_mask.new_zeros(1), loss_mask * predicted, token_cells),
        is_audio=place(is_frame.new_zeros(1), is_frame, frame_cells),
        audio_lengths=audio_lengths,
    )


def _positions(num_rows: int, num_tokens: int, *, slots: Slots, audio_lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the place of each token (B, L) and of each segment's first frame (A,) in its spliced row."""
    inserted = audio_lengths.new_zeros(num_rows, num_tokens + 1)  # frames that stand right before each token
    inserted.index_put_((slots.rows, slots.positions), audio_lengths, accumulate=True)
    tokens = torch.arange(num_tokens, device=audio_lengths.device) + inserted.cumsum(1)[:, :num_tokens]
    same_row = slots.rows[:, None] == slots.rows
    frames_before = (same_row * audio_lengths).tril(-1).sum(1)  # of earlier segments in the same row
    return tokens, slots.positions + frames_before


def pad_left(rows: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Returns rows (B, L, ...), right-padded, moved to the right end with zeros before them; their mask (B, L) bool."""
    width = rows.shape[1]
    column = torch.arange(width, device=rows.device) - (width - lengths[:, None])  # (B, L) place in the original
    mask = column >= 0
    shape = (*mask.shape, *[1] * (rows.dim() - 2))
    return rows.take_along_dim(column.clamp(min=0).view(shape), dim=1) * mask.view(shape), mask

"""Which frame belongs to which token: as a CTC head hears it, or as a known transcript says.

best class   _ _ a a _ b b c _ _         (_ = blank, the last of the V + 1 classes)
own          . . 0 0 . 1 1 2 . .         the token a frame is a part of; -1 at blanks
segment      0 0 0 0 1 1 1 2 . .         the blanks before a token belong to it, those after the last to none
heard            x x   x x x             a token's own frames
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from sonant.errors import ModelError
from sonant.models.encoders.base import valid_mask

OUTSIDE = -1  # the token of blanks, and of what is past a clip's end


def spikes(best: Tensor, lengths: Tensor, *, blank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns segment (A, T) int64 from 0, -1 outside; heard (A, T) bool: a spike's own frames; the segments' number.

    `best` (A, T) is each frame's best class, `lengths` (A,) its real frames. A clip without a spike is one segment,
    heard throughout.
    """
    best = best.masked_fill(~valid_mask(lengths, best.shape[1]), blank)
    is_own = best != blank
    starts = is_own & (best != F.pad(best, (1, 0), value=blank)[:, :-1])
    return segments(torch.where(is_own, starts.cumsum(dim=1) - 1, OUTSIDE), lengths)


def segments(own: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns segment, heard and number as `spikes` does, of frames that `own` (A, T) gives to tokens 0, 1, ..."""
    real = valid_mask(lengths, own.shape[1])
    heard = (own != OUTSIDE) & real
    count = torch.where(heard, own + 1, 0).amax(dim=1) if own.shape[1] else torch.zeros_like(lengths)
    # Read backwards, a blank belongs to the smallest token seen so far.
    ahead = torch.where(heard, own, count[:, None]).flip(1).cummin(dim=1).values.flip(1) if own.shape[1] else own
    silent = (count == 0)[:, None]
    segment = ahead.masked_fill(~real | (~silent & (ahead == count[:, None])), OUTSIDE)
    return segment, heard | (silent & real), count.clamp(min=1)


def mean_by_segment(frames: Tensor, segment: Tensor, used: Tensor, *, size: int) -> Tensor:
    """Returns means (A, size, D) of those `frames` (A, T, D) that are `used` (A, T), by `segment` (A, T).

    A segment without a used frame gives zeros.
    """
    # (A, size, T): which frames each segment averages
    member = (segment[:, None] == torch.arange(size, device=segment.device)[:, None]) & used[:, None]
    weight = member.to(frames.dtype) / member.sum(dim=2, keepdim=True).clamp(min=1)
    return weight.to(frames.dtype) @ frames


@torch.no_grad()
def forced_alignment(log_probs: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
    """Returns own (A, T) int64: the place in its transcript of the token each frame is a part of; -1 at blanks.

    The likeliest of all paths that spell the transcript (CTC's Viterbi path). Shapes: log_probs (A, T, V + 1), blank
    last; lengths (A,) frames; targets (A, N), of which target_lengths (A,) count. Steps through time once for the
    whole batch, forwards and back.

    Raises: ModelError for clips of fewer frames than their transcript needs: a token a frame, and one more between
    equal neighbours.
    """
    _refuse_infeasible(lengths, targets, target_lengths)
    size, blank = log_probs.shape[1], log_probs.shape[2] - 1
    # Between and around the tokens stand blanks: states _ a _ b _; a step goes on by 0, 1 or, past a blank, 2 states.
    states = F.pad(targets[..., None], (1, 0), value=blank).flatten(1)
    states = F.pad(states, (0, 1), value=blank)
    may_skip = (states != blank) & (states != F.pad(states, (2, 0), value=blank)[:, :-2])
    skip = torch.zeros_like(states, dtype=torch.float32).masked_fill_(~may_skip, -torch.inf)
    emitted = log_probs.float().gather(2, states[:, None].expand(-1, size, -1))  # (A, T, 2N + 1)
    # Of the best path to each state, in front of which are two that nothing comes from.
    score = emitted.new_full((len(states), 2 + states.shape[1]), -torch.inf)
    score[:, 2] = 0.0  # before the first frame; a first token is a step of 1
    scores = [score]
    for at_frame in emitted.unbind(1):
        best = torch.maximum(score[:, 2:], score[:, 1:-1]).maximum(score[:, :-2] + skip)
        scores.append(score := F.pad(best + at_frame, (2, 0), value=-torch.inf))
    past = torch.stack(scores)  # (T + 1, A, 2 + 2N + 1)
    at_end = past[lengths, torch.arange(len(states), device=states.device), 2:]
    none, one, two = past[:-1, :, 2:], past[:-1, :, 1:-1], past[:-1, :, :-2] + skip
    steps = torch.where(two > torch.maximum(none, one), 2, (one > none).long())
    steps *= valid_mask(lengths, size).T[..., None]  # what comes after a clip's end leads nowhere
    last = 2 * target_lengths[:, None]
    ends = torch.cat([last, (last - 1).clamp(min=0)], dim=1)
    state = ends.take_along_dim(at_end.take_along_dim(ends, dim=1).argmax(dim=1, keepdim=True), dim=1)
    path = [targets.new_zeros(len(targets), 0)]
    for step in reversed(steps.unbind()):
        path.append(state)
        state = (state - step.gather(1, state)).clamp(min=0)  # a path begins at 0 or 1; a dry run has none, and guesses
    states_passed = torch.cat(path[::-1], dim=1)
    is_own = (states_passed % 2 == 1) & valid_mask(lengths, size)
    return torch.where(is_own, states_passed // 2, OUTSIDE)


def _refuse_infeasible(lengths: Tensor, targets: Tensor, target_lengths: Tensor) -> None:
    equal = (targets[:, 1:] == targets[:, :-1]) & valid_mask(target_lengths - 1, max(targets.shape[1] - 1, 0))
    needed = target_lengths + equal.sum(dim=1)
    if short := (needed > lengths).nonzero().flatten().tolist():
        faults = [f"clip {clip} needs {int(needed[clip])} frames and has {int(lengths[clip])}" for clip in short]
        raise ModelError(f"a transcript is too long to be aligned: {'; '.join(faults)}; leave such rows out")

"""A pointer that moves over the words of a text, one at a time, from a silence before the first to past the last.

letters   _ t h e c a t        slot 0 is the silence before the first word; slot w + 1 is word w and the pause
slot      0 1 1 1 2 2 2        after it
step      0 1 2 3 4 5 6 7
pointer   0 0 1 1 2 2 2 2      from marks in training; at test the head advances it
advance   0 1 0 1 0 0 0 1      past the last slot: speech is over
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sonant.errors import TrainingError
from sonant.models.speech_head.config import SpeechHeadConfig
from sonant.models.speech_head.states import SpokenStates

_SILENCE = 256  # the letter of slot 0; the others are bytes
_PLACES = 16  # letters counted from either end of a word
_AGES = 64  # steps counted since the pointer moved


@dataclass(frozen=True, eq=False)
class Script:
    """What is to be said, as the head reads it; E slots, C letters, the silence included."""

    memory: Tensor  # (S, C, dim) letters in context
    letter_slot: Tensor  # (S, C) int64; -1: padding
    slots: Tensor | None  # (S, E, dim) this slot and the next, for a pointer
    num_slots: Tensor  # (S,) int64

    def select(self, index: Tensor) -> "Script":
        """Returns the rows `index`."""
        slots = None if self.slots is None else self.slots[index]
        return Script(self.memory[index], self.letter_slot[index], slots, self.num_slots[index])


class ScriptReader(nn.Module):
    """Letters by embeddings and two convolutions, with the LLM's layer-normed states of their words added."""

    def __init__(self, config: SpeechHeadConfig, *, llm_dim: int) -> None:
        super().__init__()
        dim = config.dim
        self.letters = nn.Embedding(_SILENCE + 1, dim)
        self.from_start = nn.Embedding(_PLACES, dim)
        self.from_end = nn.Embedding(_PLACES, dim)
        self.convs = nn.ModuleList(nn.Conv1d(dim, dim, 5, padding=2) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.teaches_llm = config.llm_states == "taught"
        self.llm_in = None
        if config.llm_states != "none":
            self.llm_in = nn.Sequential(nn.LayerNorm(llm_dim), nn.Linear(llm_dim, dim))
        self.slots = Slots(dim) if config.pointer else None

    def forward(self, states: SpokenStates) -> Script:
        """Returns the script of each row; what stands in padding changes nothing."""
        silence = states.letters.new_zeros(states.num_rows, 1)
        is_letter = F.pad(states.letters >= 0, (1, 0), value=True)[..., None]
        slot = torch.cat([silence, torch.where(states.letters >= 0, states.letter_word + 1, -1)], dim=1)
        letters = torch.cat([silence + _SILENCE, states.letters.clamp(min=0)], dim=1)
        start, end = _places(slot)
        x = (self.letters(letters) + self.from_start(start) + self.from_end(end)) * is_letter
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = (x + F.gelu(conv(norm(x).masked_fill(~is_letter, 0).transpose(1, 2)).transpose(1, 2))) * is_letter
        num_slots = states.num_words + 1
        size = int(num_slots.max())
        slots = _mean_by(x, slot, size=size)
        if self.llm_in is not None:
            hidden = self.llm_in(states.hidden.float() if self.teaches_llm else states.hidden.float().detach())
            said = _mean_by(hidden, torch.where(states.token_word >= 0, states.token_word + 1, -1), size=size)
            slots = slots + said
            x = (x + said.take_along_dim(slot.clamp(min=0)[..., None], dim=1)) * is_letter
        return Script(x, slot, None if self.slots is None else self.slots(slots), num_slots)

    def at(self, script: Script, pointer: Tensor, age: Tensor) -> Tensor:
        """Returns (S, T, dim) of pointers and of the steps since they moved, (S, T) int64 each."""
        assert script.slots is not None
        assert self.slots is not None
        ages: Tensor = self.slots.ages(age.clamp(max=_AGES - 1))
        return script.slots.take_along_dim(pointer[..., None], dim=1) + ages


class Slots(nn.Module):
    """What a step reads of the slot that the pointer is on, of the one after it, and of the time it has been there."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.this = nn.Linear(dim, dim)
        self.next = nn.Linear(dim, dim)
        self.ages = nn.Embedding(_AGES, dim)

    def forward(self, means: Tensor) -> Tensor:
        """Returns (S, E, dim) of the mean state (S, E, dim) of each slot."""
        mapped: Tensor = self.this(means) + self.next(F.pad(means[:, 1:], (0, 0, 0, 1)))
        return mapped


def pointers(word_starts: Tensor, num_words: Tensor, num_steps: Tensor, *, step_s: float) -> Tensor:
    """Returns the slot (S, T) int64 of each step, by marks (S, W) in seconds; in padding, anything.

    A word begins with the step nearest to its mark. Each slot gets a step at least: marks that fall into one step, or
    too near the end, move by as little as that needs.

    Raises: TrainingError for a word without a mark, or speech of fewer steps than slots.
    """
    size = word_starts.shape[1]
    words = torch.arange(size, device=word_starts.device)
    is_word = words < num_words[:, None]
    if (short := (num_steps <= num_words).nonzero().flatten().tolist()) or (word_starts.isnan() & is_word).any():
        unmarked = (word_starts.isnan() & is_word).any(1).nonzero().flatten().tolist()
        raise TrainingError(
            f"the word pointer needs a start for every word, and a step of {1000 * step_s:g} ms for each; of the "
            f"spoken rows of this batch, {unmarked} have words without a start, and {short} are too short for their "
            "words; add marks by CTC, leave these rows out, or set pointer to false"
        )
    starts = torch.where(is_word, word_starts, 0.0).div(step_s).round().long()
    starts = (starts - words - 1).clamp(min=0).cummax(dim=1).values + words + 1
    starts = torch.minimum(starts, num_steps[:, None] - num_words[:, None] + words)
    steps = torch.arange(int(num_steps.max()), device=word_starts.device)
    return ((starts[:, None] <= steps[:, None]) & is_word[:, None]).sum(-1)


def advances(pointer: Tensor, num_steps: Tensor) -> Tensor:
    """Returns (S, T) float: 1 where the pointer (S, T) moves on after the step, as it does after the last."""
    moved = F.pad(pointer[:, 1:] > pointer[:, :-1], (0, 1))
    steps = torch.arange(pointer.shape[1], device=pointer.device)
    return (moved & (steps < num_steps[:, None]) | (steps == num_steps[:, None] - 1)).float()


def ages(pointer: Tensor) -> Tensor:
    """Returns (S, T) int64, how many steps ago the pointer (S, T) came where it is.

    pointer 0 0 1 1 1 2  ->  0 1 0 1 2 0
    """
    steps = torch.arange(pointer.shape[1], device=pointer.device).expand_as(pointer)
    moved = F.pad(pointer[:, 1:] != pointer[:, :-1], (1, 0))
    return steps - torch.where(moved, steps, 0).cummax(dim=1).values


def _places(slot: Tensor) -> tuple[Tensor, Tensor]:
    """The place of each letter in its word, counted from its start and from its end; (S, C) int64 each."""
    start = ages(slot)
    end = ages(-slot.flip(1)).flip(1)
    return start.clamp(max=_PLACES - 1), end.clamp(max=_PLACES - 1)


def _mean_by(values: Tensor, group: Tensor, *, size: int) -> Tensor:
    """Returns (S, E, dim): the mean of the values (S, N, dim) whose group (S, N) is e; zeros where there is none."""
    member = F.one_hot(group.clamp(min=0), size).to(values.dtype) * (group >= 0)[..., None]  # (S, N, E)
    total = member.transpose(1, 2) @ values
    return total / member.sum(1).clamp(min=1)[..., None]

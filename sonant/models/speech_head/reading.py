"""From what the LLM wrote to what a speech head reads: the states of the spoken tokens in a spliced batch."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sonant.batch import Batch
from sonant.models.speech_head.head import SpeechHead
from sonant.models.speech_head.states import LLMContext, SpokenStates
from sonant.models.splice import Spliced
from sonant.spoken import SpokenBatch


def read_spoken(
    spoken: SpokenBatch, hidden: Tensor, spliced: Spliced, *, speaker: Tensor | None = None
) -> SpokenStates:
    """Returns the states of the spoken rows; `hidden` (B, L, D) of the rows of `spliced`, speaker (S, V).

    The context for frames that are positions of the LLM is for the caller to add.
    """
    columns = _columns(spoken, spliced)
    return SpokenStates(
        hidden=hidden[spoken.row[:, None], columns],
        token_word=torch.where(spoken.token_position >= 0, spoken.token_word, -1),
        letters=spoken.letters,
        letter_word=spoken.letter_word,
        num_words=spoken.num_words,
        speaker=speaker,
    )


def context_lengths(spoken: SpokenBatch, spliced: Spliced) -> Tensor:
    """Returns (S,) how many positions of each row stand before its first frame.

    row       u u a a a A B </s>      A B are spoken
    context   u u a a a A B </s> | begin of speech, frames      the end of the text is no end of speech
    """
    last = torch.where(spoken.token_position >= 0, _columns(spoken, spliced), 0).amax(dim=1)
    return torch.minimum(last + 2, spliced.lengths[spoken.row])


def last_heard(spoken: SpokenBatch, batch: Batch, voices: Tensor) -> Tensor:
    """Returns (S, V): of `voices` (A, V) the one that each row heard last before it speaks; zeros if it heard none."""
    first = torch.where(spoken.token_position >= 0, spoken.token_position, batch.token_ids.shape[1]).amin(dim=1)
    before = (batch.audio_row == spoken.row[:, None]) & (batch.audio_position <= first[:, None])  # (S, A)
    order = torch.arange(1, len(voices) + 1, device=voices.device)
    last = torch.where(before, order, 0).amax(dim=1) if len(voices) else torch.zeros_like(first)
    return torch.cat([voices.new_zeros(1, voices.shape[1]), voices])[last]


def silent_states(
    head: SpeechHead, embeds: Tensor, *, llm: PreTrainedModel, scale: Tensor | None
) -> tuple[SpokenStates, Tensor]:
    """Returns states of one row that says one letter, and one frame (1, 1, M) of it; `embeds` (B, L, D) lie before."""
    one = torch.zeros(1, 1, dtype=torch.int64, device=embeds.device)
    states = SpokenStates(
        hidden=embeds[:1, :1],
        token_word=one,
        letters=one,
        letter_word=one,
        num_words=one[0] + 1,
        speaker=None if head.speaker_dim is None else embeds.new_zeros(1, head.speaker_dim),
        context=LLMContext(llm, embeds[:1, :1], one[0] + 1, None if scale is None else scale[:1]),
    )
    return states, embeds.new_zeros(1, 2 * head.config.frames_per_step, head.mel.num_mels).float()


def _columns(spoken: SpokenBatch, spliced: Spliced) -> Tensor:
    """(S, N) int64: where the spoken tokens stand among tokens and frames; 0 in padding."""
    # A token that is the p-th of its row is the p-th column that is no audio.
    order = spliced.is_audio.to(torch.int8).argsort(dim=1, stable=True)
    return order[spoken.row].take_along_dim(spoken.token_position.clamp(min=0), dim=1)

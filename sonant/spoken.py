"""What a voice learns to say: the tokens and letters of a spoken answer, and the mels of its recording.

closing answer ──spell──▶ token and letter -> word     ┐
its recording ──log_mel─▶ frames                        ├─▶ Spoken per row ──collate_spoken──▶ SpokenBatch
its word marks ─────────▶ start of each word in seconds ┘
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sonant.audio.mel import MelSpec, log_mel
from sonant.chat.messages import AudioPart, Conversation
from sonant.chat.render import Rendered
from sonant.chat.spelling import Spelling, spell, word_starts
from sonant.chat.tokenizer import ChatTokenizer
from sonant.errors import ChatError


@dataclass(frozen=True, eq=False)
class Spoken:
    """The spoken answer of one row: N tokens, C letters, W words, F frames; F is 0 where there is no recording yet."""

    token_position: NDArray[np.int64]  # (N,) of the spoken tokens in the row's token_ids
    token_word: NDArray[np.int64]  # (N,) never -1
    letters: NDArray[np.int64]  # (C,) bytes
    letter_word: NDArray[np.int64]  # (C,)
    mels: Tensor  # (F, M) float32 natural log
    word_starts: NDArray[np.float32]  # (W,) seconds from the clip's start, NaN where unknown

    @classmethod
    def of(
        cls,
        spelling: Spelling,
        *,
        first: int,
        mels: Tensor,
        word_starts: Sequence[float] | None = None,
    ) -> "Spoken":
        """Returns what is spoken of an answer whose tokens stand in their row from position `first` on.

        mels: (F, M); (0, M) where the answer is yet to be said.
        """
        (is_spoken,) = np.nonzero(spelling.token_word >= 0)
        starts = [np.nan] * len(spelling.words) if word_starts is None else word_starts
        return cls(
            token_position=is_spoken + first,
            token_word=spelling.token_word[is_spoken],
            letters=spelling.letters,
            letter_word=spelling.letter_word,
            mels=mels,
            word_starts=np.array(starts, np.float32),
        )


@dataclass(frozen=True, eq=False)
class SpokenBatch:
    """The S spoken rows of the B rows of a batch; padding is -1, but 0 in mels and NaN in word starts.

    ```
    row             0 2            rows 0 and 2 of the batch are spoken
    token_position  4 5 6 -1       their tokens in token_ids[row]
                    9 10 11 12
    token_word      0 0 1 -1
                    0 1 1 2
    ```
    """

    row: Tensor  # (S,) int64, increasing
    token_position: Tensor  # (S, N) int64
    token_word: Tensor  # (S, N) int64
    letters: Tensor  # (S, C) int64 bytes + 0..255
    letter_word: Tensor  # (S, C) int64
    num_words: Tensor  # (S,) int64
    mels: Tensor  # (S, F, M) float32 natural log
    mel_lengths: Tensor  # (S,) int64
    word_starts: Tensor  # (S, W) float32 seconds from the clip's start

    @property
    def num_rows(self) -> int:
        """S."""
        return self.row.shape[0]

    def mapped(self, function: Callable[[Tensor], Tensor]) -> "SpokenBatch":
        """Returns the same with `function` done to every tensor."""
        mapped: dict[str, Any] = {field.name: function(getattr(self, field.name)) for field in fields(self)}
        return SpokenBatch(**mapped)


def load_spoken(
    conversation: Conversation, rendered: Rendered, tokenizer: ChatTokenizer, *, voice: MelSpec
) -> Spoken | None:
    """Returns what a voice learns of a row: its closing answer, if that is spoken; what earlier answers sound like is
    no target.

    Raises: ChatError if the text, its recording or its word marks do not fit each other; AudioError if the recording
    cannot be read.
    """
    if (part := conversation.spoken) is None:
        return None
    answer = rendered.answer
    spelling = spell(
        tokenizer,
        rendered.token_ids[answer.start : answer.stop].tolist(),
        spoken=None if part.transcript is None else conversation.messages[-1].spoken_text,
    )
    if not spelling.words:
        raise ChatError(
            f"spoken audio {part.name}: its text {conversation.reference[:60]!r} has no word once tokenised; a spoken "
            "answer has one word or more; write it, or take the recording away"
        )
    samples = _load(part, voice)
    starts = word_starts(part, spelling.words, duration_s=len(samples) / voice.sample_rate_hz)
    return Spoken.of(spelling, first=answer.start, mels=log_mel(samples, voice), word_starts=starts)


def collate_spoken(spoken: Sequence[Spoken | None]) -> SpokenBatch | None:
    """Returns the spoken ones of B rows side by side; None if there is none."""
    rows = [(row, each) for row, each in enumerate(spoken) if each is not None]
    if not rows:
        return None
    each = [said for _, said in rows]
    return SpokenBatch(
        row=torch.tensor([row for row, _ in rows]),
        token_position=_padded([said.token_position for said in each], -1),
        token_word=_padded([said.token_word for said in each], -1),
        letters=_padded([said.letters for said in each], -1),
        letter_word=_padded([said.letter_word for said in each], -1),
        num_words=torch.tensor([len(said.word_starts) for said in each]),
        mels=pad_sequence([said.mels for said in each], batch_first=True),
        mel_lengths=torch.tensor([len(said.mels) for said in each]),
        word_starts=_padded([said.word_starts for said in each], float("nan")),
    )


def spoken_mels(part: AudioPart, voice: MelSpec) -> Tensor:
    """Returns the natural log mels (F, M) of what is said in one recording."""
    return log_mel(_load(part, voice), voice)


def _load(part: AudioPart, voice: MelSpec) -> Tensor:
    samples = part.load(sample_rate_hz=voice.sample_rate_hz)
    return torch.from_numpy(samples)


def _padded(rows: Sequence[NDArray[Any]], value: float) -> Tensor:
    return pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True, padding_value=value)

"""From a conversation to token ids, loss mask and audio slots (first cut: to be filled within minutes)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sonant.chat.messages import AudioPart, Conversation
from sonant.chat.tokenizer import ChatTokenizer


@dataclass(frozen=True)
class Slot:
    """A place where audio is heard: its frames come before `token_ids[position]`."""

    position: int
    audio: AudioPart


@dataclass(frozen=True, eq=False)
class Rendered:
    """A conversation as tokens."""

    token_ids: NDArray[np.int64]  # (L,)
    loss_mask: NDArray[np.float32]  # (L,)
    slots: tuple[Slot, ...]


def render(
    conversation: Conversation, tokenizer: ChatTokenizer, *, for_generation: bool = False, prompt_weight: float = 0.0
) -> Rendered:
    """Returns the conversation as token ids, loss mask and slots."""
    raise NotImplementedError

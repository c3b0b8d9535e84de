"""What a server is asked and what it answers with, piece by piece."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sonant.chat.messages import Conversation
from sonant.errors import RequestError
from sonant.generate.reply import SpokenReply
from sonant.generate.sampling import GenerationConfig

Reason: TypeAlias = Literal["stop", "length"]


@dataclass(frozen=True)
class Question:
    """A conversation to be answered.

    What is drawn depends on `config.seed` and the conversation's id: the same two give the same answer.

    Raises: RequestError for an empty stop string, or a given answer that is not to be said.
    """

    conversation: Conversation
    config: GenerationConfig
    stop: tuple[str, ...] = ()  # strings that end an answer; they are no part of it
    top_logprobs: int | None = None  # scores of each token, and of so many that might have stood there; None: no scores
    spoken: bool = False  # said aloud, too
    answer: str | None = None  # what is to be said, in place of what the model would write
    fit: bool = False  # `config.max_new_tokens` is no more than a bound: what the LLM's context leaves will do

    def __post_init__(self) -> None:
        if "" in self.stop:
            raise RequestError("a stop string is empty; give one character or more, or leave it out")
        if self.answer is not None and not self.spoken:
            raise RequestError("an answer is given and is not to be said aloud; set spoken, or leave the answer out")


@dataclass(frozen=True)
class TokenScore:
    """A token and how likely the model found it, before temperature and the like."""

    text: str  # a character that is not whole in this token is U+FFFD
    bytes: bytes
    logprob: float  # natural logarithm
    top: "tuple[TokenScore, ...]" = ()  # the likeliest in its place, best first


@dataclass(frozen=True)
class TextDelta:
    """The next characters of an answer; `tokens`, if scores were asked for, are those that came with them."""

    text: str
    tokens: Sequence[TokenScore] = ()


@dataclass(frozen=True, eq=False)
class SoundDelta:
    """The next samples of an answer, (S,) float32."""

    samples: NDArray[np.float32]
    sample_rate_hz: int


@dataclass(frozen=True, eq=False)
class Finished:
    """The end of an answer, and all of it: the last event."""

    text: str  # what the text deltas are, joined; of a given answer that answer
    reason: Reason  # "length": cut off at max_new_tokens, or in a loop
    prompt_tokens: int  # tokens and frames that the LLM read
    completion_tokens: int  # tokens that it drew, the end of turn included
    spoken: SpokenReply | None = None


Event: TypeAlias = TextDelta | SoundDelta | Finished

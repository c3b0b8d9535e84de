"""From a conversation to token ids, loss mask and audio slots: one road for training and serving.

    user("Say: ", audio, "?"), assistant("hi")

    glue                  text      slot  text  glue                                text  glue
    <|im_start|> user ⏎   S a y :    │    ?     <|im_end|> ⏎ <|im_start|> assistant ⏎  h i  <|im_end|> ⏎
    0            0    0   0 0 0 0    │    0     0          0 0            0         0  1 1  1          0   loss_mask

Glue is tokenised with special tokens, every text part on its own without, so text can never close a turn. An audio part
is a position between tokens, with no placeholder that text could forge. A space that the template puts before a message
goes to its first text part, because tokenizers write words with the space before them. An assistant's audio part is
spoken, so it has no position: the tokens are those of its text alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sonant.chat.messages import AudioPart, Conversation, Message, TextPart
from sonant.chat.tokenizer import ChatTokenizer
from sonant.errors import ChatError


@dataclass(frozen=True)
class Slot:
    """A place where audio is heard: its frames are inserted before `token_ids[position]`."""

    position: int
    audio: AudioPart


@dataclass(frozen=True, eq=False)
class Rendered:
    """A conversation as tokens."""

    token_ids: NDArray[np.int64]  # (L,)
    loss_mask: NDArray[np.float32]  # (L,) weight of predicting this token
    slots: tuple[Slot, ...]  # positions never decrease
    answer: range  # positions of the closing answer's text, without what ends the turn; empty if it has none


def render(
    conversation: Conversation, tokenizer: ChatTokenizer, *, for_generation: bool = False, prompt_weight: float = 0.0
) -> Rendered:
    """Returns the conversation as token ids, loss mask and slots.

    for_generation: adds the generation prompt; the result is a prefix of the same conversation with its answer.
    prompt_weight: the loss weight of all that is no answer. Answers, up to and including the token that ends the turn,
    weigh 1; where they are is known by position, so a pad token equal to it makes no difference.

    Raises: ChatError if the template cannot place the messages or never closes an answer, or if spoken audio does not
    fit its text (see `Message.spoken`).
    """
    messages = conversation.messages
    if not messages:
        raise ChatError("the conversation has no messages; it needs one or more")
    if for_generation and messages[-1].role == "assistant":
        raise ChatError("the conversation already ends with an answer; generate from conversation.prompt()")
    roles = tuple(message.role for message in messages)
    around = tokenizer.frame(roles, add_generation_prompt=for_generation)
    tokens = _Tokens(tokenizer, prompt_weight)
    for message, glue, strip in zip(messages, around.glue, around.strips, strict=False):
        texts = strip([part.text for part in message.parts if isinstance(part, TextPart)])
        tokens.add_glue(glue.rstrip(" ") if any(texts) else glue)
        tokens.add_message(message, texts, space=glue[len(glue.rstrip(" ")) :])
    # The space before an answer is part of the answer, in training as above and so here.
    tokens.add_glue(around.glue[-1].rstrip(" ") if for_generation else around.glue[-1])
    return tokens.rendered()


def prompt_ids(conversation: Conversation, tokenizer: ChatTokenizer) -> NDArray[np.int64]:
    """Returns what the last user message asks for in writing, (P,): its texts in double quotes, without any template.

        user("Say: ", audio, "?")   ->   "Say: ?"      a question that is only heard leaves a pair of quotes

    Source: WavLLM (arXiv 2404.00656), released code: what its prompt adapter reads.
    """
    asked = [message for message in conversation.messages if message.role == "user"][-1:]
    texts = [part.text.strip() for message in asked for part in message.parts if isinstance(part, TextPart)]
    return np.array(tokenizer.encode_text('"' + " ".join(text for text in texts if text) + '"'), np.int64)


class _Tokens:
    """The token sequence as it grows."""

    def __init__(self, tokenizer: ChatTokenizer, prompt_weight: float) -> None:
        self.tokenizer = tokenizer
        self.prompt_weight = prompt_weight
        self.token_ids: list[int] = []
        self.loss_mask: list[float] = []
        self.slots: list[Slot] = []
        self.answer = range(0)
        self.is_answering = False

    def add_glue(self, glue: str) -> None:
        """Adds template text; behind an answer it must close the turn, and is supervised up to where it does."""
        ids = self.tokenizer.encode_markup(glue, after=self._last)
        num_supervised = 0
        if self.is_answering:
            end = self.tokenizer.end_of_turn_id
            if self.tokenizer.end_of_turn(glue) != end:
                name = self.tokenizer.hf.convert_ids_to_tokens(end)
                raise ChatError(
                    f"the chat template closes the last answer with {name} but follows an earlier one with {glue!r}; "
                    f"let it close every answer alike"
                )
            num_supervised = ids.index(end) + 1
        self._add(ids[:num_supervised], 1.0)
        self._add(ids[num_supervised:], self.prompt_weight)
        self.is_answering = False

    def add_message(self, message: Message, texts: Sequence[str], *, space: str) -> None:
        """Adds the parts of a message: `texts` for its text parts in order, `space` before the first that has any."""
        self.is_answering = message.role == "assistant"
        is_spoken, start, remaining = message.spoken is not None, len(self.token_ids), iter(texts)
        for part in message.parts:
            if isinstance(part, AudioPart):
                self.slots += [] if is_spoken else [Slot(len(self.token_ids), part)]
            elif text := next(remaining):
                ids = self.tokenizer.encode_text(space + text, after=self._last)
                self._add(ids, 1.0 if self.is_answering else self.prompt_weight)
                space = ""
        self.answer = range(start, len(self.token_ids)) if self.is_answering else range(0)

    def rendered(self) -> Rendered:
        ids, mask = np.array(self.token_ids, np.int64), np.array(self.loss_mask, np.float32)
        return Rendered(ids, mask, tuple(self.slots), self.answer)

    @property
    def _last(self) -> int | None:
        return self.token_ids[-1] if self.token_ids else None

    def _add(self, ids: Sequence[int], weight: float) -> None:
        self.token_ids += ids
        self.loss_mask += [weight] * len(ids)

"""A trained model as one thinks of it: give it a conversation, get a reply."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from sonant.audio.features import FeatureSpec
from sonant.batch import NO_CACHE, CachedFrames, Example, collate, make_example
from sonant.chat.messages import Conversation
from sonant.chat.tokenizer import ChatTokenizer
from sonant.generate.engine import decode, generate
from sonant.generate.sampling import GenerationConfig
from sonant.models.checkpoint import load_speech_lm
from sonant.models.speech_lm import SpeechLM


@dataclass(frozen=True)
class Reply:
    """What the model said: its text, its tokens (stop token left out), and whether it came to an end by itself."""

    text: str
    token_ids: tuple[int, ...]
    finished: bool


class Assistant:
    """A speech LM with its tokenizer, in eval mode; frozen encoders may have their frames `cached`."""

    def __init__(
        self,
        model: SpeechLM,
        tokenizer: ChatTokenizer,
        *,
        cached: Mapping[FeatureSpec, CachedFrames] = NO_CACHE,
    ) -> None:
        self.model, self.tokenizer, self.cached = model.eval(), tokenizer, cached

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str], *, device: str = "cpu") -> "Assistant":
        """Returns the assistant saved in `folder`. Raises: CheckpointError if it is missing or damaged."""
        return cls(load_speech_lm(folder).to(device), ChatTokenizer.from_folder(folder))

    def reply(self, conversation: Conversation, *, config: GenerationConfig | None = None, lora: bool = True) -> Reply:
        """Returns the answer to a conversation that ends with a user's turn; with `lora=False` the base LLM's."""
        return self.replies([conversation], config=config, lora=lora)[0]

    def replies(
        self,
        conversations: Sequence[Conversation],
        *,
        config: GenerationConfig | None = None,
        lora: bool = True,
        batch_size: int = 32,
        progress: Callable[[int], None] = lambda done: None,
    ) -> list[Reply]:
        """Returns the answers in the order of the questions. `progress(n)` is called after each batch of n.

        Questions are batched by length; an answer does not depend on the company it was computed in.
        """
        examples = [self.example(c) for c in conversations]
        order = sorted(range(len(examples)), key=lambda i: (examples[i].audio_duration_s, len(examples[i].token_ids)))
        replies: dict[int, Reply] = {}
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = collate([examples[i] for i in chosen]).to(self.device)
            said = generate(
                self.model, batch, config=config or GenerationConfig(), stop_ids=self.tokenizer.stop_ids, lora=lora
            )
            replies |= {i: self._reply(ids) for i, ids in zip(chosen, said, strict=True)}
            progress(len(chosen))
        return [replies[i] for i in range(len(examples))]

    def stream(
        self, conversation: Conversation, *, config: GenerationConfig | None = None, lora: bool = True
    ) -> Iterator[str]:
        """Yields the answer piece by piece; the pieces joined are the reply's text."""
        batch = collate([self.example(conversation)]).to(self.device)
        steps = decode(
            self.model, batch, config=config or GenerationConfig(), stop_ids=self.tokenizer.stop_ids, lora=lora
        )
        said: list[int] = []
        shown = ""
        for step in steps:
            said.append(int(step.token_ids[0]))
            text = self._reply(said).text
            # A character that is still missing bytes decodes to U+FFFD: wait until it is whole.
            if text.startswith(shown) and not text.endswith("\ufffd"):
                yield text[len(shown) :]
                shown = text
        yield self._reply(said).text[len(shown) :]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.llm.parameters()).device

    def example(self, conversation: Conversation) -> Example:
        """Returns a question as the model reads it, recordings loaded. Raises: ChatError or AudioError."""
        specs = self.model.specs_given(self.cached)
        return make_example(conversation, self.tokenizer, specs, for_generation=True, cached=self.cached)

    def _reply(self, ids: Sequence[int]) -> Reply:
        finished = bool(ids) and ids[-1] in self.tokenizer.stop_ids
        kept = tuple(ids[:-1] if finished else ids)
        # Space-glued templates ([INST]) leave the space before an answer to the answer.
        return Reply(text=self.tokenizer.decode(kept).strip(), token_ids=kept, finished=finished)

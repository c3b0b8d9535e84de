"""A trained model as one thinks of it: give it a conversation, get a reply."""

import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch

from sonant.audio.features import FeatureSpec
from sonant.batch import NO_CACHE, CachedFrames, Example, collate, make_example
from sonant.chat.messages import Conversation
from sonant.chat.tokenizer import ChatTokenizer
from sonant.generate.engine import decode, generate
from sonant.generate.reply import Reply, SoundChunk, SpokenReply, TextPiece
from sonant.generate.sampling import GenerationConfig
from sonant.generate.speak import Voice
from sonant.generate.writing import Writing
from sonant.models.checkpoint import load_speech_lm
from sonant.models.device import device_named
from sonant.models.speech_lm import SpeechLM
from sonant.models.vocoders.base import Vocoder

_BATCHES_AT_A_TIME = 16  # whose rows are sorted by length: enough for little padding, and few enough for any memory


class Assistant:
    """A speech LM with its tokenizer, in eval mode; frozen encoders may have their frames `cached`.

    vocoder: what makes sound of what a model with a speech head says (see `sonant.generate.speak.Voice`).
    """

    def __init__(
        self,
        model: SpeechLM,
        tokenizer: ChatTokenizer,
        *,
        cached: Mapping[FeatureSpec, CachedFrames] = NO_CACHE,
        vocoder: Vocoder | str | None = None,
    ) -> None:
        self.model, self.tokenizer, self.cached, self._vocoder = model.eval(), tokenizer, cached, vocoder

    @classmethod
    def from_folder(
        cls, folder: str | os.PathLike[str], *, device: str = "cpu", vocoder: Vocoder | str | None = None
    ) -> "Assistant":
        """Returns the assistant saved in `folder`.

        Raises: CheckpointError if it is missing or damaged, ModelError for a device that is not here.

        device: as `sonant.models.device.device_named` knows it.
        vocoder: None takes the one in `folder`/vocoder, if there is one.
        """
        where = device_named(device)
        model = load_speech_lm(folder).to(where)
        own = Path(folder) / "vocoder"
        vocoder = str(own) if vocoder is None and own.is_dir() else vocoder
        return cls(model, ChatTokenizer.from_folder(folder), vocoder=vocoder)

    @cached_property
    def voice(self) -> Voice:
        """What says answers. Raises: RequestError if the model has no voice, or the vocoder does not fit it."""
        return Voice(self.model, self.tokenizer, vocoder=self._vocoder)

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

        Questions are batched by length; an answer does not depend on the company it was computed in. No more than the
        recordings of a few batches are held at a time.
        """
        config = config or GenerationConfig()
        replies: dict[int, Reply] = {}
        for asked in self._batches(conversations, batch_size):
            replies |= zip(asked, self._answers([*asked.values()], config, lora=lora), strict=True)
            progress(len(asked))
        return [replies[i] for i in range(len(conversations))]

    def stream(
        self, conversation: Conversation, *, config: GenerationConfig | None = None, lora: bool = True
    ) -> Iterator[str]:
        """Yields the answer piece by piece; the pieces joined are the reply's text."""
        for piece in self._pieces(self.example(conversation), config or GenerationConfig(), lora=lora):
            yield piece.text

    def speak(
        self, conversation: Conversation, *, config: GenerationConfig | None = None, lora: bool = True
    ) -> SpokenReply:
        """Returns the answer to a conversation, said aloud. Raises: RequestError if the model has no voice."""
        return self.speak_all([conversation], config=config, lora=lora)[0]

    def speak_all(
        self,
        conversations: Sequence[Conversation],
        *,
        config: GenerationConfig | None = None,
        answers: Sequence[str] | None = None,
        lora: bool = True,
        batch_size: int = 32,
        progress: Callable[[int], None] = lambda done: None,
    ) -> list[SpokenReply]:
        """Returns the answers, said aloud, in the order of the questions; batched and counted as `replies` does.

        answers: what to say, in place of what the model would write.

        Raises: RequestError if the model has no voice, or speech might not fit the LLM that makes it.
        """
        voice, config = self.voice, config or GenerationConfig()
        replies: dict[int, SpokenReply] = {}
        for asked in self._batches(conversations, batch_size):
            began, examples = time.perf_counter(), [*asked.values()]
            if answers is None:
                written = self._answers(examples, config, lora=lora)
            else:
                written = [self.given(example, answers[i]) for i, example in asked.items()]
            said = voice.say(examples, written, began=began, seed=config.seed, lora=lora)
            replies |= zip(asked, said, strict=True)
            progress(len(asked))
        return [replies[i] for i in range(len(conversations))]

    def stream_speech(
        self, conversation: Conversation, *, config: GenerationConfig | None = None, lora: bool = True
    ) -> Iterator[TextPiece | SoundChunk | SpokenReply]:
        """Yields the answer as it is written, then its sound as it is made, in the end all of it.

        Sound begins when the text is complete. Raises: as `speak_all`.
        """
        voice, config, began = self.voice, config or GenerationConfig(), time.perf_counter()
        asked = self.example(conversation)
        reply = yield from self._pieces(asked, config, lora=lora)
        yield from voice.stream(asked, reply, began=began, seed=config.seed, lora=lora)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.llm.parameters()).device

    def example(self, conversation: Conversation) -> Example:
        """Returns a question as the model reads it, recordings loaded. Raises: ChatError or AudioError."""
        specs = self.model.specs_given(self.cached)
        return make_example(conversation, self.tokenizer, specs, for_generation=True, cached=self.cached)

    def _batches(self, conversations: Sequence[Conversation], size: int) -> Iterator[dict[int, Example]]:
        """Yields number -> row, those of like length together; rows are made when their turn is near."""
        for start in range(0, len(conversations), _BATCHES_AT_A_TIME * size):
            several = conversations[start : start + _BATCHES_AT_A_TIME * size]
            rows = {start + index: self.example(each) for index, each in enumerate(several)}
            order = sorted(rows, key=lambda i: (rows[i].audio_duration_s, len(rows[i].token_ids)))
            yield from ({i: rows[i] for i in order[at : at + size]} for at in range(0, len(order), size))

    def _answers(self, asked: Sequence[Example], config: GenerationConfig, *, lora: bool) -> list[Reply]:
        batch = collate(asked).to(self.device)
        said = generate(self.model, batch, config=config, stop_ids=self.tokenizer.stop_ids, lora=lora)
        return [self.written(ids) for ids in said]

    def _pieces(self, asked: Example, config: GenerationConfig, *, lora: bool) -> Generator[TextPiece, None, Reply]:
        """Yields the answer piece by piece and returns all of it."""
        batch = collate([asked]).to(self.device)
        said, writing = list[int](), Writing(self.tokenizer)
        for step in decode(self.model, batch, config=config, stop_ids=self.tokenizer.stop_ids, lora=lora):
            said.append(int(step.token_ids[0]))
            if said[-1] not in self.tokenizer.stop_ids:
                yield TextPiece(writing.push(said[-1]))
        yield TextPiece(writing.end())
        return self.written(said)

    def written(self, ids: Sequence[int]) -> Reply:
        """Returns the answer that these tokens are, as they were drawn."""
        finished = bool(ids) and ids[-1] in self.tokenizer.stop_ids
        kept = tuple(ids[:-1] if finished else ids)
        # Space-glued templates ([INST]) leave the space before an answer to the answer.
        return Reply(text=self.tokenizer.decode(kept).strip(), token_ids=kept, finished=finished)

    def given(self, asked: Example, text: str) -> Reply:
        """Returns a text as if the model had written it when it was asked."""
        ids = self.tokenizer.encode_text(text, after=int(asked.token_ids[-1]))
        return Reply(text, tuple(ids), finished=True)

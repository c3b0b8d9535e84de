"""Mixed-modal rows: chats in which sentences of the user's turns are spoken.

    faithful   "A. B. C. D."  ─▶  "A." ♪B. C.♪ "D."            one run of one turn; at most two variants
    best       "A.⏎B.", "C."  ─▶  ♪A.♪ "⏎" ♪B.♪, ♪C.♪          every sentence of every turn; drawn in training

Source: VoiceTextBlender (arXiv 2410.17485) §3 and its authors' code, which draws without a seed, maybe the same span
twice, and loses line breaks where nothing is spoken. `faithful` keeps the distribution and the joining by spaces, but
is seeded, draws two different spans, counts what it leaves out, and splits by rules instead of NLTK's punkt. How `best`
is drawn in training is told in `sonant.data.respan`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from sonant.chat.messages import Conversation, TextPart, assistant, user
from sonant.chat.tokenizer import ChatTokenizer
from sonant.config import Config
from sonant.data.languages import base_language
from sonant.data.shards import Job, row_rng
from sonant.data.sources.base import Dropped
from sonant.errors import ConfigError
from sonant.synth.sentences import sentences
from sonant.synth.tts import Synthesizer
from sonant.synth.voices import Voices
from sonant.synth.voicing import Clips, Draft, Range, manner_of, provenance_of, voiced

PUBLISHED_CATEGORIES = (
    *("Brainstorming", "Planning", "Advice seeking", "Role playing", "Reasoning", "Data analysis", "Editing"),
    *("Creative writing", "Information seeking"),
)
Span = tuple[int, int]  # the first sentence, and the one behind the last


class BestConfig(Config):
    """What of a chat is spoken, and how."""

    seed: int = 0
    language: str = "en"  # of rows that name none
    max_words: int = Field(60, gt=0)  # of a sentence; longer ones stay written
    rates: Range = (1, 1)  # bounds between which each speaker's is drawn; not every engine can
    pitches: Range = (1, 1)


class FaithfulConfig(Config):
    """The published filters; lengths are in tokens of the tokenizer, special ones counted."""

    seed: int = 0
    language: str = "en"  # the only one kept; also that of rows that name none
    category_key: str = "task_category"  # of the source row; Magpie's name
    categories: tuple[str, ...] = PUBLISHED_CATEGORIES
    instruction_tokens: int = Field(128, gt=0)  # fewer than this
    response_tokens: int = Field(1024, gt=0)  # fewer than this


@dataclass(frozen=True)
class Best:
    """Speaks every sentence that can be said, of every user turn, as an optional clip; one row, one speaker.

    Raises: ConfigError if the bounds of rate or pitch are in the wrong order.
    """

    engine: Synthesizer
    voices: Voices
    config: BestConfig = field(default_factory=BestConfig)
    name: str = "mixed-modal best"

    def __post_init__(self) -> None:
        for name, (lowest, highest) in (("rates", self.config.rates), ("pitches", self.config.pitches)):
            if lowest > highest:
                raise ConfigError(f"{name} {lowest:g} {highest:g}: write the lowest first, then the highest")

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything that the rows depend on besides the source."""
        return _settings(self.config, self.engine, self.voices)

    def build(self, jobs: Sequence[Job], *, clips: Path) -> Iterator[Conversation | Dropped]:
        """Yields one row, or what was dropped, for each job."""
        made = Clips(self.engine, clips)
        yield from made.finished([self._draft(job, made) for job in jobs])

    def _draft(self, job: Job, clips: Clips) -> Draft:
        row, config = job.row, self.config
        if reason := unusable(row):
            return Dropped(job.place, reason)
        rng = row_rng(config.seed, job.index)
        try:
            manner = manner_of(
                row, self.voices, rng, language=config.language, rates=config.rates, pitches=config.pitches
            )
        except ConfigError as error:
            return Dropped(job.place, str(error))

        made = voiced(
            row, lambda text: clips.part(text, manner, optional=True) if _words(text) <= config.max_words else None
        )
        if not made.heard_parts:
            return Dropped(job.place, "no sentence can be said")
        extra = {**row.extra, "provenance": provenance_of(row, self.engine, manner, seed=config.seed)}
        return job.place, replace(
            made,
            id=row.id or f"{job.index:07}",
            task="mixed_modal",
            language=manner.language,
            speaker=manner.voice,
            extra=extra,
        )


@dataclass(frozen=True)
class Faithful:
    """Speaks one run of sentences of a single-turn chat; a chat of two sentences or more makes two rows."""

    engine: Synthesizer
    voices: Voices
    tokenizer: ChatTokenizer
    tokenizer_name: str
    config: FaithfulConfig = field(default_factory=FaithfulConfig)
    name: str = "mixed-modal faithful"

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything that the rows depend on besides the source."""
        return {**_settings(self.config, self.engine, self.voices), "tokenizer": self.tokenizer_name}

    def build(self, jobs: Sequence[Job], *, clips: Path) -> Iterator[Conversation | Dropped]:
        """Yields up to two rows, or what was dropped, for each job."""
        made = Clips(self.engine, clips, suffix=".wav")
        yield from made.finished([draft for job in jobs for draft in self._drafts(job, made)])

    def _drafts(self, job: Job, clips: Clips) -> Iterator[Draft]:
        if reason := self._unwanted(job.row):
            yield Dropped(job.place, reason)
            return
        rng = row_rng(self.config.seed, job.index)
        pieces = _pieces(job.row.messages[-2].text)
        if not pieces:
            yield Dropped(job.place, "no sentence can be said")
        for number, span in enumerate(draw_spans(len(pieces), rng)):
            try:
                yield self._variant(job, number, pieces, span, rng=rng, clips=clips)
            except ConfigError as error:
                yield Dropped(job.place, str(error))

    def _variant(
        self, job: Job, number: int, pieces: list[str], span: Span, *, rng: np.random.Generator, clips: Clips
    ) -> Draft:
        row = job.row
        manner = manner_of(row, self.voices, rng, language=self.config.language)
        before, spoken, after = (" ".join(p) for p in (pieces[: span[0]], pieces[slice(*span)], pieces[span[1] :]))
        clip = clips.part(spoken, manner)
        if clip is None:
            return Dropped(job.place, "no sentence can be said", spoken)
        texts = (TextPart(f"{before} ") if before else None, clip, TextPart(f" {after}") if after else None)
        provenance = provenance_of(row, self.engine, manner, seed=self.config.seed)
        return job.place, replace(
            row,
            messages=(user(*(part for part in texts if part)), assistant(row.reference)),
            id=f"{row.id or f'{job.index:07}'}-{number}",
            task="mixed_modal",
            language=manner.language,
            speaker=manner.voice,
            extra={**row.extra, "span": [*span, len(pieces)], "provenance": provenance},
        )

    def _unwanted(self, row: Conversation) -> str:
        """Why the published filters leave a row out; "" if they do not."""
        config, texts = self.config, [message.text for message in row.messages if message.role != "system"]
        if reason := unusable(row):
            return reason
        if len(texts) != 2 or any(message.text for message in row.messages[:-2]):
            return "not a single turn without a system message"
        if base_language(row.language or config.language) != config.language:
            return "another language"
        if row.extra.get(config.category_key) not in config.categories:
            return "another category" if config.category_key in row.extra else f"no {config.category_key}"
        limits = {"instruction": config.instruction_tokens, "response": config.response_tokens}
        for (name, limit), text in zip(limits.items(), texts, strict=True):
            if len(self.tokenizer.hf(text)["input_ids"]) >= limit:
                return f"{name} of {limit} tokens or more"
        return ""


def unusable(row: Conversation) -> str:
    """Returns why nothing of a row can be spoken; "" if something may be."""
    if row.heard_parts:
        return "has audio already"
    if not any(message.role == "user" and message.text.strip() for message in row.messages):
        return "no text of a user"
    return "" if row.reference else "no answer at its end"


def draw_spans(num: int, rng: np.random.Generator) -> list[Span]:
    """Returns min(num, 2) different runs of `num` sentences.

    Each begins anywhere and ends anywhere behind that, so later sentences are spoken more often than early ones: the
    first with probability 1/n, the last with H_n/n; a run has (n + 3)/4 sentences on average.
    """
    spans: list[Span] = []
    while len(spans) < min(num, 2):
        begin = int(rng.integers(num))
        span = begin, int(rng.integers(begin + 1, num + 1))
        spans += [span] if span not in spans else []
    return spans


def _pieces(text: str) -> list[str]:
    """The text cut behind its sentences, list marks and code with the sentence that they precede."""
    ends = [sentence.end for sentence in sentences(text)]
    return [text[begin:end].strip() for begin, end in zip([0, *ends], ends, strict=False)]


def _words(text: str) -> int:
    return len(text.split())


def _settings(config: Config, engine: Synthesizer, voices: Voices) -> dict[str, Any]:
    return {"engine": engine.name, "voices": voices.settings, **config.model_dump(mode="json")}

"""The builder behind `sonant synth tts`: texts -> recordings of them, as rows to train on.

    "the dog runs"                  ->  user: "Transcribe: " + clip          assistant: "the dog runs"
    "who sees the dog?" + "anna"    ->  user: clip                           assistant: "anna"

Voice, rate and pitch of a row are drawn from (seed, number of the row), so nothing depends on the shard it is in.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sonant.audio.io import info
from sonant.chat.messages import AudioPart, Conversation, Message, assistant, user
from sonant.chat.spelling import MARKS
from sonant.data.languages import base_language
from sonant.data.prompts import PromptBank, Split, instructed
from sonant.data.shards import Job, row_rng
from sonant.data.sources.base import Dropped
from sonant.errors import ConfigError, EngineError, SynthesisError
from sonant.synth.spoken_form import LANGUAGES, spoken_form
from sonant.synth.tts import SpeechRequest, Synthesizer, marks_of, speak_each
from sonant.synth.voices import Voices

MANY = 8  # if not one of so many texts can be spoken, it is not the texts


@dataclass(frozen=True)
class Delivery:
    """How clips sound: factors on a voice's own rate and pitch are drawn between (lowest, highest).

    Raises: ConfigError if the bounds of a factor are in the wrong order.
    """

    voices: Voices
    rates: tuple[float, float] = (1.0, 1.0)
    pitches: tuple[float, float] = (1.0, 1.0)
    sample_rate_hz: int = 16_000
    suffix: str = ".flac"

    def __post_init__(self) -> None:
        for name, (lowest, highest) in (("rates", self.rates), ("pitches", self.pitches)):
            if not lowest <= highest:
                raise ConfigError(f"{name} {lowest} {highest}: write the lowest first, then the highest")

    def draw(self, rng: np.random.Generator, text: str, language: str | None) -> SpeechRequest:
        """Returns a request to speak. Raises: SynthesisError if there is no text, ConfigError if there is no voice."""
        voice = self.voices.draw(rng, language)
        rate, pitch = (round(float(rng.uniform(*bounds)), 2) for bounds in (self.rates, self.pitches))
        return SpeechRequest(text, voice, rate, pitch)


@dataclass(frozen=True)
class SpokenTexts:
    """Speaks one text of each row.

    text: which one: "user" (the only user turn), "assistant" (the answer), or a key of the row.
    answer: what the row is to be answered with, named likewise; "": what was said, after an instruction of the `bank`.
    """

    synthesizer: Synthesizer
    delivery: Delivery
    bank: PromptBank
    split: Split = "train"
    text: str = "user"
    answer: str = ""
    task: str = "asr"
    language: str | None = None  # of rows that do not tell theirs
    in_words: bool = False  # numbers, maths, dates ... are given to the engine as they are said (`spoken_form`)
    marks: bool = False  # when each word begins is written beside its transcript
    seed: int = 0
    name: str = "tts"

    @property
    def settings(self) -> Mapping[str, Any]:
        """All that the rows depend on."""
        delivery = self.delivery
        return {
            "engine": self.synthesizer.name,
            "voices": delivery.voices.settings,
            "rates": list(delivery.rates),
            "pitches": list(delivery.pitches),
            "sample_rate_hz": delivery.sample_rate_hz,
            "format": delivery.suffix,
            "prompts": {"bank": self.bank.name, "sha256": self.bank.sha256, "split": self.split},
            "columns": {"text": self.text, "answer": self.answer},
            "task": self.task,
            "language": self.language,
            "in_words": self.in_words,
            "seed": self.seed,
            **({"marks": True} if self.marks else {}),  # builds begun before it was known can go on
        }

    def refuse_misspelt(self, source: Iterable[Conversation]) -> None:
        """Raises: ConfigError if no row has a text, or an answer, where they are looked for: all would be dropped."""
        for name in filter(None, (self.text, self.answer)):
            if not any(text_of(row, name) for row in source):
                raise ConfigError(f"no row has a text under {name!r}; choose with --text and --answer")

    def build(self, jobs: Sequence[Job], *, clips: Path) -> Iterator[Conversation | Dropped]:
        """Yields each row with its clip, or why it has none.

        Raises: EngineError if the engine or a voice is missing, or not one of many texts can be spoken.
        """
        plans = [self._plan(job) for job in jobs]
        requests = [plan for plan in plans if isinstance(plan, SpeechRequest)]
        delivery = self.delivery
        spoken = list(
            speak_each(
                self.synthesizer,
                requests,
                folder=clips,
                sample_rate_hz=delivery.sample_rate_hz,
                suffix=delivery.suffix,
                marks=self.marks,
            )
        )
        failures = [str(clip) for clip in spoken if isinstance(clip, SynthesisError)]
        if len(failures) == len(requests) >= MANY:
            raise EngineError(f"none of {len(requests)} texts could be spoken, the first because: {failures[0]}")
        clip_of = iter(spoken)
        for job, plan in zip(jobs, plans, strict=True):
            if isinstance(plan, Dropped):
                yield plan
            elif isinstance(clip := next(clip_of), SynthesisError):
                yield Dropped(job.place, "cannot be spoken", str(clip))
            else:
                yield self._row(job, plan, clip)

    def _plan(self, job: Job) -> SpeechRequest | Dropped:
        if job.row.audio_parts or sum(message.role == "user" for message in job.row.messages) > 1:
            return Dropped(job.place, "several turns or spoken already", "only single written turns can be spoken")
        if self.answer and not text_of(job.row, self.answer).strip():
            return Dropped(job.place, "no answer", f"under {self.answer!r}")
        text = text_of(job.row, self.text)
        language = job.row.language or self.language
        if self.in_words:
            if (base := base_language(language or "")) not in LANGUAGES:
                return Dropped(job.place, f"no spoken form for language {language}")
            text = spoken_form(text, language=base)
        if not text.strip():
            return Dropped(job.place, "no text", f"under {self.text!r}")
        return self.delivery.draw(row_rng(self.seed, job.index), text, language)

    def _row(self, job: Job, request: SpeechRequest, clip: Path) -> Conversation:
        row, text = job.row, text_of(job.row, self.text)
        id = row.id or f"{job.index:07}"
        extra: dict[str, Any] = {} if request.text == text else {"spoken": request.text}
        # Words that are said otherwise than they are written have no marks.
        if self.marks and request.text == text and (words := marks_of(clip)) is not None:
            extra[MARKS] = [list(mark) for mark in words]
        audio = AudioPart(path=str(clip), duration_s=info(clip).duration_s, transcript=text, extra=extra)
        turns: tuple[Message, ...] = (user(audio), assistant(text_of(row, self.answer)))
        if not self.answer:
            turns = (user(*instructed(self.bank.pick(self.split, id), audio)), assistant(text))
        provenance = {
            "engine": self.synthesizer.name,
            "voice": request.voice,
            "rate": request.rate,
            "pitch": request.pitch,
            "seed": self.seed,
            "text_sha256": hashlib.sha256(text.encode()).hexdigest()[:16],
        }
        if not self.answer:
            provenance["prompts"] = self.bank.sha256
        if before := row.extra.get("provenance"):
            provenance["from"] = before
        systems = tuple(message for message in row.messages if message.role == "system")
        return Conversation(
            messages=systems + turns,
            id=id,
            task=self.task,
            language=row.language or self.language,
            speaker=request.voice,
            extra={**row.extra, "provenance": provenance},
        )


def text_of(row: Conversation, name: str) -> str:
    """Returns a text of a row: "user", "assistant", or that under a key; "" if there is none."""
    if name == "user":
        return next((message.text for message in row.messages if message.role == "user"), "")
    if name == "assistant":
        return row.reference
    value = row.extra.get(name, "")
    return value if isinstance(value, str) else ""

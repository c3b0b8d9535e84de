"""Questions and answers about recordings, made from their transcripts by a language model.

    rows ─▶ draw kinds ─▶ write ─▶ drop repeats ─▶ verify: answer blindly, compare ─▶ voice some ─▶ rows
                 └───────────┴───────────┴──────────────────────┴────────▶ Dropped, with the reason

    user: ♪recording♪ "Who wrote the letter?"      assistant: "her brother"

Each arrow is one bulk question to a model about all rows of a shard. Source: VoiceTextBlender (arXiv 2410.17485) §3;
the preset `faithful` is its builder (the wording of the instruction is ours), except that every reply it cannot use is
dropped alone, with a counted reason, where its code skips a batch or crashes.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
import pydantic

from sonant.chat.messages import AudioPart, Conversation, Part, TextPart, assistant, user
from sonant.config import Config
from sonant.data.languages import base_language, language_name
from sonant.data.manifest import clip_duration_s
from sonant.data.shards import Job, row_rng
from sonant.data.sources.base import Dropped
from sonant.errors import ConfigError, RequestError
from sonant.generate.chat_model import ChatAnswer, ChatModel, ChatRequest
from sonant.synth.spoken_form import LANGUAGES, spoken_form
from sonant.synth.spoken_qa_prompts import (
    Counted,
    Found,
    Kind,
    Refused,
    Reply,
    Same,
    load_prompts,
    read_reply,
    shape_of,
)
from sonant.synth.tts import Synthesizer
from sonant.synth.voices import Voices
from sonant.synth.voicing import Clips, Draft, Manner, manner_of

MANY = 8  # if not one of so many questions is answered, it is not the questions
MATCHED: tuple[Kind, ...] = ("extractive", "counting")  # the verifier must find the very words
UNCOMPARED: tuple[Kind, ...] = (*MATCHED, "unanswerable")  # the verdict is clear without asking again
ARTICLES = {
    "en": "a an the",
    "de": "der die das den dem des ein eine einen einem einer eines",
    "fr": "le la les l un une des",
    "es": "el la los las un una unos unas",
}
Share = Annotated[float, pydantic.Field(ge=0, le=1)]
Weight = Annotated[float, pydantic.Field(ge=0)]


class SpokenQAConfig(Config):
    """How questions are made; the presets are in sonant/synth/presets/spoken_qa."""

    types: dict[Kind, Weight]  # 0: never
    num_questions: Annotated[int, pydantic.Field(ge=1)] = 1  # of each recording, of different types
    constrained: bool = True  # replies follow a JSON schema; else the model is only told to write JSON
    verified: bool = True
    voiced_share: Share = 0.0
    target_languages: tuple[str, ...] = ("en", "de", "fr", "es")  # of translations
    language: str = "en"  # of rows that name none
    max_new_tokens: Annotated[int, pydantic.Field(ge=1)] = 512
    temperature: Annotated[float, pydantic.Field(ge=0)] = 0.0
    seed: int = 0

    @pydantic.model_validator(mode="after")
    def _enough_types(self) -> "SpokenQAConfig":
        num_types = sum(weight > 0 for weight in self.types.values())
        if self.num_questions > num_types:
            raise ValueError(f"num_questions must not exceed the number of types, which is {num_types}")
        if "translation" in self.types and len(set(map(base_language, self.target_languages))) < 2:
            raise ValueError("target_languages must be two or more, so that there is one besides the recording's")
        return self


@dataclass(frozen=True)
class Question:
    """A question on its way: what was drawn for it, then what the models said."""

    job: Job
    number: int  # among those about one recording
    kind: Kind
    recording: AudioPart  # with transcript and duration
    language: str
    target_language: str = ""  # its English name; of translations only
    manner: Manner | None = None  # how the question is spoken; None: it stays text
    question: str = ""
    answer: str = ""
    found: str = ""  # the verifier's answer

    @property
    def transcript(self) -> str:
        """What is said in the recording."""
        return self.recording.transcript or ""

    def dropped(self, reason: str, detail: str = "") -> Dropped:
        """Returns what is noted of this question when it is given up."""
        return Dropped(self.job.place, reason, f"{self.kind}: {detail}" if detail else self.kind)


Entries: TypeAlias = list[Question | Dropped]


@dataclass(frozen=True)
class SpokenQA:
    """The builder. `verifier` may be the model itself; `engine` and `voices` are needed if a share is voiced."""

    model: ChatModel
    verifier: ChatModel
    config: SpokenQAConfig
    engine: Synthesizer | None = None
    voices: Voices = field(default_factory=lambda: Voices({}))
    name: str = "spoken-qa"

    def __post_init__(self) -> None:
        if self.config.voiced_share and self.engine is None:
            raise ConfigError(f"voiced_share is {self.config.voiced_share}: name an engine that speaks, or set it to 0")

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything that the rows depend on besides the source."""
        kinds = [*self.config.types, *(("verifier", "equivalence") if self.config.verified else ())]
        settings: dict[str, Any] = self.config.model_dump(mode="json")
        settings |= {"model": self.model.name, "prompts": {kind: load_prompts()[kind].sha256 for kind in kinds}}
        if self.config.verified:
            settings["verifier"] = self.verifier.name
        if self.engine is not None:
            settings |= {"engine": self.engine.name, "voices": self.voices.settings}
        return settings

    def build(self, jobs: Sequence[Job], *, clips: Path) -> Iterator[Conversation | Dropped]:
        """Yields, for each question about each row, a row or why there is none.

        Raises: RequestError if a model cannot be asked, or answers nothing at all.
        """
        entries: Entries = [entry for job in jobs for entry in self._drawn(job)]
        entries = _asked(self.model, entries, self._writing, self._written)
        entries = _without_repeats(entries)
        if self.config.verified:
            entries = _asked(self.verifier, entries, self._finding, _found)
            entries = _asked(self.verifier, entries, self._comparing, _compared, of=lambda q: q.kind not in UNCOMPARED)
        spoken = Clips(self.engine, clips) if self.engine is not None else None
        drafts = [entry if isinstance(entry, Dropped) else self._draft(entry, spoken) for entry in entries]
        if spoken is not None:
            yield from spoken.finished(drafts)
        else:
            yield from (draft if isinstance(draft, Dropped) else draft[1] for draft in drafts)

    def _drawn(self, job: Job) -> Iterator[Question | Dropped]:
        """What is to be asked about a row: all that is random is drawn here, before any model is asked."""
        config, rng = self.config, row_rng(self.config.seed, job.index)
        language = base_language(job.row.language or config.language)
        try:
            recording = _recording(job.row)
        except Refused as refused:
            yield Dropped(job.place, refused.reason, refused.detail)
            return
        kinds = sorted(config.types)  # rows must not depend on the order in a file
        weights = np.array([config.types[kind] for kind in kinds])
        drawn = rng.choice(len(kinds), size=config.num_questions, replace=False, p=weights / weights.sum())
        for number, kind in enumerate(kinds[i] for i in drawn):
            question = Question(job, number, kind, recording, language)
            is_voiced, target = rng.random() < config.voiced_share, rng.random()
            if kind == "translation":
                targets = [code for code in config.target_languages if base_language(code) != language]
                question = replace(question, target_language=language_name(targets[int(target * len(targets))]))
            try:
                manner = manner_of(job.row, self.voices, rng, language=config.language) if is_voiced else None
                yield replace(question, manner=manner)
            except ConfigError as error:
                yield question.dropped(str(error))

    def _request(self, prompt: str, shape: type[Reply] | None, **fields: str) -> ChatRequest:
        schema = None if shape is None else shape.model_json_schema()
        return ChatRequest(load_prompts()[prompt].fill(**fields), schema, max_new_tokens=self.config.max_new_tokens)

    def _writing(self, asked: Question) -> ChatRequest:
        shape = shape_of(asked.kind) if self.config.constrained else None
        fields = {"target_language": asked.target_language} if asked.target_language else {}
        request = self._request(asked.kind, shape, transcript=asked.transcript, **fields)
        return replace(request, temperature=self.config.temperature, seed=self.config.seed + asked.job.index)

    def _written(self, asked: Question, text: str) -> Question | Dropped:
        reply = read_reply(shape_of(asked.kind), text)
        question, answer = reply.question.strip(), str(reply.answer).strip()
        if "none" in (question.lower(), answer.lower()):
            return asked.dropped("nothing to ask (none)")
        if not question or not answer:
            return asked.dropped("question or answer is empty")
        if isinstance(reply, Counted) and len(reply.items) != reply.answer:
            return asked.dropped("count differs from what was counted", f"{answer}, not {', '.join(reply.items)}")
        if asked.kind == "extractive" and not _holds(asked.transcript, answer, language=asked.language):
            return asked.dropped("answer is not in the transcript", answer)
        return replace(asked, question=question, answer=answer)

    def _finding(self, asked: Question) -> ChatRequest:
        return self._request("verifier", Found, transcript=asked.transcript, question=asked.question)

    def _comparing(self, asked: Question) -> ChatRequest:
        fields = {name: getattr(asked, name) for name in ("transcript", "question", "answer", "found")}
        return self._request("equivalence", Same, **fields)

    def _draft(self, asked: Question, spoken: Clips | None) -> Draft:
        row = asked.job.row
        question: Part | None = TextPart(asked.question)
        if asked.manner is not None and spoken is not None:
            question = spoken.part(asked.question, asked.manner)
        if question is None:
            return asked.dropped("the question cannot be said", asked.question)
        return asked.job.place, Conversation(
            messages=(user(asked.recording, question), assistant(asked.answer)),
            id=f"{row.id or f'{asked.job.index:07}'}-q{asked.number}",
            task="spoken_qa",
            language=row.language,
            speaker=row.speaker,
            extra={**row.extra, "question_type": asked.kind, "provenance": self._provenance(asked)},
        )

    def _provenance(self, asked: Question) -> dict[str, Any]:
        row = asked.job.row
        provenance: dict[str, Any] = {
            "model": self.model.name,
            "prompt": load_prompts()[asked.kind].sha256,
            "question_type": asked.kind,
            "verifier": self.verifier.name if self.config.verified else None,
            "seed": self.config.seed,
            "source": {"id": row.id},
            "transcript_sha256": hashlib.sha256(asked.transcript.encode()).hexdigest()[:16],
        }
        if asked.manner is not None and self.engine is not None:
            provenance |= {"engine": self.engine.name, "voice": asked.manner.voice}
        if before := row.extra.get("provenance"):
            provenance["from"] = before
        return provenance


def normalised(text: str, *, language: str) -> str:
    """Returns the words of an answer: lower case, numbers as words, without punctuation and articles."""
    said = spoken_form(text.strip(" .!?"), language=language) if language in LANGUAGES else ""
    words = re.findall(r"\w+", (said or text).casefold())
    articles = ARTICLES.get(language, "").split()
    return " ".join([word for word in words if word not in articles] or words)


def _holds(transcript: str, answer: str, *, language: str) -> bool:
    if language not in LANGUAGES:  # it may write no spaces
        return answer.casefold() in transcript.casefold()
    return f" {normalised(answer, language=language)} " in f" {normalised(transcript, language=language)} "


def _recording(row: Conversation) -> AudioPart:
    """Returns the row's only recording, with its transcript and duration. Raises: Refused."""
    if len(row.heard_parts) != 1:
        raise Refused("not one recording", f"{len(row.heard_parts)} recordings")
    (recording,) = row.heard_parts
    transcript = (recording.transcript or (row.reference if row.task == "asr" else "")).strip()
    if not transcript:
        raise Refused("no transcript", "neither beside the recording nor as the answer of an asr row")
    duration_s = clip_duration_s(recording)
    if not duration_s:
        raise Refused("recording cannot be read", recording.name)
    return replace(recording, transcript=transcript, duration_s=duration_s)


def _asked(
    model: ChatModel,
    entries: Entries,
    request: Callable[[Question], ChatRequest],
    take: Callable[[Question, str], Question | Dropped],
    *,
    of: Callable[[Question], bool] = lambda question: True,
) -> Entries:
    """Returns the entries after `model` was asked about the questions that `of` picks, and `take` read its replies."""
    picked = [entry for entry in entries if isinstance(entry, Question) and of(entry)]
    answers = model.complete(list(map(request, picked)))
    failures = [answer.failure for answer in answers if answer.failure and not answer.text]
    if len(failures) == len(answers) >= MANY:
        raise RequestError(f"{model.name} answered none of {len(answers)} questions, the first because: {failures[0]}")
    taken = (_taken(question, answer, take) for question, answer in zip(picked, answers, strict=True))
    return [next(taken) if isinstance(entry, Question) and of(entry) else entry for entry in entries]


def _taken(
    question: Question, answer: ChatAnswer, take: Callable[[Question, str], Question | Dropped]
) -> Question | Dropped:
    if answer.failure:
        return question.dropped("the model failed", answer.failure)
    try:
        return take(question, answer.text)
    except Refused as refused:
        return question.dropped(refused.reason, refused.detail)


def _found(asked: Question, text: str) -> Question | Dropped:
    found = read_reply(Found, text)
    agrees = found.answerable is (asked.kind != "unanswerable")
    if agrees and asked.kind in MATCHED:
        one, other = (normalised(answer, language=asked.language) for answer in (asked.answer, found.answer))
        agrees = one == other
    asked = replace(asked, found=found.answer if found.answerable else "(not answerable)")
    return asked if agrees else _disagreement(asked)


def _compared(asked: Question, text: str) -> Question | Dropped:
    return asked if read_reply(Same, text).equivalent else _disagreement(asked)


def _disagreement(asked: Question) -> Dropped:
    return asked.dropped("verifier disagrees", f"{asked.question} {asked.answer!r}, verifier: {asked.found!r}")


def _without_repeats(entries: Entries) -> Entries:
    """Drops the questions that were asked about their recording before."""
    seen: set[tuple[int, str]] = set()
    kept: Entries = []
    for entry in entries:
        if isinstance(entry, Question):
            key = entry.job.index, " ".join(re.findall(r"\w+", entry.question.casefold()))
            entry = entry.dropped("question asked before", entry.question) if key in seen else entry
            seen.add(key)
        kept.append(entry)
    return kept

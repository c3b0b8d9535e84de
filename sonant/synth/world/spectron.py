"""The tiny world for Spectron: rows whose answers are spoken, in the voice of what was heard.

    out/clips/<hash>.wav       16 kHz; <hash>.words.json beside it: when each word begins
    out/{train,dev,test}/
      spoken_qa                ♪where does the bear live♪           ->  the bear lives in the barn ♪the same, spoken♪
      continuation             continue: ♪the bear eats honey.♪     ->  text of all, ♪the bear is black♪: one string
      continuation_bounded     the same rows, with " | " between what was heard and what is to be said
      read_aloud               ♪any sentence♪ read aloud: the red cat sleeps  ->  the red cat sleeps ♪the same♪
      asr                      transcribe: ♪the red cat sleeps♪     ->  the red cat sleeps
      text_only                the tasks in writing, for keeping (and measuring) the LLM's skill
    out/{dev,test}/            what is measured apart:
      spoken_qa_heldout, continuation_heldout     about entities that no training audio names
      spoken_qa_unseen, read_aloud_unseen         in voices that are in no training (test only)

The eight voices are trained voices, in all splits: what a voice must do is say new things, not be a new person. They
are the eight of the world's training voices that a speaker encoder tells apart best, each with a pitch and tempo of
its own. `num_voices=1` makes everything in one voice; in the whole world, `speaker` tells whose a row is.

A sentence belongs to one split by its hash: none of dev or test is asked, answered, read or continued in training. An
answer of dev or test about an entity that is not held out may be one that training speaks; the question is not.
"""

import os
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import get_args

import numpy as np
from pydantic import Field

from sonant.audio.io import info, load
from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.chat.spelling import MARKS
from sonant.config import Config
from sonant.errors import SynthesisError
from sonant.synth.continuations import SAMPLE_RATE_HZ, Utterance, joined
from sonant.synth.cutting import CutBy, CutRule
from sonant.synth.tts import SpeechRequest, Synthesizer, clip_path, load_synthesizer, marks_of, speak
from sonant.synth.world.facts import Fact, facts, held_out, names_held_out
from sonant.synth.world.make import Tell, text_rows, write_manifests
from sonant.synth.world.speakers import Speaker, speakers
from sonant.synth.world.tasks import REPEAT
from sonant.synth.world.text import Split, draw, fact_questions, in_split, sentence, words

VOICES = ("john", "quincy", "caleb", "f3", "Henrique", "Gene2", "iven2", "steph3")  # cosines of any two: 0.26 or less
ACCENT = "en-us"  # one for all: what a letter sounds like does not depend on the voice
CONTINUE = ("continue:", "go on:", "say what comes next:")
READ = ("read aloud:", "say aloud:", "read this aloud:")
BOUNDARY = " | "
WORD_LISTS = 0.25  # of read_aloud: random words, for names and words that no answer of training holds
QUESTION_RATES = (0.87, 1.15)  # of a voice's own; it answers as it always speaks
NUM_DEV_HELDOUT = 4  # entities that dev continues about; test, about the others
MIN_TARGET_S = 0.8
CUT_AT_WORDS = 0.25  # of continuations; the others are cut in the pause between sentences


class SpectronSizes(Config):
    """Rows of each kind in one split; a continuation is written in both forms."""

    spoken_qa: int = Field(ge=0)
    continuation: int = Field(ge=0)
    read_aloud: int = Field(ge=0)
    asr: int = Field(default=0, ge=0)
    text_only: int = Field(ge=0)
    spoken_qa_heldout: int = Field(default=0, ge=0)
    continuation_heldout: int = Field(default=0, ge=0)
    unseen: int = Field(default=0, ge=0)  # of spoken_qa_unseen and read_aloud_unseen each


class SpectronWorldConfig(Config):
    """How much is made; espeak speaks, because it alone tells when words begin."""

    seed: int = 0
    num_workers: int = Field(default=2, gt=0)
    num_voices: int = Field(default=len(VOICES), gt=0, le=len(VOICES))  # the first ones of VOICES
    train: SpectronSizes = SpectronSizes(spoken_qa=3000, continuation=3000, read_aloud=3000, asr=1000, text_only=3000)
    dev: SpectronSizes = SpectronSizes(
        spoken_qa=200,
        continuation=200,
        read_aloud=200,
        asr=100,
        text_only=600,
        spoken_qa_heldout=100,
        continuation_heldout=100,
    )
    test: SpectronSizes = SpectronSizes(
        spoken_qa=200,
        continuation=200,
        read_aloud=200,
        asr=200,
        text_only=1200,
        spoken_qa_heldout=200,
        continuation_heldout=200,
        unseen=48,
    )


def make_spectron_world(
    out_folder: str | os.PathLike[str],
    *,
    config: SpectronWorldConfig | None = None,
    synthesizer: Synthesizer | None = None,
    tell: Tell = lambda text: None,
) -> dict[str, int]:
    """Returns manifest -> rows, after writing all clips and manifests. Running it again changes nothing.

    Raises: SynthesisError if the engine is missing or fails, or a sentence has no word marks.
    """
    config = config or SpectronWorldConfig()
    synthesizer = synthesizer or load_synthesizer("espeak", num_workers=config.num_workers)
    out = Path(out_folder).absolute()
    counts: dict[str, int] = {}
    for split in get_args(Split):
        plans = {name: list(made) for name, made in _Planner(split, config).all()}
        wanted = [request for made in plans.values() for plan in made for request in plan.requests]
        tell(f"{split}: {len({*wanted})} clips")
        speak(synthesizer, wanted, folder=out / "clips", marks=True)
        clips = _Clips(out / "clips", synthesizer.name)
        rows = {name: [clips.row(plan) for plan in made] for name, made in plans.items()}
        rows["text_only"] = list(text_rows(split, getattr(config, split).text_only, seed=config.seed))
        for name in ("continuation", "continuation_heldout"):
            rows[f"{name}_bounded"] = [_bounded(row) for row in rows[name]]
        # Manifests come last: where one is, its clips are.
        counts |= write_manifests(out, {f"{split}/{name}.jsonl": made for name, made in rows.items()})
    return counts


@dataclass(frozen=True)
class _Plan:
    """A row before it is spoken; what is heard and said are one request where an utterance is to be cut."""

    id: str
    task: str
    heard: SpeechRequest
    said: SpeechRequest | None  # None: the answer is written alone
    before: str = ""  # written before what is heard
    after: str = ""
    cut_by: CutBy = "silence"

    @property
    def requests(self) -> tuple[SpeechRequest, ...]:
        """What must be spoken."""
        return (self.heard,) if self.said is None else (self.heard, self.said)


class _Planner:
    """Decides what is said in a split, by whom and in answer to what."""

    def __init__(self, split: Split, config: SpectronWorldConfig) -> None:
        self.split, self.sizes, self.seed = split, getattr(config, split), config.seed
        self.voices = spoken_by(config.num_voices)
        self.read: dict[Speaker, list[SpeechRequest]] = defaultdict(list)  # sentences, to be heard again

    def all(self) -> Iterator[tuple[str, Iterator[_Plan]]]:
        """Yields manifest -> its rows, but for text_only."""
        sizes, unseen = self.sizes, unseen_voices()
        # In this order: asr asks for sentences that read_aloud has read.
        yield "spoken_qa", self._rows("spoken_qa", sizes.spoken_qa, self._asked)
        yield "continuation", self._rows("continuation", sizes.continuation, self._begun)
        yield "read_aloud", self._rows("read_aloud", sizes.read_aloud, self._read)
        yield "asr", self._rows("asr", sizes.asr, self._written)
        yield "spoken_qa_heldout", self._rows("spoken_qa_heldout", sizes.spoken_qa_heldout, self._asked)
        yield "continuation_heldout", self._rows("continuation_heldout", sizes.continuation_heldout, self._begun)
        yield "spoken_qa_unseen", self._rows("spoken_qa_unseen", sizes.unseen, self._asked, unseen)
        yield "read_aloud_unseen", self._rows("read_aloud_unseen", sizes.unseen, self._read, unseen)

    def _rows(
        self,
        name: str,
        num: int,
        make: Callable[[Speaker, random.Random, _Plan], _Plan],
        voices: tuple[Speaker, ...] | None = None,
    ) -> Iterator[_Plan]:
        rng, voices = random.Random(f"{self.seed} {self.split} spectron {name}"), voices or self.voices
        for index in range(num):
            voice = voices[index % len(voices)]
            blank = _Plan(f"{self.split}-{name}-{index:05}", name.removesuffix("_unseen"), _said("-", voice), None)
            yield make(voice, rng, blank)

    def _asked(self, voice: Speaker, rng: random.Random, plan: _Plan) -> _Plan:
        is_heldout = plan.task.endswith("_heldout")
        known = fact_questions(self.split, held_out=is_heldout)
        fact, question = rng.choice(known)
        while not is_heldout and not self._may_be_said(fact):
            fact, question = rng.choice(known)
        rate = voice.rate * rng.uniform(*QUESTION_RATES)
        return replace(
            plan, heard=_said(question, replace(voice, rate=round(rate, 2))), said=_said(fact.statement, voice)
        )

    def _may_be_said(self, fact: Fact) -> bool:
        """Nobody held out is named, were it as a friend; and training says no sentence of another split."""
        is_own = self.split != "train" or in_split(fact.statement, "train")
        return is_own and not names_held_out(fact.statement)

    def _begun(self, voice: Speaker, rng: random.Random, plan: _Plan) -> _Plan:
        is_heldout = plan.task.endswith("_heldout")
        parts = self._facts(rng, is_heldout) if is_heldout or rng.random() < 0.5 else self._sentences(rng)
        request = _said(". ".join(part.capitalize() for part in parts), voice)
        cut_by: CutBy = "marks" if rng.random() < CUT_AT_WORDS else "silence"
        return replace(plan, heard=request, said=request, before=rng.choice(CONTINUE), cut_by=cut_by)

    def _facts(self, rng: random.Random, is_heldout: bool) -> list[str]:
        """Two facts about one entity: what comes next can be known. In tests few entities have two: then of two."""
        if is_heldout:
            heldout = sorted(held_out())
            entities = heldout[:NUM_DEV_HELDOUT] if self.split == "dev" else heldout[NUM_DEV_HELDOUT:]
            known = [fact for fact in facts() if fact.entity in entities]
        else:
            known = [fact for fact in facts() if self._may_be_said(fact) and in_split(fact.statement, self.split)]
        first = rng.choice(known)
        others = [fact for fact in known if fact.entity == first.entity and fact != first]
        return [first.statement, rng.choice(others or [fact for fact in known if fact != first]).statement]

    def _sentences(self, rng: random.Random) -> list[str]:
        return [self._text(sentence, rng) for _ in range(2)]

    def _read(self, voice: Speaker, rng: random.Random, plan: _Plan) -> _Plan:
        is_list = rng.random() < WORD_LISTS
        said = _said(self._text(_word_list if is_list else sentence, rng), voice)
        plan = replace(plan, heard=self._heard(voice, rng, said), said=said, after=f" {rng.choice(READ)} {said.text}")
        if not is_list and said.text not in _statements():
            self.read[voice].append(said)
        return plan

    def _written(self, voice: Speaker, rng: random.Random, plan: _Plan) -> _Plan:
        request = self._heard(voice, rng)
        if request in self.read[voice]:  # as long as there are others, none is asked for twice
            self.read[voice].remove(request)
        return replace(plan, heard=request, before=rng.choice(REPEAT))

    def _heard(self, voice: Speaker, rng: random.Random, said: SpeechRequest | None = None) -> SpeechRequest:
        """A sentence that the voice has read and is not saying now; where there is none yet, a new one.

        Never a fact: questions of other splits are answered with it, and a clip that is heard stays in its split.
        """
        if known := [request for request in self.read[voice] if request != said]:
            return rng.choice(known)
        while (text := self._text(sentence, rng)) in _statements():
            pass
        return _said(text, voice)

    def _text(self, make: Callable[[random.Random], str], rng: random.Random) -> str:
        """A text of the split of 3 words or more: said in a second or so, and longer."""
        while len((text := draw(make, self.split, rng, heard=True)).split()) < 3:
            pass
        return text


class _Clips:
    """Makes rows of plans, once their clips are spoken."""

    def __init__(self, folder: Path, engine: str) -> None:
        self.folder, self.engine = folder, engine

    def row(self, plan: _Plan) -> Conversation:
        """Returns the row of a plan."""
        heard, text, said = self._part(plan.heard), "", None
        if plan.said is plan.heard:
            heard, said = self._cut(heard, plan)
            text = joined(heard, said, "")
        elif plan.said is not None:
            said = self._part(plan.said)
        text = text or (said or heard).transcript or ""
        asked = [part for part in (plan.before, heard, plan.after) if part]
        answer = assistant(text) if said is None else assistant(text, said)
        return Conversation((user(*asked), answer), id=plan.id, task=plan.task, language="en", speaker=plan.heard.voice)

    def _part(self, request: SpeechRequest) -> AudioPart:
        path = clip_path(self.folder, self.engine, request)
        if (marks := marks_of(path)) is None:
            raise SynthesisError(f"{self.engine} does not tell when the words of {request.text!r} begin")
        # A capital after a full stop makes espeak pause; the tiny world writes none.
        text, extra = request.text.lower(), {MARKS: [[word.lower(), start_s] for word, start_s in marks]}
        return AudioPart(path=str(path), duration_s=round(info(path).duration_s, 4), transcript=text, extra=extra)

    def _cut(self, part: AudioPart, plan: _Plan) -> tuple[AudioPart, AudioPart]:
        assert part.path is not None
        samples, starts = load(part.path), [start_s for _, start_s in part.extra[MARKS]]
        rng = np.random.default_rng(list(plan.id.encode()))
        # A first sentence of less than a second is not cut in its pause, and a fast voice leaves little to say.
        for by, least_s in ((plan.cut_by, MIN_TARGET_S), ("marks", MIN_TARGET_S), ("marks", 0.3)):
            rule = CutRule(by, min_target_s=least_s)
            if (at_s := rule.cut(samples, sample_rate_hz=SAMPLE_RATE_HZ, rng=rng, starts_s=starts)) is not None:
                return Utterance(part, len(samples) / SAMPLE_RATE_HZ, starts).cut(at_s)
        raise SynthesisError(f"{plan.id}: no word of {part.transcript!r} begins where it could be cut")


def spoken_by(num_voices: int = len(VOICES)) -> tuple[Speaker, ...]:
    """Returns the speakers that the world is spoken by, in all splits."""
    of_voice = {speaker.voice: speaker for speaker in speakers("train")}
    return tuple(of_voice[f"{ACCENT}+{variant}"] for variant in VOICES[:num_voices])


def unseen_voices() -> tuple[Speaker, ...]:
    """Returns those of the world's test voices that speak with the same accent and are no near-copy of the eight."""
    throats = {speaker.throat for speaker in spoken_by()}
    same_accent = (speaker for speaker in speakers("test") if speaker.voice.startswith(f"{ACCENT}+"))
    return tuple(speaker for speaker in same_accent if speaker.throat not in throats)


def _said(text: str, speaker: Speaker) -> SpeechRequest:
    """The text as this speaker always says it: the same words, the same sound."""
    volume = min(2.0, speaker.volume)
    return SpeechRequest(text, speaker.voice, rate=speaker.rate, pitch=speaker.pitch, volume=volume)


@cache
def _statements() -> frozenset[str]:
    return frozenset(fact.statement for fact in facts())


def _word_list(rng: random.Random) -> str:
    return " ".join(rng.choices(words(), k=rng.randint(3, 6)))


def _bounded(row: Conversation) -> Conversation:
    """The row with a boundary between what was heard and what is to be said."""
    heard, said = row.heard_parts[0], row.spoken
    assert said is not None
    return replace(row, messages=(row.messages[0], assistant(joined(heard, said, BOUNDARY), said)))

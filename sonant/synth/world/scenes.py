"""What is recorded for WavLLM in the tiny world: clips with everything that is known of them, each for several tasks.

sentence       four sentences in four manners, by two speakers in each: words, German, manner
pair           two such clips of one manner, joined with a pause, in both orders: one speaker or two
question       about a known fact: the answer, in English and German
instruction    "say again ...", "say in german ...": what is to be said
beginning      of a known fact: the whole of it
"""

import hashlib
import os
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sonant.audio.io import load, save
from sonant.chat.messages import AudioPart
from sonant.synth.tts import SpeechRequest, Synthesizer, clip_path, speak
from sonant.synth.world import german as world_german
from sonant.synth.world.facts import Fact, facts, names_held_out
from sonant.synth.world.speakers import MANNERS, Manner, Speaker, manner_request, speakers
from sonant.synth.world.text import Split, digits, draw, fact_questions, in_split, sentence

Kind = Literal["sentence", "pair", "pair_manners", "question", "question_heldout", "instruction", "beginning"]
SAY_AGAIN = ("say again", "repeat")
SAY_GERMAN = ("say in german", "translate")
PAUSE_S = (0.2, 0.5)
SAMPLE_RATE_HZ = 16_000


@dataclass(frozen=True)
class Clip:
    """A recording, and what is right to answer for each thing that can be asked about it."""

    id: str
    kind: Kind
    part: AudioPart
    speaker: str
    answers: Mapping[str, str]
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Said:
    """One stretch of speech: who says what, how, and where it is."""

    text: str
    speaker: Speaker
    manner: Manner
    path: Path


class Recorder:
    """Notes what must be spoken and joined; `record` makes what lacks."""

    def __init__(self, folder: Path, synthesizer: Synthesizer) -> None:
        self.folder, self.synthesizer = folder, synthesizer
        self.requests: list[SpeechRequest] = []
        self._joins: dict[Path, tuple[Path, Path, float]] = {}

    def say(self, text: str, speaker: Speaker, manner: Manner, rng: random.Random) -> _Said:
        """Returns a stretch of speech that `record` will make."""
        request = manner_request(text, speaker, manner, rng)
        self.requests.append(request)
        return _Said(text, speaker, manner, clip_path(self.folder, self.synthesizer.name, request))

    def join(self, first: _Said, second: _Said, rng: random.Random) -> Path:
        """Returns the file of two stretches with a pause of 0.2 to 0.5 s, which `record` will make."""
        pause_s = round(rng.uniform(*PAUSE_S), 2)
        name = hashlib.sha256(f"{first.path.name} {pause_s} {second.path.name}".encode()).hexdigest()[:20]
        path = self.folder / f"{name}.wav"
        self._joins[path] = (first.path, second.path, pause_s)
        return path

    def record(self) -> int:
        """Returns how many files there are, after making those that lack. Raises: SynthesisError."""
        speak(self.synthesizer, self.requests, folder=self.folder)
        for path, (first, second, pause_s) in self._joins.items():
            if not path.exists():
                parts = [load(first), np.zeros(round(pause_s * SAMPLE_RATE_HZ), np.float32), load(second)]
                temporary = path.with_suffix(".part.wav")
                save(temporary, np.concatenate(parts), sample_rate_hz=SAMPLE_RATE_HZ)
                os.replace(temporary, path)
        return len({*self.requests}) + len(self._joins)


def blocks(split: Split, num: int, num_pairs: int, recorder: Recorder, rng: random.Random) -> Iterator[Clip]:
    """Yields 16 sentence clips for each of `num` blocks, and `num_pairs` pairs (or as many as there are) twice.

    In every manner, speaker A says the first two sentences and speaker B the other two; every sentence stands as often
    in a pair of one speaker as in a pair of two.
    """
    pairs_left = num_pairs
    for block in range(num):
        texts = [_sentence(split, rng) for _ in range(4)]
        for manner in MANNERS:
            pair = two_speakers(split, rng)
            said = [recorder.say(text, pair[i // 2], manner, rng) for i, (text, _) in enumerate(texts)]
            name = f"{split}-block{block:04}-{manner}"
            for i, (each, (text, translation)) in enumerate(zip(said, texts, strict=True)):
                answers = {"asr": text, "translation": translation, "manner": manner}
                yield _clip(f"{name}-{i}", "sentence", each, answers)
            for i, (one, two) in enumerate(((0, 1), (2, 3), (0, 3), (2, 1))):
                if pairs_left:
                    pairs_left -= 1
                    yield from _both_orders(f"{name}-pair{i}", said[one], said[two], recorder, rng)


def pairs_of_manners(split: Split, num: int, recorder: Recorder, rng: random.Random) -> Iterator[Clip]:
    """Yields `num` pairs twice whose parts differ in manner; half of them have one speaker."""
    for index in range(0, num, 4):
        texts = [_sentence(split, rng)[0] for _ in range(4)]
        one, two = two_speakers(split, rng)
        first, second = rng.sample(MANNERS, 2)
        people, manners = (one, one, two, two), (first, second, first, second)
        said = [recorder.say(t, who, how, rng) for t, who, how in zip(texts, people, manners, strict=True)]
        for i, (left, right) in enumerate(((0, 1), (2, 3), (0, 3), (2, 1))[: num - index]):
            name = f"{split}-manners{index + i:05}"
            yield from _both_orders(name, said[left], said[right], recorder, rng, kind="pair_manners")


def questions(
    split: Split, num: int, recorder: Recorder, rng: random.Random, *, held_out: bool = False
) -> Iterator[Clip]:
    """Yields spoken questions about known facts; of entities that are held out of speech, or of the others."""
    known = fact_questions(split, held_out=held_out)
    for index in range(num):
        fact, question = rng.choice(known)
        answers = {"asr": question, "answer": fact.statement, "answer_german": world_german.statement(fact)}
        kind: Kind = "question_heldout" if held_out else "question"
        yield _somehow(split, index, kind, answers, recorder, rng)


def instructions(split: Split, num: int, recorder: Recorder, rng: random.Random) -> Iterator[Clip]:
    """Yields clips that say what to do with the sentence, or the digits, that follow in them."""
    for index in range(num):
        if rng.random() < 0.5:
            text = draw(rng.choice((sentence, sentence, digits)), split, rng, heard=True)
            command, done = rng.choice(SAY_AGAIN), text
        else:
            text, done = _sentence(split, rng)
            command = rng.choice(SAY_GERMAN)
        answers = {"asr": f"{command} {text}", "follow": done}
        yield _somehow(split, index, "instruction", answers, recorder, rng)


def beginnings(split: Split, num: int, recorder: Recorder, rng: random.Random) -> Iterator[Clip]:
    """Yields beginnings of known facts: "the bear lives", to be completed to "the bear lives in the barn"."""
    known = [(fact, beginning_of(fact)) for fact in facts()]
    known = [each for each in known if in_split(each[1], split) and not names_held_out(each[0].statement)]
    for index in range(num):
        fact, beginning = rng.choice(known)
        answers = {"asr": beginning, "continuation": fact.statement}
        yield _somehow(split, index, "beginning", answers, recorder, rng)


def beginning_of(fact: Fact) -> str:
    """Returns the statement of a fact without what it states."""
    return fact.statement.removesuffix(fact.value).rstrip()


def two_speakers(split: Split, rng: random.Random) -> tuple[Speaker, Speaker]:
    """Returns two speakers of a split who are heard as different people."""
    one, two = rng.sample(speakers(split), 2)
    while not one.differs(two):
        two = rng.choice(speakers(split))
    return one, two


def _sentence(split: Split, rng: random.Random) -> tuple[str, str]:
    """A sentence of the grammar and its German, naming nobody who is held out."""
    pairs = {}

    def english(rng: random.Random) -> str:
        source, target = world_german.job_pair(rng) if rng.random() < 0.08 else world_german.random_pair(rng)
        pairs[source] = target
        return source

    text = draw(english, split, rng, heard=True)
    return text, pairs[text]


def _somehow(
    split: Split, index: int, kind: Kind, answers: Mapping[str, str], recorder: Recorder, rng: random.Random
) -> Clip:
    """What is to be transcribed, said by anyone in any manner."""
    text = answers["asr"]
    said = recorder.say(text, rng.choice(speakers(split)), rng.choice(MANNERS), rng)
    return _clip(f"{split}-{kind}-{index:05}", kind, said, {**answers, "manner": said.manner})


def _clip(id: str, kind: Kind, said: _Said, answers: Mapping[str, str]) -> Clip:
    part = AudioPart(path=str(said.path), transcript=said.text)
    return Clip(id, kind, part, said.speaker.voice, answers, {"manner": said.manner})


def _both_orders(
    id: str, one: _Said, two: _Said, recorder: Recorder, rng: random.Random, *, kind: Kind = "pair"
) -> Iterator[Clip]:
    """The pair as A B and as B A, so that no order speaks for an answer."""
    is_one = one.speaker == two.speaker
    for order, (first, second) in (("ab", (one, two)), ("ba", (two, one))):
        text = f"{first.text} {second.text}"
        part = AudioPart(path=str(recorder.join(first, second, rng)), transcript=text)
        answers = {"asr": text, "verification": "yes" if is_one else "no"}
        manners = [first.manner, second.manner]
        if first.manner == second.manner:
            answers["manner"] = first.manner
        people = [first.speaker.voice, second.speaker.voice]
        extra = {"pair": id, "speakers": people, "manners": manners}
        yield Clip(f"{id}-{order}", kind, part, people[0], answers, extra)

"""Combined instructions: several things asked at once of one recording, from rows that ask for one each.

    asr          ♪hello♪ -> hello           "To begin, transcribe the clip; then, ignoring the audio, say what is 2 + 2;
    translation  ♪hello♪ -> hallo      ─▶    lastly, translate the clip into German." ♪hello♪
    question     2 + 2? -> 4                 -> Transcript: hello⏎Answer: 4⏎In German: hallo

Independent sub-instructions may come in any order; which orders training never sees is decided by a hash of their names
(`split_of_combination`). Chained ones rest on the answer before ("translate what you wrote"), and come in two forms:
asking for the steps (chain_of_thought) and asking for the last result only (direct), on the same recording.

What can be combined, in which words, is a setting (synth/presets/combined/*.yaml). Every row tells its parts to the
checkers of `sonant.evaluate` in `instructions` (sonant/data/instructions.py).

Source: WavLLM (arXiv 2404.00656) §3 and its published samples; the rows and wordings themselves were not published.
"""

import functools
import hashlib
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

from pydantic import Field

from sonant.chat.messages import Conversation, assistant, user
from sonant.config import Config, load_config, validate
from sonant.data.instructions import Instruction, Kind
from sonant.data.languages import language_name
from sonant.data.prompts import AUDIO, Split, Wordings, fill, instructed, load_prompt_bank
from sonant.data.shards import settings_hash
from sonant.data.sources.base import Dropped
from sonant.errors import ConfigError

PRESETS = Path(__file__).parent / "presets" / "combined"
Recording = tuple[str, float, float | None]  # an audio part's key
NUMBERS = ("one", "two", "three", "four")  # fields of a frame


class SubTask(Config):
    """One thing that can be asked: `task` of the rows it is made from is its name in the settings."""

    kind: Kind
    intro: str  # opens its part of the answer
    phrases: Wordings | str  # inside a sentence: "transcribe the recording"; or the name of a prompt bank
    labels: tuple[str, ...] = ()
    heard: bool = True  # False: made of rows without a recording


class Step(Config):
    """A link of a chain: a task whose answer rests on the step before; without `task`, that answer once more."""

    task: str = ""
    intro: str = ""
    phrases: Wordings | str | None = None  # default: as if it stood alone


class CombinedConfig(Config):
    """What is combined, and in which words."""

    separator: str = "\n"  # between the parts of an answer
    sizes: dict[int, float] = Field({1: 0.1, 2: 0.35, 3: 0.35, 4: 0.2}, min_length=1)  # sub-instructions -> weight
    frames: dict[int, Wordings]  # sub-instructions -> "To begin, {one}; then {two}."
    tasks: dict[str, SubTask]
    chains: dict[str, tuple[Step, ...]] = Field({})


def load_combined(name_or_path: str, *, overrides: Sequence[str] = ()) -> CombinedConfig:
    """Returns a shipped preset ("best", "tiny") or one from a .yaml file. Raises: ConfigError if it cannot be used."""
    path = Path(name_or_path) if name_or_path.endswith((".yaml", ".yml")) else PRESETS / f"{name_or_path}.yaml"
    if path.parent == PRESETS and not path.exists():
        known = ", ".join(sorted(preset.stem for preset in PRESETS.glob("*.yaml")))
        raise ConfigError(f"no preset {name_or_path!r} for combined; presets are {known}; a file ends in .yaml")
    return load_config(CombinedConfig, [path], overrides=overrides)


def split_of_combination(names: Sequence[str]) -> Split:
    """Returns the split that an ordered choice of sub-tasks belongs to, by its hash: 1/16 dev, 1/8 test, else train.

    Those of training (one sub-task alone always) are also asked in dev and test, apart; the others only in their split.
    """
    if len(names) < 2:
        return "train"
    slot = hashlib.sha256("+".join(names).encode()).digest()[0] % 16
    return "dev" if slot == 0 else "test" if slot <= 2 else "train"


@dataclass(frozen=True)
class _Asked:
    """One part of a combined row: what it is called, how it is asked, what the checkers know, and the row it is of."""

    name: str
    phrase: str
    instruction: Instruction
    row: Conversation


class Combiner:
    """Makes combined rows of single ones: rows belong together if they hold the same stretch of the same recording.

    rows: of one split, each a question and an answer; rows without a recording serve tasks that are not `heard`.
    Everything drawn depends on the seed, the recording and its rows. `dropped` tells what is of no use, and why.
    Raises: ConfigError if the settings contradict each other, or no row can be used.
    """

    def __init__(self, rows: Sequence[Conversation], config: CombinedConfig, *, split: Split, seed: int = 0) -> None:
        self.config, self.split, self.seed, self.dropped = config, split, seed, list[Dropped]()
        self._frames = _checked(config, split)
        self._settings = settings_hash(config.model_dump(mode="json"))
        self._recordings: dict[Recording, dict[str, list[Conversation]]] = defaultdict(lambda: defaultdict(list))
        self._written: dict[str, list[Conversation]] = defaultdict(list)
        self._uses: Counter[int] = Counter()
        for index, row in enumerate(rows):
            if reason := self._unusable(row):
                self.dropped.append(Dropped(row.id or f"row {index}", reason))
            elif row.heard_parts:
                self._recordings[row.heard_parts[0].key][row.task].append(row)
            else:
                self._written[row.task].append(row)
        if not self._recordings:
            reasons = ", ".join(sorted({dropped.reason for dropped in self.dropped})) or "there are no rows"
            raise ConfigError(f"no row with a recording can be combined: {reasons}")

    def independent(self, *, unseen: bool, per_recording: int = 1) -> Iterator[Conversation]:
        """Yields combined rows; `unseen` asks in the orders that only this split has, else in those of training.

        A recording whose rows allow no such order gives none. Raises: ConfigError for unseen rows of training.
        """
        if unseen and self.split == "train":
            raise ConfigError("training has no unseen combinations: ask for the seen ones, or for split dev or test")
        wanted = self.split if unseen else "train"
        orders: dict[frozenset[str], dict[int, list[tuple[str, ...]]]] = {}
        for key, of_task in self._recordings.items():
            names = frozenset(of_task)
            if names not in orders:
                orders[names] = self._orders(names, wanted)
            for number in range(per_recording if orders[names] else 0):
                rng = random.Random(f"{self.seed} {unseen} {number} {_named(key)}")
                by_size = orders[names]
                (size,) = rng.choices(list(by_size), weights=[self.config.sizes[size] for size in by_size])
                asked = [self._asked(name, of_task, rng) for name in rng.choice(by_size[size])]
                if row := self._row(asked, task="combined", id=f"{_first_id(asked)}-combined-{int(unseen)}{number}"):
                    yield row

    def chained(self) -> Iterator[Conversation]:
        """Yields two rows, chain_of_thought and direct, for one chain of each recording that has what it needs."""
        for key, of_task in self._recordings.items():
            rng = random.Random(f"{self.seed} chained {_named(key)}")
            able = [
                name
                for name, steps in self.config.chains.items()
                if all(step.task in of_task or not step.task for step in steps)
            ]
            if not able:
                continue
            name = rng.choice(able)
            asked = self._chain(name, of_task, rng)
            pair = f"{_first_id(asked)}-{name}"
            final = {"final": asked[-1].instruction.reference, "pair": pair, "chain": name}
            direct = [self._asked([step.task for step in self.config.chains[name] if step.task][-1], of_task, rng)]
            rows = [
                self._row(parts, task="combined_chained", id=f"{pair}-{form}", extra={"form": form, **final})
                for form, parts in (("chain_of_thought", asked), ("direct", direct))
            ]
            if all(rows):
                yield from filter(None, rows)

    def _unusable(self, row: Conversation) -> str:
        if [message.role for message in row.messages] != ["user", "assistant"] or not row.reference.strip():
            return "not one question and one answer"
        if row.task not in self.config.tasks:
            return f"no sub-task {row.task!r} in the settings"
        if len(row.heard_parts) > 1:
            return "more than one recording"
        if self.config.tasks[row.task].heard != bool(row.heard_parts):
            return "a recording where none is heard" if row.heard_parts else "no recording"
        return ""

    def _orders(self, names: frozenset[str], wanted: Split) -> dict[int, list[tuple[str, ...]]]:
        """Size -> the orders of sub-tasks that a split may ask of a recording, each with one that is heard."""
        found = {}
        for size in self.config.sizes:
            several = permutations(sorted(names | self._written.keys()), size)
            allowed = [each for each in several if names & set(each) and split_of_combination(each) == wanted]
            if allowed:
                found[size] = allowed
        return found

    def _asked(
        self, name: str, of_task: Mapping[str, list[Conversation]], rng: random.Random, *, step: Step | None = None
    ) -> _Asked:
        how = self.config.tasks[name]
        row = rng.choice((of_task if how.heard else self._written)[name])
        fields = _fields(row)
        phrase = rng.choice(self._phrases(step.phrases if step is not None and step.phrases else how.phrases))
        intro = fill((step.intro if step is not None else "") or how.intro, **fields)
        known: dict[str, Any] = {"kind": how.kind, "intro": intro, "reference": row.reference}
        if how.labels:
            known["labels"] = how.labels
        if how.kind == "translation":
            known["language"] = row.extra.get("target_language")
        if "aliases" in row.extra:
            known["aliases"] = row.extra["aliases"]
        if not how.heard:
            known["heard"] = False
        instruction = validate(Instruction, known, where=f"tasks.{name}, row {row.id!r}")
        return _Asked(name, fill(phrase, **fields), instruction, row)

    def _phrases(self, given: Wordings | str) -> tuple[str, ...]:
        return phrases_of(given, self.split)

    def _chain(self, name: str, of_task: Mapping[str, list[Conversation]], rng: random.Random) -> list[_Asked]:
        asked: list[_Asked] = []
        for step in self.config.chains[name]:
            if step.task:
                asked.append(self._asked(step.task, of_task, rng, step=step))
                continue
            assert step.phrases  # as `_checked` saw
            last = asked[-1]
            phrase = rng.choice(self._phrases(step.phrases))
            asked.append(_Asked("again", phrase, last.instruction.model_copy(update={"intro": step.intro}), last.row))
        return asked

    def _row(
        self, asked: Sequence[_Asked], *, task: str, id: str, extra: Mapping[str, Any] = {}
    ) -> Conversation | None:
        """The row, or None if its answer could not be cut into its parts again."""
        instructions = [each.instruction for each in asked]
        if fault := _uncuttable(instructions):
            self.dropped.append(Dropped(id, fault))
            return None
        frames = self._frames[len(asked)]
        number = self._uses[len(asked)] % len(frames)  # in turn, so that every wording is asked equally often
        self._uses[len(asked)] += 1
        heard = next(each.row for each in asked if each.row.heard_parts)
        phrases = dict(zip(NUMBERS, (each.phrase for each in asked), strict=False))
        parts = instructed(_punctuated(frames[number], phrases), heard.heard_parts[0], **phrases)
        answer = self.config.separator.join(f"{each.intro} {each.reference}" for each in instructions)
        sources = list(dict.fromkeys(each.row.id for each in asked))
        note = {
            "combination": [each.name for each in asked],
            "wording": f"{self.split} {number + 1}",
            "instructions": [each.to_json() for each in instructions],
            "provenance": {"builder": "combined", "settings": self._settings, "seed": self.seed, "rows": sources},
        }
        turns = (user(*parts), assistant(answer))
        return Conversation(
            turns, id=id, task=task, language=heard.language, speaker=heard.speaker, extra={**extra, **note}
        )


def _named(recording: Recording) -> str:
    """A recording's name without its folder: a corpus that moves keeps its rows."""
    return f"{Path(recording[0]).name} {recording[1:]}"


def _first_id(asked: Sequence[_Asked]) -> str:
    """What a combined row is named after: the first of its rows that holds a recording."""
    return next(each.row.id for each in asked if each.row.heard_parts)


def _fields(row: Conversation) -> dict[str, str]:
    """What wordings may name: the row's own plain keys, its written question, and the language by its name."""
    fields = {key: value for key, value in row.extra.items() if isinstance(value, str)}
    if "target_language" in fields:
        fields["target_language"] = language_name(fields["target_language"])
    return {"question": row.messages[0].text.strip(), **fields}


def _punctuated(frame: str, phrases: Mapping[str, str]) -> str:
    """The frame without its marks behind phrases that end with their own: "why?;" reads "why?"."""

    def kept(match: re.Match[str]) -> str:
        return match[1] if phrases[match[1][1:-1]].endswith((".", "?", "!")) else match[0]

    return re.sub(rf"(\{{(?:{'|'.join(phrases)})\}})[.,;]", kept, frame)


def _uncuttable(instructions: Sequence[Instruction]) -> str:
    """Why an answer of these parts could not be cut at their intros; "" if it can."""
    intros = [_plain(each.intro) for each in instructions]
    if any(f" {one} " in f" {other} " for one, other in permutations(intros, 2)):
        return "two parts with one intro"
    bodies = [_plain(each.reference) for each in instructions]
    if any(f" {intro} " in f" {body} " for intro in intros for body in bodies):
        return "an answer holds the words of an intro"
    return ""


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def _checked(config: CombinedConfig, split: Split) -> dict[int, tuple[str, ...]]:
    """Returns size -> frames of the split. Raises: ConfigError if sizes, frames, tasks and chains do not fit."""
    longest = [len(steps) for steps in config.chains.values()]
    frames = {}
    for size in {1, *config.sizes, *longest}:
        if not 1 <= size <= len(NUMBERS):
            raise ConfigError(f"{size} sub-instructions in one row: a row has 1 to {len(NUMBERS)}")
        if size not in config.frames:
            raise ConfigError(f"frames: none for {size} sub-instructions; write frames.{size}")
        frames[size] = config.frames[size].by_split(f"frames.{size}")[split]
        fields = {name: f"<{name}>" for name in NUMBERS[:size]}
        for frame in frames[size]:
            if not all(filled in fill(frame, **fields) for filled in fields.values()):
                raise ConfigError(f"frames.{size}: {frame!r} lacks one of {', '.join(fields)}; name each in braces")
    for name, steps in config.chains.items():
        for index, step in enumerate(steps):
            if step.task and step.task not in config.tasks:
                raise ConfigError(f"chains.{name}: no task {step.task!r}; tasks are {', '.join(config.tasks)}")
            if not step.task and (index == 0 or step.phrases is None or not step.intro):
                raise ConfigError(f"chains.{name}: a step without a task repeats: give it phrases and intro, not first")
    for name, given in {name: how.phrases for name, how in config.tasks.items()}.items():
        if any(AUDIO in phrase for phrase in phrases_of(given, split)):
            raise ConfigError(f"tasks.{name}: a phrase places {AUDIO}; only a frame does")
    return frames


def phrases_of(given: Wordings | str, split: Split) -> tuple[str, ...]:
    """Returns the phrases of a split: those written in the settings, or those of the prompt bank that they name."""
    return _bank(given).of(split) if isinstance(given, str) else given.by_split("phrases")[split]


_bank = functools.lru_cache(maxsize=64)(load_prompt_bank)

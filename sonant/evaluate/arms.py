"""Who is asked: the model, and what it is compared with. Answers that are there already are not asked for again.

rows with audio     system        the speech LM hears the audio
                    cascade       a recogniser writes it down, the base LLM (LoRA off) reads
                    text_oracle   the true transcript, read by the base LLM
  with baselines    no_audio      the speech LM, LoRA on, without the audio: what the question alone gives away
                    transcript    the speech LM, LoRA on, reads the true transcript instead: what words alone give away
rows without        after         the speech LM, LoRA on
                    before        the base LLM, LoRA off
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sonant.chat.messages import AudioPart, Conversation, Message, Part, TextPart
from sonant.data.manifest import write_lines
from sonant.evaluate.pins import recording_sha256
from sonant.generate.assistant import Assistant
from sonant.generate.choices import choice_scores
from sonant.generate.recognizer import Recognizer
from sonant.generate.sampling import GenerationConfig

BLOCK = 512  # questions whose recordings are held, and whose answers are kept, at a time
T = TypeVar("T")
Arms = dict[str, list[str]]  # arm -> one answer a row
ArmScores = dict[str, NDArray[np.float64]]  # arm -> (N, C) log-likelihood of each choice
Progress = Callable[[str, int, int], None]  # (what, done, total)


@dataclass(frozen=True)
class Asked:
    """Questions, and who answers: the model (`lora`) or the LLM that it grew from."""

    prompts: list[Conversation]
    lora: bool

    @property
    def key(self) -> list[Any]:
        """All that the answers depend on besides the examinee."""
        return ["lora" if self.lora else "base", *map(_question, self.prompts)]

    @property
    def blocks(self) -> Iterator["Asked"]:
        """The questions, some at a time: an evaluation that is broken off loses the answers to those, and no more."""
        return (replace(self, prompts=some) for some in _blocks(self.prompts))

    def tell(self, what: str, progress: Progress) -> "_Sum":
        """Returns what adds up answered questions and tells the sum."""
        return _Sum(what, len(self.prompts), progress)


@dataclass(frozen=True)
class Examinee:
    """A model with the recogniser of its cascade (None: there is no cascade).

    pins: what its answers depend on besides the question; answers are kept only if something is pinned.
    """

    assistant: Assistant
    recognizer: Recognizer | None = None
    config: GenerationConfig = field(default_factory=GenerationConfig)
    batch_size: int = 32
    pins: Mapping[str, Any] = field(default_factory=dict)
    baselines: bool = False  # whether the baselines are asked in every set, whatever the set says

    def questions(
        self,
        name: str,
        prompts: list[Conversation],
        *,
        folder: Path,
        progress: Progress,
        trained_only: bool = False,
        baselines: bool = False,
    ) -> dict[str, Asked]:
        """Returns what each arm is asked; for the cascade, clips are written down first (and kept in `folder`)."""
        clips = [part for prompt in prompts for part in prompt.heard_parts]
        asked = {"system" if clips else "after": Asked(prompts, lora=True)}
        if trained_only:
            return asked
        if not clips:
            return asked | {"before": Asked(prompts, lora=False)}
        recognizer = self.recognizer
        if recognizer is not None:
            tell = _Sum(f"{name}: transcripts", len(clips), progress)
            heard = [
                text
                for some in _blocks(clips)
                for text in self._kept(
                    folder,
                    tell,
                    ["transcripts", *map(_clip, some)],
                    partial(recognizer.transcribe, some, progress=tell),
                )
            ]
            asked["cascade"] = Asked(with_text(prompts, heard), lora=False)
        transcripts = [part.transcript for part in clips if part.transcript is not None]
        written = with_text(prompts, transcripts) if len(transcripts) == len(clips) else None
        if written:
            asked["text_oracle"] = Asked(written, lora=False)
        baselines = baselines or self.baselines
        if baselines:
            asked["no_audio"] = Asked(with_text(prompts, [""] * len(clips)), lora=True)
        if baselines and written:
            asked["transcript"] = Asked(written, lora=True)
        return asked

    def arms(self, name: str, questions: Mapping[str, Asked], *, folder: Path, progress: Progress) -> Arms:
        """Returns the answers of every arm; those in `folder` are taken from there, new ones are put there."""

        def answers(what: str, asked: Asked) -> list[str]:
            tell = asked.tell(what, progress)
            blocks = (self._kept(folder, tell, each.key, partial(self._replies, each, tell)) for each in asked.blocks)
            return [*chain.from_iterable(blocks)]

        return {arm: answers(f"{name}: {arm.replace('_', ' ')}", asked) for arm, asked in questions.items()}

    def choices(
        self,
        name: str,
        questions: Mapping[str, Asked],
        choices: Sequence[str],
        *,
        folder: Path,
        progress: Progress,
    ) -> ArmScores:
        """Returns arm -> (N, C) log-likelihood of each choice as the whole answer; kept in `folder` as answers are."""

        def scores(what: str, asked: Asked) -> list[list[float]]:
            tell = asked.tell(what, progress)
            blocks = (
                self._kept(
                    folder, tell, ["choices", list(choices), *each.key], partial(self._scores, each, choices, tell)
                )
                for each in asked.blocks
            )
            return [*chain.from_iterable(blocks)]

        return {
            arm: np.array(scores(f"{name}: {arm.replace('_', ' ')}, choices", asked), dtype=np.float64)
            for arm, asked in questions.items()
        }

    def key(self, asked: list[Any]) -> str:
        """Returns the hash of what was asked and of all that the answers depend on besides."""
        return hashlib.sha256(json.dumps([dict(self.pins), asked], sort_keys=True).encode()).hexdigest()

    def _replies(self, asked: Asked, tell: Callable[[int], None]) -> list[str]:
        replies = self.assistant.replies(
            asked.prompts, config=self.config, lora=asked.lora, batch_size=self.batch_size, progress=tell
        )
        return [reply.text for reply in replies]

    def _scores(self, asked: Asked, choices: Sequence[str], tell: Callable[[int], None]) -> list[list[float]]:
        scores = choice_scores(
            self.assistant, asked.prompts, choices, lora=asked.lora, batch_size=self.batch_size, progress=tell
        )
        found: list[list[float]] = scores.tolist()
        return found

    def _kept(self, folder: Path, tell: "_Sum", asked: list[Any], answer: Callable[[], list[T]]) -> list[T]:
        if not self.pins:
            return answer()
        path = folder / f"{self.key(asked)[:24]}.json"
        if (known := _read(path)) is not None:
            tell(len(known))
            return known
        answers = answer()
        write_lines(path, [json.dumps({"what": tell.what, "answers": answers}, ensure_ascii=False)])
        return answers


class _Sum:
    """Adds up batches, and tells the sum."""

    def __init__(self, what: str, total: int, progress: Progress) -> None:
        self.what, self.total, self.progress, self.done = what, total, progress, 0

    def __call__(self, new: int) -> None:
        self.done += new
        self.progress(self.what, self.done, self.total)


def _blocks(items: Sequence[T]) -> Iterator[list[T]]:
    return (list(items[start : start + BLOCK]) for start in range(0, len(items), BLOCK))


def with_text(prompts: Sequence[Conversation], texts: Sequence[str]) -> list[Conversation]:
    """Returns the prompts with what is heard, in order, replaced by these texts, as one would have written them.

    What an earlier answer sounds like stays: it is written already, and not heard.
    """
    remaining = iter(texts)

    def written(part: Part) -> str:
        return next(remaining) if isinstance(part, AudioPart) else part.text

    def message(old: Message) -> Message:
        if not old.heard:
            return old
        return replace(old, parts=(TextPart(" ".join(t for part in old.parts if (t := written(part).strip()))),))

    return [replace(prompt, messages=tuple(message(m) for m in prompt.messages)) for prompt in prompts]


def shown(prompt: Conversation) -> str:
    """Returns a prompt for people to read: its clips as [clip 1], [clip 2]; earlier turns with their roles."""
    names = [f"[clip {number + 1}]" for number in range(len(prompt.heard_parts))]
    (written,) = with_text([prompt], names)
    if len(written.messages) == 1:
        return written.messages[0].text
    return "\n".join(f"{message.role}: {message.text}" for message in written.messages)


def _read(path: Path) -> list[Any] | None:
    """The answers in a file; None if there is none, or a damaged one: then they are asked for again."""
    try:
        answers: list[Any] = json.loads(path.read_text(encoding="utf-8"))["answers"]
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None
    return answers


def _question(prompt: Conversation) -> list[Any]:
    """All that an answer depends on: not what a clip says in writing, what an answer sounds like, or an id."""

    def read(message: Message) -> list[Any]:
        seen = [part for part in message.parts if isinstance(part, TextPart) or message.heard]
        return [part.text if isinstance(part, TextPart) else _clip(part) for part in seen]

    return [[message.role, read(message)] for message in prompt.messages]


def _clip(part: AudioPart) -> list[Any]:
    if part.path is None:
        return [part.name, part.offset_s, part.duration_s]
    # By what it holds: another recording under the same name, even of the same size and time, is another question.
    return [recording_sha256(part.path), part.offset_s, part.duration_s]

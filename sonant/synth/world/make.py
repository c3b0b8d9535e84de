"""Makes the tiny world's corpora: clips by espeak, and one manifest for each split and task.

    out/clips/<hash>.wav            16 kHz; a clip is named by what was asked for, so a second run makes only what lacks
    out/{train,dev,test}/asr.jsonl  translation, spoken_qa, mixed_modal, multi_turn (clips in up to three turns)
    out/{train,dev,test}/text_only.jsonl   the same tasks in writing, for keeping (and measuring) the LLM's skill
    out/{dev,test}/asr_words.jsonl         random words and digits, apart from the grammar's sentences
    out/{dev,test}/spoken_qa_heldout.jsonl questions about entities that no training audio names

No test voice or held-out entity is heard in training, and no test sentence but the questions that close a context.
Every clip carries its transcript, every row its voice as `speaker`.
"""

import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from pydantic import Field

from sonant.chat.messages import AudioPart, Conversation, Message, Part, TextPart, assistant
from sonant.config import Config
from sonant.data import manifest
from sonant.synth.tts import SpeechRequest, Synthesizer, clip_path, load_synthesizer, speak
from sonant.synth.world import tasks as world_tasks
from sonant.synth.world.facts import names_held_out
from sonant.synth.world.tasks import TASKS, TEXT_MIX, Dialogue, Piece, Scope, written, written_part
from sonant.synth.world.text import Split
from sonant.synth.world.voices import Engine, voices

Tell = Callable[[str], None]
SPOKEN: Mapping[str, Callable[[Scope, random.Random], Dialogue]] = {
    "asr": world_tasks.transcription,
    "translation": world_tasks.translation,
    "spoken_qa": world_tasks.question,
    "mixed_modal": world_tasks.context,
    "multi_turn": world_tasks.multi_turn,
}


class Sizes(Config):
    """Rows of each task in one split."""

    asr: int = Field(ge=0)
    translation: int = Field(ge=0)
    spoken_qa: int = Field(ge=0)
    mixed_modal: int = Field(ge=0)
    multi_turn: int = Field(ge=0)
    text_only: int = Field(ge=0)
    asr_words: int = Field(default=0, ge=0)  # dev and test only, as the next
    spoken_qa_heldout: int = Field(default=0, ge=0)


class WorldConfig(Config):
    """How much is made, by which engine."""

    seed: int = 0
    engine: Engine = "espeak"
    num_workers: int = Field(default=2, gt=0)
    train: Sizes = Sizes(asr=1200, translation=1000, spoken_qa=1000, mixed_modal=400, multi_turn=300, text_only=3000)
    dev: Sizes = Sizes(
        asr=100,
        translation=100,
        spoken_qa=100,
        spoken_qa_heldout=100,
        mixed_modal=60,
        multi_turn=40,
        text_only=600,
    )
    test: Sizes = Sizes(
        asr=200,
        asr_words=100,
        translation=200,
        spoken_qa=200,
        spoken_qa_heldout=200,
        mixed_modal=150,
        multi_turn=100,
        text_only=1200,
    )


def make_world(
    out_folder: str | os.PathLike[str],
    *,
    config: WorldConfig | None = None,
    synthesizer: Synthesizer | None = None,
    tell: Tell = lambda text: None,
) -> dict[str, int]:
    """Returns manifest -> rows, after writing all clips and manifests. Running it again changes nothing.

    synthesizer: by default `config.engine`, whose voices are used in any case.
    Raises: SynthesisError if the engine is missing or fails.
    """
    config = config or WorldConfig()
    synthesizer = synthesizer or load_synthesizer(config.engine, num_workers=config.num_workers)
    out = Path(out_folder).absolute()
    rows_of = {}
    for split in get_args(Split):
        wanted: list[SpeechRequest] = []
        for task, rows in _split_rows(config, split, out / "clips", synthesizer.name, wanted):
            rows_of[f"{split}/{task}.jsonl"] = rows
        tell(f"{split}: {len(wanted)} clips")
        speak(synthesizer, wanted, folder=out / "clips")
    # Manifests come last: where one is, its clips are.
    return write_manifests(out, {name: list(map(_beside(out), rows)) for name, rows in rows_of.items()})


def write_manifests(out: Path, rows_of: Mapping[str, Sequence[Conversation]]) -> dict[str, int]:
    """Returns name -> rows of the manifests it writes below `out`; those without rows are not there afterwards.

    What a larger world left would be taken for this one's.
    """
    counts = {name: manifest.write(out / name, rows) for name, rows in rows_of.items() if rows}
    for name in rows_of.keys() - counts.keys():
        (out / name).unlink(missing_ok=True)
    return counts


def _split_rows(
    config: WorldConfig, split: Split, clips: Path, engine: str, wanted: list[SpeechRequest]
) -> Iterator[tuple[str, list[Conversation]]]:
    """Yields task, rows; the clips that they need are added to `wanted`."""
    sizes: Sizes = getattr(config, split)
    makers = {**SPOKEN, "asr_words": world_tasks.repeat_words, "spoken_qa_heldout": world_tasks.held_out_question}
    if split != "train":  # measured apart: sentences of the grammar, and words in no order
        makers["asr"] = world_tasks.repeat_sentence
    for task, make in makers.items():
        rng = random.Random(f"{config.seed} {split} {task}")
        speaker = _Speaker(clips, engine, voices(config.engine, split), wanted)
        rows = []
        for index in range(getattr(sizes, task)):
            dialogue = make(Scope(split, heard=task != "spoken_qa_heldout"), rng)
            rows.append(speaker.spoken(dialogue, rng, id=f"{split}-{task}-{index:05}", task=task))
        yield task, rows
    yield "text_only", list(text_rows(split, sizes.text_only, seed=config.seed))


def text_rows(split: Split, num: int, *, seed: int = 0, typos: float | None = None) -> Iterator[Conversation]:
    """Yields written conversations of every task in a split, in the shares that the tiny LLM is trained with.

    typos: share of sentences with a wrong letter; None: 0.15 in training, else none. Tasks are named text_question,
    text_question_heldout (about entities that are held out of speech, not of writing), text_translation, text_repeat,
    text_in_context, text_multi_turn.
    """
    rng = random.Random(f"{seed} {split} text_only")
    typos = (0.15 if split == "train" else 0.0) if typos is None else typos
    for index, name in enumerate(rng.choices(list(TEXT_MIX), weights=list(TEXT_MIX.values()), k=num)):
        dialogue = TASKS[name](Scope(split, heard=False), rng)
        row = written(dialogue, rng, id=f"{split}-text_only-{index:05}", typos=typos)
        is_heldout = name == "question" and names_held_out(row.reference)
        extra = {"target_language": "de"} if name == "translation" else {}
        yield replace(row, task=f"text_{name}_heldout" if is_heldout else f"text_{name}", extra=extra)


class _Speaker:
    """Turns dialogues into conversations, noting the clips that must be spoken."""

    def __init__(self, clips: Path, engine: str, voices: tuple[str, ...], wanted: list[SpeechRequest]) -> None:
        self.clips, self.engine, self.voices, self.wanted = clips, engine, voices, wanted

    def spoken(self, dialogue: Dialogue, rng: random.Random, *, id: str, task: str) -> Conversation:
        """One voice speaks the whole conversation; instructions are written, and where `mixed` some of the rest."""
        voice = rng.choice(self.voices)
        rate, pitch = round(rng.uniform(0.85, 1.25), 2), 1.0
        if self.engine == "espeak":
            pitch = round(rng.uniform(0.6, 1.4), 2)
        heard = _heard_pieces(dialogue, task, rng)
        messages: list[Message] = []
        for exchange in dialogue.exchanges:
            parts = [self._part(p, rng, (voice, rate, pitch), heard, p is exchange.pieces[0]) for p in exchange.pieces]
            messages += [Message("user", tuple(parts)), assistant(exchange.answer)]
        extra = {"target_language": "de"} if task == "translation" else {}
        return Conversation(tuple(messages), id=id, task=task, language="en", speaker=voice, extra=extra)

    def _part(
        self, piece: Piece, rng: random.Random, manner: tuple[str, float, float], heard: set[int], is_first: bool
    ) -> Part:
        if id(piece) not in heard:
            return written_part(piece, rng, is_first=is_first)
        request = SpeechRequest(piece.text, *manner)
        self.wanted.append(request)
        return AudioPart(path=str(clip_path(self.clips, self.engine, request)), transcript=piece.text)


def _heard_pieces(dialogue: Dialogue, task: str, rng: random.Random) -> set[int]:
    """The ids of the pieces that are spoken: all but instructions; in mixed_modal at least one more is written."""
    pieces = [piece for exchange in dialogue.exchanges for piece in exchange.pieces if not piece.is_instruction]
    num = rng.randint(1, len(pieces) - 1) if task == "mixed_modal" else len(pieces)
    return {id(piece) for piece in rng.sample(pieces, num)}


def _beside(out: Path) -> Callable[[Conversation], Conversation]:
    """Returns a function that writes clip paths relative to a manifest in a folder next to `clips`."""

    def moved(part: Part) -> Part:
        if isinstance(part, TextPart) or part.path is None:
            return part
        return replace(part, path=Path("..", Path(part.path).relative_to(out)).as_posix())

    def row(conversation: Conversation) -> Conversation:
        messages: Iterable[Message] = conversation.messages
        return replace(conversation, messages=tuple(replace(m, parts=tuple(map(moved, m.parts))) for m in messages))

    return row

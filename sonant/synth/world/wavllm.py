"""The tiny world for WavLLM: who speaks, how, and what is asked, as single tasks and as combined instructions.

    out/clips/<hash>.wav       16 kHz; one clip serves several rows, and clips of two parts are joined from others
    out/{train,dev,test}/      asr translation manner verification instruction spoken_qa continuation combined text_only
    out/{dev,test}/            what is measured apart:
      verification_manners     both parts in other manners than in training: each in its own
      instruction_transcribe   the same clips as `instruction`: write down what is asked, do not do it
      instruction_german       the same clips: answer in German
      instruction_empty        no written prompt at all
      spoken_qa_heldout        questions about entities that no training audio names
      combined                 orders of sub-tasks, and wordings, that training has not
      combined_seen            orders of training
      combined_chained         a step that rests on the one before, with (chain_of_thought) and without it (direct)
      text_combined            combined instructions about written sentences

Sentences of one block are spoken in all four manners and by two speakers in each: what is said tells neither how it is
said nor by whom. Test speakers, sentences, and held-out entities are never heard in training.
"""

import os
import random
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from pydantic import Field

from sonant.chat.messages import Conversation, TextPart, assistant, user
from sonant.config import Config
from sonant.data.prompts import AUDIO, instructed, load_prompt_bank
from sonant.synth.combined import Combiner, load_combined
from sonant.synth.tts import Synthesizer, load_synthesizer
from sonant.synth.world.facts import Fact
from sonant.synth.world.make import Tell, text_rows, write_manifests
from sonant.synth.world.scenes import (
    Clip,
    Kind,
    Recorder,
    beginnings,
    blocks,
    instructions,
    pairs_of_manners,
    questions,
)
from sonant.synth.world.text import Split, fact_questions

WRITABLE = {"asr", "translation", "answer", "answer_german", "follow", "continuation", "text_question"}
BANKS = {  # what is asked of a clip -> the bank of its wordings
    "asr": "tiny_wavllm_asr",
    "translation": "tiny_wavllm_translation",
    "manner": "tiny_wavllm_manner",
    "verification": "tiny_wavllm_verification",
    "follow": "tiny_wavllm_instruction",
    "transcribe": "tiny_wavllm_transcribe_only",
    "answer_german": "tiny_wavllm_answer_german",
    "continuation": "tiny_wavllm_continuation",
}


class WavLLMSizes(Config):
    """How much of each is made in one split."""

    blocks: int = Field(ge=0)  # of four sentences in four manners: 16 rows of asr, translation, manner each
    pairs: int = Field(ge=0)  # twice as many rows of verification; 16 a block at most
    pairs_manners: int = Field(default=0, ge=0)
    questions: int = Field(ge=0)  # three rows of instruction and one of spoken_qa each
    questions_heldout: int = Field(default=0, ge=0)
    instructions: int = Field(ge=0)  # two rows of instruction each
    beginnings: int = Field(ge=0)
    combined: int = Field(ge=0)  # rows for each of the five kinds of clips
    parts: dict[int, float] | None = None  # things asked in a combined row -> weight; None: as the preset says
    chained: int = Field(default=0, ge=0)  # chains for each kind, two rows each
    text_only: int = Field(ge=0)
    text_combined: int = Field(ge=0)  # at most: of rows without a voice in them


class WavLLMWorldConfig(Config):
    """How much is made; espeak speaks, because it alone knows manners."""

    seed: int = 0
    num_workers: int = Field(default=2, gt=0)
    train: WavLLMSizes = WavLLMSizes(
        blocks=240,
        pairs=2000,
        questions=1000,
        instructions=1000,
        beginnings=800,
        combined=6400,
        parts={1: 0.12, 2: 0.38, 3: 0.5},  # three are the hardest to keep apart
        text_only=3000,
        text_combined=600,
    )
    dev: WavLLMSizes = WavLLMSizes(
        blocks=8,
        pairs=64,
        pairs_manners=64,
        questions=80,
        questions_heldout=40,
        instructions=80,
        beginnings=40,
        combined=30,
        text_only=600,
        text_combined=60,
    )
    test: WavLLMSizes = WavLLMSizes(
        blocks=16,
        pairs=200,
        pairs_manners=200,
        questions=200,
        questions_heldout=150,
        instructions=200,
        beginnings=100,
        combined=100,
        chained=100,
        text_only=1200,
        text_combined=120,
    )


def make_wavllm_world(
    out_folder: str | os.PathLike[str],
    *,
    config: WavLLMWorldConfig | None = None,
    synthesizer: Synthesizer | None = None,
    tell: Tell = lambda text: None,
) -> dict[str, int]:
    """Returns manifest -> rows, after writing all clips and manifests. Running it again changes nothing.

    Raises: SynthesisError if the engine is missing or fails.
    """
    config = config or WavLLMWorldConfig()
    synthesizer = synthesizer or load_synthesizer("espeak", num_workers=config.num_workers)
    out = Path(out_folder).absolute()
    counts: dict[str, int] = {}
    for split in get_args(Split):
        sizes: WavLLMSizes = getattr(config, split)
        recorder = Recorder(out / "clips", synthesizer)
        clips = list(_clips(split, sizes, recorder, config.seed))
        tell(f"{split}: {recorder.record()} clips")
        # Manifests come last: where one is, its clips are.
        rows = _rows(split, sizes, clips, config.seed)
        counts |= write_manifests(out, {f"{split}/{task}.jsonl": of_task for task, of_task in rows.items()})
    return counts


def _clips(split: Split, sizes: WavLLMSizes, recorder: Recorder, seed: int) -> Iterator[Clip]:
    def rng(kind: str) -> random.Random:
        return random.Random(f"{seed} {split} wavllm {kind}")

    yield from blocks(split, sizes.blocks, sizes.pairs, recorder, rng("blocks"))
    yield from pairs_of_manners(split, sizes.pairs_manners, recorder, rng("manners"))
    yield from questions(split, sizes.questions, recorder, rng("questions"))
    yield from questions(split, sizes.questions_heldout, recorder, rng("held out"), held_out=True)
    yield from instructions(split, sizes.instructions, recorder, rng("instructions"))
    yield from beginnings(split, sizes.beginnings, recorder, rng("beginnings"))


def _rows(split: Split, sizes: WavLLMSizes, clips: Sequence[Clip], seed: int) -> dict[str, list[Conversation]]:
    """Manifest -> its rows."""
    rows = _single(split, clips)
    rows |= _combined(split, sizes, clips, seed)
    rows["text_only"] = list(text_rows(split, sizes.text_only, seed=seed))
    written = [_written(row) for row in rows["combined"] if set(row.extra["combination"]) <= WRITABLE]
    count = min(sizes.text_combined, len(written))  # from all over them: kinds of clips stand one behind the other
    rows["text_combined"] = [written[len(written) * i // count] for i in range(count)]
    return rows


def _single(split: Split, clips: Sequence[Clip]) -> dict[str, list[Conversation]]:
    asker = _Asker(split)
    of = {kind: [clip for clip in clips if clip.kind == kind] for kind in get_args(Kind)}
    spoken = [*of["question"], *of["instruction"]]
    follow = [asker.row(clip, "follow", "instruction") for clip in spoken]
    transcribe = [asker.row(clip, "transcribe", "instruction") for clip in spoken]
    german = [asker.row(clip, "answer_german", "instruction") for clip in of["question"]]
    empty = [asker.row(clip, "follow", "instruction", is_prompted=False) for clip in of["instruction"]]
    rows = {
        "asr": [asker.row(clip, "asr", "asr") for clip in of["sentence"]],
        "translation": [asker.row(clip, "translation", "translation") for clip in of["sentence"]],
        "manner": [asker.row(clip, "manner", "manner") for clip in of["sentence"]],
        "verification": [asker.row(clip, "verification", "verification") for clip in of["pair"]],
        "verification_manners": [asker.row(clip, "verification", "verification") for clip in of["pair_manners"]],
        "spoken_qa": [asker.row(clip, "follow", "spoken_qa", is_prompted=False) for clip in of["question"]],
        "spoken_qa_heldout": [
            asker.row(clip, "follow", "spoken_qa", is_prompted=False) for clip in of["question_heldout"]
        ],
        "continuation": [asker.row(clip, "continuation", "continuation") for clip in of["beginning"]],
    }
    if split == "train":  # half of the clips also without a prompt
        return rows | {"instruction": [*follow, *transcribe, *german, *empty[::2]]}
    apart = {"instruction_transcribe": transcribe, "instruction_german": german, "instruction_empty": empty}
    return rows | {"instruction": follow} | apart


def _combined(split: Split, sizes: WavLLMSizes, clips: Sequence[Clip], seed: int) -> dict[str, list[Conversation]]:
    """Combined rows by manifest: `sizes.combined` for each kind of clips, two chained ones for each chain."""
    config = load_combined("tiny")
    if sizes.parts is not None:
        config = config.model_copy(update={"sizes": sizes.parts})
    asides = [_aside(split, index, *asked) for index, asked in enumerate(fact_questions(split, held_out=False))]
    rows: dict[str, list[Conversation]] = {"combined": [], "combined_seen": [], "combined_chained": []}
    for kind in ("sentence", "pair", "question", "instruction", "beginning"):
        of_kind = [clip for clip in clips if clip.kind == kind]
        rng = random.Random(f"{seed} {split} combined {kind}")
        chosen = rng.sample(of_kind, min(len(of_kind), max(sizes.combined, sizes.chained)))
        if not chosen:
            continue
        sources = [_source(clip, task) for clip in chosen for task in clip.answers]
        combiner = Combiner([*sources, *asides], config, split=split, seed=seed)
        each = -(-sizes.combined // len(chosen))
        seen = islice(combiner.independent(unseen=False, per_recording=each), sizes.combined)
        if split == "train":
            rows["combined"] += seen
        else:
            rows["combined_seen"] += seen
            rows["combined"] += islice(combiner.independent(unseen=True, per_recording=each), sizes.combined)
        rows["combined_chained"] += islice(combiner.chained(), 2 * sizes.chained)
    return rows


def _source(clip: Clip, task: str) -> Conversation:
    """One thing that is known of a clip, as a row to be combined."""
    turns = (user(clip.part), assistant(clip.answers[task]))
    return Conversation(
        turns, id=f"{clip.id}-{task}", task=task, language="en", speaker=clip.speaker, extra=_told(clip, task)
    )


def _aside(split: Split, index: int, fact: Fact, question: str) -> Conversation:
    return Conversation((user(question), assistant(fact.statement)), id=f"{split}-aside-{index}", task="text_question")


def _told(clip: Clip, task: str) -> dict[str, Any]:
    return {**clip.extra, "target_language": "de"} if task in ("translation", "answer_german") else {**clip.extra}


def _written(row: Conversation) -> Conversation:
    """The row with what is said written where the recording stood."""
    said = (part.text if isinstance(part, TextPart) else f": {part.transcript}" for part in row.messages[0].parts)
    turns = (user("".join(said)), row.messages[1])
    return Conversation(turns, id=f"{row.id}-written", task="text_combined", extra=row.extra)


class _Asker:
    """Asks one thing of a clip, in the wordings of a split."""

    def __init__(self, split: Split) -> None:
        self.split = split
        self.banks = {what: load_prompt_bank(name) for what, name in BANKS.items()}

    def row(self, clip: Clip, what: str, task: str, *, is_prompted: bool = True) -> Conversation:
        """Returns the row that asks `what` of the clip; without a prompt, the clip alone is what the user says."""
        id = f"{clip.id}-{what if is_prompted else 'alone'}"
        wording = self.banks[what].pick(self.split, id) if is_prompted else AUDIO
        answers = {"transcribe": clip.answers["asr"], "follow": clip.answers.get("answer", "")} | {**clip.answers}
        extra = _told(clip, what)
        if task == "instruction":
            extra["wanted"] = "german" if what == "answer_german" else what
        turns = (user(*instructed(wording, clip.part)), assistant(answers[what]))
        return Conversation(turns, id=id, task=task, language="en", speaker=clip.speaker, extra=extra)

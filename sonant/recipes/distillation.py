"""Rows whose answers an LLM gives itself, reading the transcript, for a model that will hear it.

    clip + transcript ──random instruction, or none──▶ text prompt ──LLM──▶ answer
         └──────────────the same instruction──────────▶ speech prompt ─────────┴──▶ row

What is then learned is to answer speech as the text would have been answered, whatever is asked: a transcript alone is
seldom the answer, so "transcribe everything" is no way out. Only transcribed clips are needed.
"""

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import Field

from sonant.chat.messages import Conversation, assistant, user
from sonant.config import Config
from sonant.data import manifest
from sonant.data.prompts import instructed, load_prompt_bank
from sonant.errors import ConfigError
from sonant.evaluate.arms import with_text
from sonant.generate.assistant import Assistant
from sonant.generate.sampling import GenerationConfig


class Instructions(Config):
    """What is asked of the clips: training wordings of prompt banks, by weight."""

    banks: dict[str, float]  # prompt bank (a shipped one, or a .yaml file) -> weight
    bare: float = Field(0.0, ge=0)  # weight of no instruction at all: what is said is the question
    fields: Mapping[str, str] = Field(default={})  # that wordings leave open, such as target_language
    rows: int = Field(2000, gt=0)
    seed: int = 0
    max_new_tokens: int = Field(64, gt=0)


def write_distilled(
    teacher: Assistant, rows: Iterable[Conversation], out: Path, *, config: Instructions, say: Callable[[str], None]
) -> None:
    """Writes `config.rows` answered rows to `out`, in the order of `rows`, which start again when they end.

    What is there is left as it is: a run that goes on has them.

    Each row must hold one transcribed clip. An answer that comes to no end is left out and counted. With LoRA, the
    teacher is the LLM without it.

    Raises: ConfigError if no row has a transcribed clip, a bank is unknown or a field is missing.
    """
    if out.exists():
        return
    clips = [row.heard_parts[0] for row in rows if len(row.heard_parts) == 1 and row.heard_parts[0].transcript]
    if not clips:
        raise ConfigError("distillation needs rows of one clip with its 'transcript'; there are none")
    banks = {name: load_prompt_bank(name).of("train") for name in config.banks}
    rng = random.Random(f"{config.seed} distillation")
    kinds = rng.choices([*banks, ""], weights=[*config.banks.values(), config.bare], k=config.rows)
    prompts = []
    for index, kind in enumerate(kinds):
        clip = clips[index % len(clips)]
        parts = instructed(rng.choice(banks[kind]), clip, **config.fields) if kind else (clip,)
        prompts.append(Conversation((user(*parts),), id=f"distilled-{index:06}", task=f"distilled {kind or 'bare'}"))
    written = with_text(prompts, [str(prompt.audio_parts[0].transcript) for prompt in prompts])
    replies = teacher.replies(written, config=GenerationConfig(max_new_tokens=config.max_new_tokens), lora=False)
    kept = [
        replace(prompt, messages=(*prompt.messages, assistant(reply.text)))
        for prompt, reply in zip(prompts, replies, strict=True)
        if reply.finished and reply.text
    ]
    manifest.write(out, kept)
    say(f"distilled: {len(kept):,} answers of the LLM; {len(prompts) - len(kept)} came to no end and are left out")

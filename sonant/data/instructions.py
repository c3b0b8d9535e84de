"""What a row asks for, part by part: the key `instructions`, which builders write and checkers read.

answer         words: the cat sleeps. sound: sad
instructions   [{"kind": "transcription", "intro": "words:", "reference": "the cat sleeps"},
                {"kind": "label", "intro": "sound:", "reference": "sad", "labels": ["calm", "sad"]}]
"""

from typing import Any, Literal

from pydantic import model_validator

from sonant.chat.messages import Conversation
from sonant.config import Config, validate

Kind = Literal["transcription", "translation", "label", "question", "continuation", "summary"]


class Instruction(Config):
    """One thing that a row asks for; a row lists them in the order of its answer.

    Raises: ValueError (pydantic's) for a label without `labels`, or for `labels` of anything else.
    """

    kind: Kind
    intro: str = ""  # the phrase that opens this part of the reply; "" only where it is the row's one instruction
    reference: str
    labels: tuple[str, ...] = ()  # of kind "label": ("yes", "no"), ("calm", "excited", "sad", "angry")
    language: str | None = None  # of kind "translation"
    aliases: tuple[str, ...] = ()  # other right answers
    heard: bool = True  # False: asks about text alone, whatever the recording says

    @model_validator(mode="after")
    def _labelled(self) -> "Instruction":
        if (self.kind == "label") != bool(self.labels):
            raise ValueError(f"a label, and nothing else, has labels; kind {self.kind!r} has {len(self.labels)}")
        return self

    def to_json(self) -> dict[str, Any]:
        """Returns what a manifest holds: the keys that were given."""
        return self.model_dump(mode="json", exclude_unset=True)


class _Instructions(Config):
    instructions: tuple[Instruction, ...]


def listed_instructions(row: Conversation) -> tuple[Instruction, ...]:
    """Returns what a row lists; () if it lists nothing. Raises: ConfigError for a list in another form."""
    listed = {"instructions": row.extra.get("instructions", ())}
    return validate(_Instructions, listed, where=f"row {row.id!r}").instructions

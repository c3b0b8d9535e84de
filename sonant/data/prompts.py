"""Prompt banks: many wordings of one instruction, some of them held out, so that "unseen prompt" is a number.

    train: ["Translate into {target_language}:", "{audio} What is that in {target_language}?"]
    dev:   [...]
    test:  [...]       # no wording stands in two splits

{audio} is where the recording goes; without it, the recording comes after the text. Other names in braces are fields.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NoReturn, get_args

import pydantic

from sonant.chat.messages import AudioPart, Part, TextPart
from sonant.config import Config, load_config
from sonant.errors import ConfigError

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
SHIPPED = Path(__file__).parent / "prompt_banks"
AUDIO = "{audio}"

_Wordings = Annotated[tuple[str, ...], pydantic.Field(min_length=1)]


class Wordings(Config):
    """What a bank's file holds: the wordings of one instruction by split."""

    train: _Wordings
    dev: _Wordings
    test: _Wordings

    def by_split(self, where: str) -> Mapping[Split, tuple[str, ...]]:
        """Returns split -> wordings. Raises: ConfigError, naming `where`, if one is empty, or stands in it twice."""

        def refuse(split: Split, text: str, fault: str) -> NoReturn:
            raise ConfigError(f"{where}: {split} wording {text!r} {fault}")

        seen: dict[str, Split] = {}
        wordings: dict[Split, tuple[str, ...]] = {"train": self.train, "dev": self.dev, "test": self.test}
        for split, texts in wordings.items():
            for text in texts:
                same = text.strip().lower()
                if not same or same in seen:
                    fault = f"stands also in {seen[same]}" if same else "is empty"
                    refuse(split, text, f"{fault}; every wording belongs to one split")
                if text.count(AUDIO) > 1:
                    refuse(split, text, f"places {AUDIO} twice; a wording has one place")
                seen[same] = split
        return wordings


@dataclass(frozen=True)
class PromptBank:
    """The wordings of one instruction by split; `sha256` is that of its file."""

    name: str
    wordings: Mapping[Split, tuple[str, ...]]
    sha256: str

    def of(self, split: Split) -> tuple[str, ...]:
        """Returns the wordings of a split."""
        return self.wordings[split]

    def pick(self, split: Split, key: str) -> str:
        """Returns the wording of a row, its fields still open: the same `key` (its id) always gets the same one."""
        wordings = self.wordings[split]
        digest = hashlib.sha256(f"{self.name}\0{key}".encode()).digest()
        return wordings[int.from_bytes(digest[:8], "big") % len(wordings)]


def fill(wording: str, **fields: str) -> str:
    """Returns the wording with its fields filled; {audio} stays. Raises: ConfigError if a field is not given."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in fields and name != "audio":
            raise ConfigError(f"prompt {wording!r}: needs {match[0]}; given are {', '.join(fields) or 'no fields'}")
        return fields.get(name, match[0])

    return re.sub(r"\{([a-z_]+)\}", value, wording)


def instructed(wording: str, audio: AudioPart, **fields: str) -> tuple[Part, ...]:
    """Returns the parts of a user turn: the filled wording around the recording, or before it.

    Raises: ConfigError if a field is not given. What a field holds is plain text, "{audio}" too.
    """
    before, _, after = wording.partition(AUDIO)
    first, last = (TextPart(fill(text, **fields)) if text else None for text in (before, after))
    return tuple(part for part in (first, audio, last) if part is not None)


def load_prompt_bank(name_or_path: str) -> PromptBank:
    """Returns a shipped bank ("asr", "translation", "spoken_qa", "summary", ...) or one from a .yaml file.

    Raises: ConfigError if there is no such bank, or a wording stands in it twice.
    """
    path = Path(name_or_path) if name_or_path.endswith((".yaml", ".yml")) else SHIPPED / f"{name_or_path}.yaml"
    if path.parent == SHIPPED and not path.exists():
        names = ", ".join(sorted(bank.stem for bank in SHIPPED.glob("*.yaml")))
        raise ConfigError(f"no prompt bank {name_or_path!r}; shipped are {names}; or give a .yaml file")
    wordings = load_config(Wordings, [path]).by_split(str(path))
    return PromptBank(path.stem, wordings, hashlib.sha256(path.read_bytes()).hexdigest())

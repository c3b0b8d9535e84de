"""The conversation of a realtime session: items in order, which the model reads as messages.

    item    user: input_audio | input_text ..     assistant: output_text | output_audio     system: input_text

Sound that the model hears is kept; sound that it said is not: the client has it, and the model reads the text.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from sonant.chat.messages import AudioPart, Conversation, Message, Part, Role, TextPart
from sonant.serve.conversations import ASKED
from sonant.serve.failures import RefusedError
from sonant.serve.realtime.coding import Coding, Pcm
from sonant.serve.realtime.shapes import AssistantItem, InputAudio, InputText, OutputText, SystemItem, UserItem
from sonant.serve.settings import ServeConfig

LETTERS_PER_S = 14.0  # of speech whose length is not known, because it was cut off while it was made
ROOT = "root"  # the place before the first item


@dataclass
class Written:
    """Words to read."""

    text: str

    def part(self) -> Part:
        """Returns what the model reads."""
        return TextPart(self.text)

    def to_json(self, role: Role, *, with_audio: bool) -> dict[str, Any]:
        """Returns the content as clients see it."""
        return {"type": "output_text" if role == "assistant" else "input_text", "text": self.text}


@dataclass
class Heard:
    """A recording of the user."""

    samples: Pcm = field(repr=False)  # (S,)
    coding: Coding
    transcript: str | None = None

    @property
    def duration_s(self) -> float:
        """Returns its length."""
        return len(self.samples) / self.coding.sample_rate_hz

    def part(self) -> AudioPart:
        """Returns what the model hears."""
        return AudioPart(data=self.coding.as_wav(self.samples))

    def to_json(self, role: Role, *, with_audio: bool) -> dict[str, Any]:
        """Returns the content as clients see it; its sound only if asked for."""
        audio = {"audio": self.coding.encode(self.samples)} if with_audio else {}
        return {"type": "input_audio", "transcript": self.transcript, **audio}


@dataclass
class Said:
    """An answer that was said aloud."""

    text: str = ""  # all of it, as the model wrote it
    transcript: str = ""  # what of it is said: its end, or all
    num_samples: int = 0  # sent so far
    sample_rate_hz: int = 24_000
    is_whole: bool = True  # the sound came to its end

    @property
    def duration_s(self) -> float:
        """Returns how long what was sent is."""
        return self.num_samples / self.sample_rate_hz

    def part(self) -> Part:
        """Returns what the model reads."""
        return TextPart(self.text)

    def to_json(self, role: Role, *, with_audio: bool) -> dict[str, Any]:
        """Returns the content as clients see it."""
        return {"type": "output_audio", "transcript": self.transcript}

    def truncate(self, heard_s: float) -> None:
        """Forgets what was not heard, so that the model does not believe to have said it.

        A voice does not tell when it says which word: letters are taken to last equally long, and a word that was cut
        is not kept.
        """
        whole_s = self.duration_s if self.is_whole else max(self.duration_s, len(self.transcript) / LETTERS_PER_S)
        num_letters = int(len(self.transcript) * min(1.0, heard_s / whole_s)) if whole_s else 0
        kept = self.transcript[:num_letters]
        if num_letters < len(self.transcript) and not self.transcript[num_letters].isspace():
            kept = kept.rpartition(" ")[0]
        unsaid = self.text.rstrip().removesuffix(self.transcript)
        self.text, self.transcript, self.is_whole = unsaid + kept.rstrip(), kept.rstrip(), True
        self.num_samples = min(self.num_samples, round(heard_s * self.sample_rate_hz))


Content: TypeAlias = Written | Heard | Said


@dataclass
class Item:
    """A turn, or a part of one."""

    id: str
    role: Role
    content: list[Content]
    status: Literal["completed", "incomplete", "in_progress"] = "completed"

    def to_json(self, *, with_audio: bool = False) -> dict[str, Any]:
        """Returns the item as clients see it."""
        return {
            "id": self.id,
            "object": "realtime.item",
            "type": "message",
            "status": self.status,
            "role": self.role,
            "content": [content.to_json(self.role, with_audio=with_audio) for content in self.content],
        }

    @property
    def num_chars(self) -> int:
        """Returns how much there is to read."""
        return sum(len(content.text) for content in self.content if not isinstance(content, Heard))

    @property
    def heard_s(self) -> float:
        """Returns how much there is to hear."""
        return sum(content.duration_s for content in self.content if isinstance(content, Heard))


def item_of(asked: UserItem | SystemItem | AssistantItem, *, id: str, coding: Coding) -> Item:
    """Returns the item that a client describes. Raises: RefusedError for audio that is none."""
    content: list[Content] = []
    for number, part in enumerate(asked.content):
        match part:
            case InputText() | OutputText():
                content.append(Written(part.text))
            case InputAudio():
                param = f"item.content.{number}.audio"
                samples = coding.decode(part.audio, param=param)
                if not len(samples):
                    raise RefusedError("the audio holds no sample; leave it out", param=param)
                content.append(Heard(samples, coding, part.transcript))
            case _:
                content.append(Said(text=part.transcript, transcript=part.transcript))
    return Item(id, asked.role, content)


def conversation_of(items: Iterable[Item], *, instructions: str) -> Conversation:
    """Returns what a model is asked: neighbours of one role are one message, as chat templates want it.

    Raises: RefusedError if the last word is not the user's.
    """
    turns: list[tuple[Role, list[Part]]] = [("system", [TextPart(instructions)])] if instructions else []
    turns += [(item.role, [content.part() for content in item.content]) for item in items]
    messages = [
        Message(role, tuple(_joined([parts for _, parts in group])))
        for role, group in itertools.groupby(turns, key=lambda turn: turn[0])
    ]
    told = tuple(message for message in messages if message.parts)
    if not told or told[-1].role != "user":
        raise RefusedError(
            "there is nothing to answer: the conversation does not end with the user; commit audio, or create an item"
        )
    return Conversation(told, id=ASKED)


def _joined(turns: Sequence[Sequence[Part]]) -> list[Part]:
    """The parts of neighbouring items; a line ends between two that are text. Empty ones are left out."""
    joined: list[Part] = []
    for parts in turns:
        kept = [part for part in parts if isinstance(part, AudioPart) or part.text]
        if joined and kept and isinstance(joined[-1], TextPart) and isinstance(kept[0], TextPart):
            joined.append(TextPart("\n"))
        joined += kept
    return joined


class Items:
    """The items of a session in their order: so many, so much to hear and so much to read, and no more."""

    def __init__(self, settings: ServeConfig) -> None:
        self._settings = settings
        self._items: list[Item] = []

    def __iter__(self) -> Iterator[Item]:
        """Yields the items in order."""
        return iter(self._items)

    @property
    def last_id(self) -> str | None:
        """Returns the id of the last item, if there is one."""
        return self._items[-1].id if self._items else None

    def get(self, id: str, *, param: str = "item_id") -> Item:
        """Returns the item of this id. Raises: RefusedError if there is none."""
        for item in self._items:
            if item.id == id:
                return item
        raise RefusedError("there is no item of this id in the conversation", param=param, code="item_not_found")

    def add_answer(self, item: Item) -> str | None:
        """Puts an answer at the end, however much there is already, and returns the id of the item before it."""
        before = self.last_id
        self._items.append(item)
        return before

    def add(self, item: Item, *, after: str | None = None) -> str | None:
        """Puts an item after another (None: last; "root": first) and returns the id of the one before it.

        Raises: RefusedError if the id is taken, the other is not there, or it would be too much.
        """
        if any(known.id == item.id for known in self._items):
            raise RefusedError("there is an item of this id already; choose another", param="item.id")
        if after is None:
            place = len(self._items)
        elif after == ROOT:
            place = 0
        else:
            place = self._items.index(self.get(after, param="previous_item_id")) + 1
        check_size([*self._items, item], self._settings)
        self._items.insert(place, item)
        return self._items[place - 1].id if place else None

    def remove(self, id: str) -> None:
        """Takes an item out. Raises: RefusedError if there is none of this id."""
        self._items.remove(self.get(id))


def check_size(items: Sequence[Item], settings: ServeConfig, *, instructions: str = "") -> None:
    """Raises: RefusedError if this is more than a question may hold."""
    faults = (
        (len(items), settings.max_messages, "items"),
        (sum(item.heard_s for item in items), settings.max_audio_s, "seconds of audio"),
        (len(instructions) + sum(item.num_chars for item in items), settings.max_text_chars, "characters of text"),
        (max((len(item.content) for item in items), default=0), settings.max_parts, "parts in one item"),
    )
    for value, limit, what in faults:
        if value > limit:
            raise RefusedError(
                f"the conversation would hold {value:.10g} {what}; {limit:.10g} are allowed; delete early items "
                "(conversation.item.delete), or begin another session",
                code="conversation_too_long",
            )

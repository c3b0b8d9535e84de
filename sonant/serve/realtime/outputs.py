"""What comes out of a realtime session: events for the client, and work for the answerer."""

from dataclasses import dataclass
from typing import Any, TypeAlias

from sonant.serve.answering.questions import Question

ServerEvent: TypeAlias = dict[str, Any]  # in OpenAI's shape; the session adds event_id


@dataclass(frozen=True)
class Ask:
    """A question for the answerer; its events are told to the session under `id`."""

    id: str
    question: Question


@dataclass(frozen=True)
class Drop:
    """An answer that nobody waits for any more."""

    id: str


Output: TypeAlias = ServerEvent | Ask | Drop

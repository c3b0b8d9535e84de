"""Language models that are asked in bulk: what is asked, what comes back, and where models are found.

    requests ─▶ ChatModel.complete ─▶ answers, in the order of the requests

An answer that did not come has a `failure` and is counted by whoever asked; it is never guessed and never raised. What
is wrong with the whole model (no such server, a wrong key, no such folder) is raised.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sonant.chat.messages import Message
from sonant.errors import RequestError


@dataclass(frozen=True)
class ChatRequest:
    """One question. With a JSON `schema` the answer is JSON of that shape; temperature 0 is greedy."""

    messages: tuple[Message, ...]
    schema: Mapping[str, Any] | None = field(default=None, hash=False)
    max_new_tokens: int = 512
    temperature: float = 0.0
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Returns all that an answer depends on besides the model, as JSON values: caches are keyed by it."""
        return {**vars(self), "messages": [message.to_json() for message in self.messages]}


@dataclass(frozen=True)
class ChatAnswer:
    """What the model said. `failure` says why that is nothing (or only a beginning), and is "" if all is well."""

    text: str
    failure: str = ""


class ChatModel(Protocol):
    """A language model that answers many requests; `name` goes into provenance, caches and results."""

    @property
    def name(self) -> str: ...

    def complete(
        self, requests: Sequence[ChatRequest], *, progress: Callable[[int], None] = lambda done: None
    ) -> list[ChatAnswer]:
        """Returns one answer a request, in their order; `progress` hears how many are there.

        Raises: RequestError if the model cannot be asked at all.
        """
        ...


def plain_messages(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Returns the messages as role and content, for a model that reads text only. Raises: RequestError for audio."""
    if any(message.heard for message in messages):
        raise RequestError("the request holds audio, and this language model only reads text; send its transcript")
    return [{"role": message.role, "content": message.text} for message in messages]


def load_chat_model(name: str, *, max_concurrency: int = 8, timeout_s: float = 60.0) -> ChatModel:
    """Returns the model called `name`.

    name: `http://localhost:8000/v1#MODEL` is an OpenAI-compatible endpoint, asked up to `max_concurrency` questions at
    a time and waited for up to `timeout_s` each; anything else is the folder or hub id of a language model (or
    `tiny/llm`), run here.
    Raises: RequestError or ModelError if there is no such model.
    """
    if name.startswith(("http://", "https://")):
        from sonant.generate.endpoint import EndpointModel

        base_url, _, model = name.partition("#")
        if not model:
            raise RequestError(f"{name}: which model of this endpoint? write {name}#MODEL, such as #Qwen/Qwen3-8B")
        return EndpointModel(base_url, model, max_concurrency=max_concurrency, timeout_s=timeout_s)
    from sonant.generate.local import LocalModel

    return LocalModel.from_folder(name)

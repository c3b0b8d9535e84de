"""One answer on its way to a realtime client: the answerer's events in, OpenAI's events out.

response.created                                           the session
  response.output_item.added, conversation.item.added      with the first piece of the answer
  response.content_part.added
    response.output_text.delta ..                          or output_audio_transcript.delta .. output_audio.delta ..
    response.output_text.done                              or output_audio.done, output_audio_transcript.done
  response.content_part.done
  conversation.item.done, response.output_item.done
response.done                                              however it ended
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from sonant.serve.answering.questions import Event, Finished, SoundDelta, TextDelta
from sonant.serve.realtime.coding import Outgoing
from sonant.serve.realtime.items import Heard, Item, Said, Written
from sonant.serve.realtime.outputs import ServerEvent
from sonant.serve.realtime.shapes import AudioFormat, MaxTokens

Status: TypeAlias = Literal["completed", "cancelled", "failed", "incomplete"]
CancelReason: TypeAlias = Literal["turn_detected", "client_cancelled"]
_TRANSCRIPTION = "conversation.item.input_audio_transcription"


@dataclass(frozen=True)
class ResponsePlan:
    """What a response was asked to be."""

    id: str
    item_id: str
    conversation_id: str | None  # None: no part of the conversation
    spoken: bool
    format: AudioFormat
    voice: str
    max_output_tokens: MaxTokens
    metadata: dict[str, str] | None = None
    spoken_after: str | None = None  # only what follows the last of these in an answer is said

    def said_of(self, text: str) -> str:
        """Returns what of an answer that is complete is said."""
        return (text if self.spoken_after is None else text.rpartition(self.spoken_after)[2]).strip()

    def to_json(self) -> dict[str, Any]:
        """Returns what does not change while it is answered."""
        output = {"format": self.format.model_dump(), "voice": self.voice}
        return {
            "id": self.id,
            "object": "realtime.response",
            "conversation_id": self.conversation_id,
            "output_modalities": ["audio" if self.spoken else "text"],
            "max_output_tokens": self.max_output_tokens,
            "metadata": self.metadata,
            **({"audio": {"output": output}} if self.spoken else {}),
        }


@dataclass
class Response:
    """An answer as it comes. `take` and `end` yield events; the caller says where its item stands."""

    plan: ResponsePlan
    item: Item = field(init=False)
    is_open: bool = False  # the client knows the item
    _previous_item_id: str | None = None
    _outgoing: Outgoing | None = None

    def __post_init__(self) -> None:
        rate_hz = self.plan.format.coding.sample_rate_hz
        content = Said(sample_rate_hz=rate_hz, is_whole=False) if self.plan.spoken else Written("")
        self.item = Item(self.plan.item_id, "assistant", [content], status="in_progress")

    def created(self) -> ServerEvent:
        """Returns the event that begins it."""
        return {"type": "response.created", "response": self._to_json("in_progress")}

    def opened(self, *, previous_item_id: str | None) -> Iterator[ServerEvent]:
        """Yields the events that show its item, still empty."""
        self.is_open, self._previous_item_id = True, previous_item_id
        item = {**self.item.to_json(), "content": []}
        yield self._on_item("response.output_item.added", item)
        if self.plan.conversation_id is not None:
            yield {"type": "conversation.item.added", "previous_item_id": previous_item_id, "item": item}
        yield self._on_part("response.content_part.added", part=self._part(empty=True))

    def take(self, event: TextDelta | SoundDelta) -> Iterator[ServerEvent]:
        """Yields what the next piece of the answer tells the client."""
        match event, self.item.content[0]:
            case TextDelta(), Written() as written:
                written.text += event.text
                yield self._on_part("response.output_text.delta", delta=event.text)
            case TextDelta(), Said() as said:
                yield from self._write(said, event.text)
            case SoundDelta(), Said() as said:
                coding = self.plan.format.coding
                if self._outgoing is None:  # sound begins when the text is complete
                    yield from self._transcribe(said, self.plan.said_of(said.text))
                    self._outgoing = Outgoing(event.sample_rate_hz, coding)
                samples = self._outgoing.push(event.samples)
                if len(samples):
                    said.num_samples += len(samples)
                    yield self._on_part("response.output_audio.delta", delta=coding.encode(samples))

    def finish(self, finished: Finished) -> Iterator[ServerEvent]:
        """Yields the rest of an answer that came to its end."""
        content = self.item.content[0]
        if isinstance(content, Said):
            yield from self._finish_sound(content, finished)
        spoken = finished.spoken
        is_cut = finished.reason == "length" or (spoken is not None and not spoken.speech_finished)
        status: Status = "incomplete" if is_cut else "completed"
        details = {"type": status, "reason": "max_output_tokens"} if is_cut else None
        yield from self._close(status)
        yield {"type": "response.done", "response": self._to_json(status, details=details, usage=_usage(finished))}

    def cancel(self, reason: CancelReason) -> Iterator[ServerEvent]:
        """Yields the end of an answer that was interrupted."""
        yield from self._close("incomplete")
        details = {"type": "cancelled", "reason": reason}
        yield {"type": "response.done", "response": self._to_json("cancelled", details=details)}

    def fail(self, error: dict[str, str | None]) -> Iterator[ServerEvent]:
        """Yields the end of an answer that failed."""
        yield from self._close("incomplete")
        details = {"type": "failed", "error": {name: error[name] for name in ("type", "code", "message")}}
        yield {"type": "response.done", "response": self._to_json("failed", details=details)}

    def _write(self, said: Said, text: str) -> Iterator[ServerEvent]:
        """Adds written text; of a model that says only the end of it, the transcript begins behind the boundary."""
        said.text += text
        boundary = self.plan.spoken_after
        spoken = said.text if boundary is None else said.text.partition(boundary)[2]
        yield from self._transcribe(said, spoken.lstrip())

    def _transcribe(self, said: Said, transcript: str) -> Iterator[ServerEvent]:
        """Tells what is new of the transcript. One that turned out otherwise is told by its last event alone."""
        if transcript.startswith(said.transcript) and transcript != said.transcript:
            yield self._on_part("response.output_audio_transcript.delta", delta=transcript[len(said.transcript) :])
            said.transcript = transcript

    def _finish_sound(self, said: Said, finished: Finished) -> Iterator[ServerEvent]:
        if self._outgoing is not None and len(left := self._outgoing.finish()):
            said.num_samples += len(left)
            yield self._on_part("response.output_audio.delta", delta=self.plan.format.coding.encode(left))
        said.text = finished.text
        if finished.spoken is not None:
            yield from self._transcribe(said, finished.spoken.spoken_text)
            said.transcript, said.is_whole = finished.spoken.spoken_text, finished.spoken.speech_finished

    def _close(self, status: Status) -> Iterator[ServerEvent]:
        """The item is done, if the client knows of it."""
        if not self.is_open:
            return
        self.item.status = "completed" if status == "completed" else "incomplete"
        content = self.item.content[0]
        if isinstance(content, Said):
            yield self._on_part("response.output_audio.done")
            yield self._on_part("response.output_audio_transcript.done", transcript=content.transcript)
        elif isinstance(content, Written):
            yield self._on_part("response.output_text.done", text=content.text)
        yield self._on_part("response.content_part.done", part=self._part())
        item = self.item.to_json()
        if self.plan.conversation_id is not None:
            yield {"type": "conversation.item.done", "previous_item_id": self._previous_item_id, "item": item}
        yield self._on_item("response.output_item.done", item)

    def _part(self, *, empty: bool = False) -> dict[str, str]:
        content = self.item.content[0]
        if isinstance(content, Said):
            return {"type": "audio", "transcript": "" if empty else content.transcript}
        assert isinstance(content, Written)
        return {"type": "text", "text": "" if empty else content.text}

    def _on_part(self, type: str, **fields: Any) -> ServerEvent:
        where = {"response_id": self.plan.id, "item_id": self.item.id, "output_index": 0, "content_index": 0}
        return {"type": type, **where, **fields}

    def _on_item(self, type: str, item: dict[str, Any]) -> ServerEvent:
        return {"type": type, "response_id": self.plan.id, "output_index": 0, "item": item}

    def _to_json(
        self, status: str, *, details: dict[str, Any] | None = None, usage: dict[str, int] | None = None
    ) -> dict[str, Any]:
        output = [self.item.to_json()] if self.is_open and status != "in_progress" else []
        return {**self.plan.to_json(), "status": status, "status_details": details, "output": output, "usage": usage}


@dataclass
class Transcript:
    """What a user said, written down: no part of the answer, and asked beside it."""

    item_id: str
    heard: Heard

    def take(self, event: Event) -> Iterator[ServerEvent]:
        """Yields what the next piece of the transcript tells the client."""
        where = {"item_id": self.item_id, "content_index": 0}
        match event:
            case TextDelta():
                yield {"type": f"{_TRANSCRIPTION}.delta", **where, "delta": event.text}
            case Finished():
                self.heard.transcript = event.text
                usage = {"type": "tokens", **_usage(event)}
                yield {"type": f"{_TRANSCRIPTION}.completed", **where, "transcript": event.text, "usage": usage}

    def fail(self, error: dict[str, str | None]) -> ServerEvent:
        """Returns that it could not be written down."""
        return {"type": f"{_TRANSCRIPTION}.failed", "item_id": self.item_id, "content_index": 0, "error": error}


def _usage(finished: Finished) -> dict[str, int]:
    read, written = finished.prompt_tokens, finished.completion_tokens
    return {"total_tokens": read + written, "input_tokens": read, "output_tokens": written}

"""A realtime conversation as a pure state machine: what the client and the answerer say in, what to tell them out.

    receive(message) ──┐                                ┌──> events for the client
    answered(id, ..) ──┤  settings · buffer · items ·   ├──> Ask(id, question)
    failed(id, error) ─┘  answers on their way          └──> Drop(id)

It knows no socket, no clock and no model. Bad input gives an `error` event and changes nothing.
"""

import uuid
from collections.abc import Callable, Iterable
from typing import Any

from sonant.chat.messages import Conversation
from sonant.errors import SonantError
from sonant.generate.sampling import GenerationConfig
from sonant.serve.answering.questions import Event, Finished, Question
from sonant.serve.conversations import worded
from sonant.serve.failures import RefusedError, error_body
from sonant.serve.realtime import shapes
from sonant.serve.realtime.coding import Pcm
from sonant.serve.realtime.items import Heard, Item, Items, Said, check_size, conversation_of, item_of
from sonant.serve.realtime.outputs import Ask, Drop, Output, ServerEvent
from sonant.serve.realtime.response import CancelReason, Response, ResponsePlan, Transcript
from sonant.serve.realtime.shapes import ClientEvent, MaxTokens, ResponseParams, SessionSettings
from sonant.serve.realtime.turns import InputBuffer, TurnEvent, TurnStarted
from sonant.serve.service import Service
from sonant.serve.voices import check_has_voice, voice_named

MOST_ANSWERS = 4  # on their way at a time


def new_id(kind: str) -> str:
    """Returns an id that nobody has guessed: `kind_..`."""
    return f"{kind}_{uuid.uuid4().hex[:24]}"


class Session:
    """One client's conversation. Each method returns what is to be done now, in order."""

    def __init__(self, service: Service, *, expires_at: int | None = None, name: Callable[[str], str] = new_id) -> None:
        self._service, self._expires_at, self._name = service, expires_at, name
        self.id, self._conversation_id = name("sess"), name("conv")
        self._settings = SessionSettings(
            model=service.model_name, output_modalities=("audio",) if service.has_voice else ("text",)
        )
        self._items = Items(service.settings)
        self._input = self._new_input()
        self._turn_id: str | None = None  # of the item that the turn now spoken will be
        self._answers: dict[str, Response | Transcript] = {}  # on their way
        self._outputs: list[Output] = []

    def begin(self) -> list[Output]:
        """Greets the client."""
        self._tell("session.created", session=self._session())
        return self._taken()

    def receive(self, message: str) -> list[Output]:
        """Does what a client's message asks for."""
        try:
            event = shapes.client_event(message)
        except SonantError as error:
            return self.refuse(error, event_id=shapes.event_id_of(message))
        try:
            self._do(event)
        except Exception as error:  # a fault of ours is told in fixed words, and logged
            return self.refuse(error, event_id=event.event_id)
        return self._taken()

    def refuse(self, error: Exception, *, event_id: str | None = None) -> list[Output]:
        """Tells the client of an error, the session goes on; `event_id`: of the client's event that is at fault."""
        self._tell("error", error={**error_body(error)["error"], "event_id": event_id})
        return self._taken()

    def answered(self, id: str, event: Event) -> list[Output]:
        """Tells what the answerer says under an id; nothing if nobody waits for it any more."""
        answer = self._answers.get(id)
        if isinstance(event, Finished):
            self._answers.pop(id, None)
        match answer:
            case Transcript():
                self._tell_all(answer.take(event))
            case Response():
                self._open(answer)
                self._tell_all(answer.finish(event) if isinstance(event, Finished) else answer.take(event))
        return self._taken()

    def failed(self, id: str, error: Exception) -> list[Output]:
        """Tells that there will be no answer under an id, or no more of it."""
        fault = error_body(error)["error"]
        match answer := self._answers.pop(id, None):
            case Transcript():
                self._tell_all([answer.fail(fault)])
            case Response():
                self._tell_all(answer.fail(fault))
        return self._taken()

    def _do(self, event: ClientEvent) -> None:
        match event:
            case shapes.AudioAppend():
                samples = self._input.coding.decode(event.audio, param="audio")
                for turn in self._input.append(samples):
                    self._take_turn(turn)
            case shapes.AudioCommit():
                self._commit(self._input.kept())
                self._input.clear()
            case shapes.AudioClear():
                self._input.clear()
                self._turn_id = None
                self._tell("input_audio_buffer.cleared")
            case shapes.SessionUpdate():
                self._update(event.session)
            case shapes.ItemCreate():
                id = event.item.id or self._name("item")
                item = item_of(event.item, id=id, coding=self._input.coding)
                self._add(item, after=event.previous_item_id)
            case shapes.ItemRetrieve():
                item = self._items.get(event.item_id)
                self._tell("conversation.item.retrieved", item=item.to_json(with_audio=True))
            case shapes.ItemDelete():
                self._check_is_done(self._items.get(event.item_id))
                self._items.remove(event.item_id)
                self._tell("conversation.item.deleted", item_id=event.item_id)
            case shapes.ItemTruncate():
                self._truncate(event)
            case shapes.ResponseCreate():
                self._respond(event.response or ResponseParams())
            case shapes.ResponseCancel():
                self._cancel(self._running(event.response_id), reason="client_cancelled")

    def _update(self, changes: dict[str, Any]) -> None:
        old, new = self._settings, shapes.updated(self._settings, changes)
        if new.model != self._service.model_name:
            raise RefusedError(
                f"the model of a session stays what it is, {self._service.model_name!r}", param="session.model"
            )
        if new.audio.input.format != old.audio.input.format and self._input.written:
            raise RefusedError(
                "the input format cannot change once audio was appended; begin another session",
                param="session.audio.input.format",
            )
        self._check(new.output_modalities, new.max_output_tokens, new.audio.output.voice, where="session.")
        self._check_transcription(new.audio.input.transcription)
        self._settings = new
        if new.audio.input.format != old.audio.input.format:
            self._input = self._new_input()
        elif new.audio.input.turn_detection != old.audio.input.turn_detection:
            self._input.listen(new.audio.input.turn_detection)
            self._turn_id = None
        self._tell("session.updated", session=self._session())

    def _check(self, modalities: Iterable[str], max_tokens: MaxTokens, voice: str, *, where: str) -> None:
        """Raises: RefusedError for what this server or its model does not do."""
        if "audio" in modalities:
            check_has_voice(self._service, param=f"{where}output_modalities")
        if max_tokens != "inf" and max_tokens > self._service.settings.max_new_tokens:
            raise RefusedError(
                f"more than {self._service.settings.max_new_tokens} tokens are asked for, the most that this server "
                "gives; ask for fewer, or 'inf' for all of them",
                param=f"{where}max_output_tokens",
            )
        param = f"{where}audio.output.voice"
        if voice_named(self._service, voice, param=param) is not None:
            raise RefusedError(
                "this voice reads aloud (/v1/audio/speech); in a conversation the model speaks in its own, 'default'",
                param=param,
            )

    def _check_transcription(self, asked: shapes.Transcription | None) -> None:
        where, languages = "session.audio.input.transcription", self._service.settings.wordings.languages
        if asked is not None and asked.model not in (None, self._service.model_name):
            raise RefusedError(
                f"transcripts are written by the model itself, {self._service.model_name!r}; leave the model out",
                param=f"{where}.model",
            )
        if asked is not None and asked.language not in (None, *languages):
            raise RefusedError(f"this model transcribes {', '.join(languages)}", param=f"{where}.language")

    def _take_turn(self, turn: TurnEvent) -> None:
        vad = self._input.vad
        assert vad is not None
        if isinstance(turn, TurnStarted):
            self._turn_id = self._name("item")
            self._tell("input_audio_buffer.speech_started", audio_start_ms=turn.at_ms, item_id=self._turn_id)
            if vad.interrupt_response and (running := self._in_conversation()):
                self._cancel(running, reason="turn_detected")
            return
        self._turn_id = self._turn_id or self._name("item")
        self._tell("input_audio_buffer.speech_stopped", audio_end_ms=turn.at_ms, item_id=self._turn_id)
        try:
            self._commit(turn.samples)
            if vad.create_response:
                self._respond(ResponseParams())
        except SonantError as error:  # no client's event is at fault, and other turns may follow
            self._tell("error", error={**error_body(error)["error"], "event_id": None})

    def _commit(self, samples: Pcm) -> None:
        """Makes sound from the buffer an item."""
        id, self._turn_id = self._turn_id or self._name("item"), None
        heard = Heard(samples, self._input.coding)
        item, before = Item(id, "user", [heard]), self._items.last_id
        check_size([*self._items, item], self._service.settings)
        self._tell("input_audio_buffer.committed", previous_item_id=before, item_id=id)
        self._add(item)
        if self._settings.audio.input.transcription is not None:
            asked = worded(self._service.settings.wordings.transcription, heard.part())
            self._ask(self._name("tr"), Transcript(id, heard), asked)

    def _add(self, item: Item, *, after: str | None = None) -> None:
        before = self._items.add(item, after=after)
        self._service.metrics.heard.inc(item.heard_s)
        for stage in ("added", "done"):
            self._tell(f"conversation.item.{stage}", previous_item_id=before, item=item.to_json())

    def _truncate(self, event: shapes.ItemTruncate) -> None:
        item = self._items.get(event.item_id)
        self._check_is_done(item)
        said = item.content[0]
        if not isinstance(said, Said):
            raise RefusedError("only a spoken answer can be truncated; delete the item instead", param="item_id")
        if event.audio_end_ms > round(said.duration_s * 1000):
            raise RefusedError(
                f"the answer has {said.duration_s * 1000:.0f} ms of sound, less than that; nothing is truncated",
                param="audio_end_ms",
            )
        said.truncate(event.audio_end_ms / 1000)
        self._tell("conversation.item.truncated", item_id=item.id, content_index=0, audio_end_ms=event.audio_end_ms)

    def _check_is_done(self, item: Item) -> None:
        if item.status == "in_progress":
            raise RefusedError("this item is still being answered; cancel the response first", param="item_id")

    def _respond(self, asked: ResponseParams) -> None:
        """Begins an answer. Raises: RefusedError if it cannot, or may not now."""
        now = self._settings
        in_conversation = asked.conversation == "auto"
        if in_conversation and self._in_conversation():
            raise RefusedError(
                "the conversation has an answer on its way already; cancel it, or wait for response.done",
                code="conversation_already_has_active_response",
            )
        if sum(isinstance(answer, Response) for answer in self._answers.values()) >= MOST_ANSWERS:
            raise RefusedError(
                f"{MOST_ANSWERS} answers are on their way, the most that a session may ask for at a time"
            )
        modalities = asked.output_modalities or now.output_modalities
        max_tokens = asked.max_output_tokens or now.max_output_tokens
        voice = asked.audio.output.voice or now.audio.output.voice
        self._check(modalities, max_tokens, voice, where="response.")
        plan = ResponsePlan(
            id=self._name("resp"),
            item_id=self._name("item"),
            conversation_id=self._conversation_id if in_conversation else None,
            spoken="audio" in modalities,
            format=asked.audio.output.format or now.audio.output.format,
            voice=voice,
            max_output_tokens=max_tokens,
            metadata=asked.metadata,
            spoken_after=self._service.spoken_after,
        )
        items = list(self._items) if asked.input is None else self._read(asked.input)
        instructions = now.instructions if asked.instructions is None else asked.instructions
        check_size(items, self._service.settings, instructions=instructions)
        conversation = conversation_of(items, instructions=instructions)
        response = Response(plan)
        self._tell_all([response.created()])
        temperature = now.temperature if asked.temperature is None else asked.temperature
        self._ask(plan.id, response, conversation, temperature=temperature, max_tokens=max_tokens, spoken=plan.spoken)

    def _read(self, given: Iterable[shapes.ItemReference | shapes.ClientItem]) -> list[Item]:
        """What a response is to answer in place of the conversation."""
        return [
            self._items.get(item.id, param="response.input")
            if isinstance(item, shapes.ItemReference)
            else item_of(item, id=item.id or self._name("item"), coding=self._input.coding)
            for item in given
        ]

    def _ask(
        self,
        id: str,
        answer: Response | Transcript,
        conversation: Conversation,
        *,
        temperature: float = 0.0,
        max_tokens: MaxTokens = "inf",
        spoken: bool = False,
    ) -> None:
        config = GenerationConfig(
            max_new_tokens=self._service.settings.max_new_tokens if max_tokens == "inf" else max_tokens,
            temperature=temperature,
            seed=uuid.uuid4().int % 2**62,
        )
        self._answers[id] = answer
        question = Question(conversation, config, spoken=spoken, fit=max_tokens == "inf")
        self._outputs.append(Ask(id, question))

    def _open(self, response: Response) -> None:
        """Shows the item of an answer, with its first piece."""
        if not response.is_open:
            in_conversation = response.plan.conversation_id is not None
            before = self._items.add_answer(response.item) if in_conversation else None
            self._tell_all(response.opened(previous_item_id=before))

    def _cancel(self, response: Response, *, reason: CancelReason) -> None:
        del self._answers[response.plan.id]
        self._outputs.append(Drop(response.plan.id))
        self._tell_all(response.cancel(reason))

    def _in_conversation(self) -> Response | None:
        """The answer on its way that is part of the conversation."""
        for answer in self._answers.values():
            if isinstance(answer, Response) and answer.plan.conversation_id is not None:
                return answer
        return None

    def _running(self, id: str | None) -> Response:
        """The answer on its way of this id, or the conversation's. Raises: RefusedError if there is none."""
        answer = self._in_conversation() if id is None else self._answers.get(id)
        if not isinstance(answer, Response):
            raise RefusedError("no answer is on its way; there is nothing to cancel", code="response_cancel_not_active")
        return answer

    def _new_input(self) -> InputBuffer:
        asked = self._settings.audio.input
        return InputBuffer(asked.format.coding, vad=asked.turn_detection, max_s=self._service.settings.max_audio_s)

    def _session(self) -> dict[str, Any]:
        known = {"id": self.id, "object": "realtime.session", "expires_at": self._expires_at}
        return {**known, **self._settings.model_dump(mode="json")}

    def _tell(self, type: str, **fields: Any) -> None:
        self._tell_all([{"type": type, **fields}])

    def _tell_all(self, events: Iterable[ServerEvent]) -> None:
        self._outputs += [{"event_id": self._name("event"), **event} for event in events]

    def _taken(self) -> list[Output]:
        outputs, self._outputs = self._outputs, []
        return outputs

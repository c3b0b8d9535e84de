"""What realtime clients may say: OpenAI's events of general availability (GA), as pydantic models.

    {"type": "session.update", "session": {"type": "realtime", "output_modalities": ["text"]}}
    {"type": "input_audio_buffer.append", "audio": "<base64>"}

Fields that would change nothing here (no tools, no tracing) are taken at the one value that is true, and refused at any
other: nobody is left to believe that something was switched on.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

import pydantic
from pydantic import Field

from sonant.config import Config
from sonant.serve.failures import RefusedError
from sonant.serve.realtime.coding import CODINGS, Coding

MOST_VALUES = 10_000  # of an event; commas in texts are counted with them

Milliseconds = Annotated[int, Field(ge=0)]
MaxTokens: TypeAlias = Annotated[int, Field(ge=1)] | Literal["inf"]
Modalities: TypeAlias = tuple[Literal["text", "audio"]]  # one: audio always comes with its transcript
Temperature = Annotated[float, Field(ge=0, le=2)]
Id = Annotated[str, Field(min_length=1, max_length=128)]


class PcmFormat(Config):
    """16-bit little-endian samples at 24 kHz, mono."""

    type: Literal["audio/pcm"] = "audio/pcm"
    rate: Literal[24_000] = 24_000

    @property
    def coding(self) -> Coding:
        """How it is written."""
        return CODINGS[self.type]


class TelephoneFormat(Config):
    """G.711 at 8 kHz, mono: mu-law (pcmu) or A-law (pcma)."""

    type: Literal["audio/pcmu", "audio/pcma"]

    @property
    def coding(self) -> Coding:
        """How it is written."""
        return CODINGS[self.type]


AudioFormat: TypeAlias = Annotated[PcmFormat | TelephoneFormat, Field(discriminator="type")]


class ServerVad(Config):
    """Turns are found by the server: by the loudness of speech above the room's."""

    type: Literal["server_vad"]
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    prefix_padding_ms: Annotated[int, Field(ge=0, le=2_000)] = 300  # kept from before the first sound
    silence_duration_ms: Annotated[int, Field(ge=100, le=10_000)] = 500  # that ends a turn
    create_response: bool = True
    interrupt_response: bool = True
    idle_timeout_ms: None = None

    @property
    def margin_db(self) -> float:
        """How far above the room speech is: 2 to 14 dB, 8 at the default."""
        return 2.0 + 12.0 * self.threshold


class Transcription(Config):
    """What is said to the model is also written down, by the model itself."""

    model: str | None = None
    language: str | None = None
    prompt: None = None


class InputSettings(Config):
    """What comes in."""

    format: AudioFormat = PcmFormat()
    turn_detection: ServerVad | None = ServerVad(type="server_vad")
    transcription: Transcription | None = None
    noise_reduction: None = None


class OutputSettings(Config):
    """What goes out."""

    format: AudioFormat = PcmFormat()
    voice: str = "default"
    speed: Literal[1] = 1


class AudioSettings(Config):
    """Both directions."""

    input: InputSettings = InputSettings()
    output: OutputSettings = OutputSettings()


class SessionSettings(Config):
    """A session as it stands. `temperature` is ours: OpenAI has dropped it."""

    type: Literal["realtime"] = "realtime"
    model: str
    output_modalities: Modalities
    instructions: str = ""
    audio: AudioSettings = AudioSettings()
    temperature: Temperature = 0.0
    max_output_tokens: MaxTokens = "inf"
    tools: tuple[()] = ()
    tool_choice: Literal["auto", "none"] = "auto"
    truncation: Literal["disabled"] = "disabled"  # a conversation that is too long is refused, never cut in silence
    tracing: None = None
    prompt: None = None
    include: None = None


class InputText(Config):
    """Written words of a user or of the system."""

    type: Literal["input_text"]
    text: str


class InputAudio(Config):
    """A recording of a user, in the session's input format."""

    type: Literal["input_audio"]
    audio: str
    transcript: str | None = None


class OutputText(Config):
    """An earlier answer in writing."""

    type: Literal["output_text"]
    text: str


class OutputAudio(Config):
    """An earlier spoken answer: the model reads what was said."""

    type: Literal["output_audio"]
    transcript: str
    audio: None = None


class _MessageItem(Config):
    type: Literal["message"]
    id: Id | None = None
    object: Literal["realtime.item"] = "realtime.item"
    status: Literal["completed", "incomplete", "in_progress"] | None = None  # has no effect, as OpenAI has it


class UserItem(_MessageItem):
    """A turn of the user."""

    role: Literal["user"]
    content: Annotated[tuple[Annotated[InputText | InputAudio, Field(discriminator="type")], ...], Field(min_length=1)]


class SystemItem(_MessageItem):
    """What the model is told."""

    role: Literal["system"]
    content: Annotated[tuple[InputText, ...], Field(min_length=1)]


class AssistantItem(_MessageItem):
    """An earlier answer."""

    role: Literal["assistant"]
    content: Annotated[
        tuple[Annotated[OutputText | OutputAudio, Field(discriminator="type")], ...], Field(min_length=1)
    ]


ClientItem: TypeAlias = Annotated[UserItem | SystemItem | AssistantItem, Field(discriminator="role")]


class ItemReference(Config):
    """An item of the conversation by its id."""

    type: Literal["item_reference"]
    id: str


class ResponseOutput(Config):
    """How one response sounds."""

    format: AudioFormat | None = None
    voice: str | None = None


class ResponseAudio(Config):
    """Only the outgoing direction."""

    output: ResponseOutput = ResponseOutput()


class ResponseParams(Config):
    """What one response does otherwise than the session says."""

    conversation: Literal["auto", "none"] = "auto"  # none: an answer that is no part of the conversation
    input: tuple[ItemReference | ClientItem, ...] | None = None  # what is answered, in place of the conversation
    instructions: str | None = None
    output_modalities: Modalities | None = None
    audio: ResponseAudio = ResponseAudio()
    temperature: Temperature | None = None
    max_output_tokens: MaxTokens | None = None
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
        ]
        | None
    ) = None
    tools: tuple[()] = ()
    tool_choice: Literal["auto", "none"] = "auto"


class _ClientEvent(Config):
    event_id: Annotated[str, Field(max_length=512)] | None = None


class SessionUpdate(_ClientEvent):
    """Changes the settings that it names."""

    type: Literal["session.update"]
    session: dict[str, Any]


class AudioAppend(_ClientEvent):
    """More sound from the user."""

    type: Literal["input_audio_buffer.append"]
    audio: str


class AudioCommit(_ClientEvent):
    """What was appended is a turn."""

    type: Literal["input_audio_buffer.commit"]


class AudioClear(_ClientEvent):
    """What was appended is forgotten."""

    type: Literal["input_audio_buffer.clear"]


class ItemCreate(_ClientEvent):
    """An item is put into the conversation: at its end, after another one, or first of all ("root")."""

    type: Literal["conversation.item.create"]
    item: ClientItem
    previous_item_id: str | None = None


class ItemRetrieve(_ClientEvent):
    """An item is asked for."""

    type: Literal["conversation.item.retrieve"]
    item_id: str


class ItemDelete(_ClientEvent):
    """An item is taken out of the conversation."""

    type: Literal["conversation.item.delete"]
    item_id: str


class ItemTruncate(_ClientEvent):
    """Of a spoken answer, only so much was heard."""

    type: Literal["conversation.item.truncate"]
    item_id: str
    content_index: Literal[0]
    audio_end_ms: Milliseconds


class ResponseCreate(_ClientEvent):
    """The model is asked."""

    type: Literal["response.create"]
    response: ResponseParams | None = None


class ResponseCancel(_ClientEvent):
    """The model is stopped."""

    type: Literal["response.cancel"]
    response_id: str | None = None


ClientEvent: TypeAlias = (
    SessionUpdate
    | AudioAppend
    | AudioCommit
    | AudioClear
    | ItemCreate
    | ItemRetrieve
    | ItemDelete
    | ItemTruncate
    | ResponseCreate
    | ResponseCancel
)
_CLIENT_EVENT: pydantic.TypeAdapter[ClientEvent] = pydantic.TypeAdapter(
    Annotated[ClientEvent, Field(discriminator="type")]
)
_TAGS = {"user", "system", "assistant", "input_text", "input_audio", "output_text", "output_audio", *CODINGS}


def client_event(text: str) -> ClientEvent:
    """Returns the event in a message. Raises: RefusedError, naming the field."""
    # A minute of sound is one value; telling what is wrong with a million others would keep everybody waiting.
    if sum(map(text.count, ",[{")) > MOST_VALUES:
        raise RefusedError(f"the event holds more than {MOST_VALUES} values; send less at a time", code="too_large")
    try:
        return _CLIENT_EVENT.validate_json(text)
    except pydantic.ValidationError as error:
        raise _refusal(error, skip=1) from None


def event_id_of(text: str) -> str | None:
    """Returns the event_id in a message that is no valid event, if it can be made out."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    found = value.get("event_id") if isinstance(value, dict) else None
    return found if isinstance(found, str) and len(found) <= 512 else None


def updated(settings: SessionSettings, changes: Mapping[str, Any]) -> SessionSettings:
    """Returns the settings with `changes` laid on top. Raises: RefusedError, naming the field."""
    try:
        return SessionSettings.model_validate(_laid_over(settings.model_dump(mode="json"), changes))
    except pydantic.ValidationError as error:
        raise _refusal(error, skip=0, where="session") from None


def _laid_over(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Mapping by mapping; one that names another `type` replaces what was there."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping) and value.get("type") in (None, old.get("type")):
            merged[key] = _laid_over(old, value)
        else:
            merged[key] = value
    return merged


def _refusal(error: pydantic.ValidationError, *, skip: int, where: str = "") -> RefusedError:
    """The first fault in words; values are not repeated: they may be megabytes."""
    fault = error.errors(include_url=False, include_input=False)[0]
    param = ".".join([where] * bool(where) + [str(part) for part in fault["loc"][skip:] if part not in _TAGS])
    match fault["type"]:
        case "extra_forbidden":
            what = "this server does not know this field; leave it out (it speaks the GA protocol, not the beta)"
        case "none_required":
            what = "this server does not support this; leave it out, or null"
        case "json_invalid":
            what = "the message is not valid JSON"
        case "union_tag_invalid" | "union_tag_not_found":
            what = f"this is none of {fault['ctx'].get('expected_tags', 'the kinds that are known')}"
            param = ".".join(filter(None, [param, str(fault["ctx"]["discriminator"]).strip("'")]))
        case _:
            what = str(fault["msg"])
    return RefusedError(f"{param}: {what}" if param else what, param=param or None)

"""A session without a socket and without a model: tests say what the client and the answerer say."""

import base64
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast, get_args

import numpy as np
import pydantic
from numpy.typing import NDArray
from openai.types.realtime import realtime_server_event

from sonant.generate.reply import SpokenReply
from sonant.serve.answering.answerer import Answerer
from sonant.serve.answering.questions import Event, Finished, Question, SoundDelta, TextDelta
from sonant.serve.realtime.outputs import Ask, Drop, Output, ServerEvent
from sonant.serve.realtime.session import Session
from sonant.serve.service import Service
from sonant.serve.settings import ServeConfig
from sonant.serve.untrusted_audio import AudioDecoder

RATE_HZ = 24_000
Samples = NDArray[np.float32]

EVENTS: dict[str, type[pydantic.BaseModel]] = {
    get_args(cls.model_fields["type"].annotation)[0]: cls
    for cls in get_args(get_args(realtime_server_event.RealtimeServerEvent)[0])
}
# What we add to OpenAI's shapes, or what they left out of the types of a client.
OURS = {"temperature", "id", "object", "expires_at"}


def check_shape(event: ServerEvent) -> None:
    """What the server says is what the openai client's types hold: every field required, none unknown."""
    parsed = EVENTS[event["type"]].model_validate(event)
    assert not unknown_fields(parsed) - OURS, event


def unknown_fields(value: Any) -> set[str]:
    if isinstance(value, list):
        return set().union(*map(unknown_fields, value))
    if not isinstance(value, pydantic.BaseModel):
        return set()
    known = [getattr(value, name) for name in type(value).model_fields]
    return set(value.model_extra or ()).union(*map(unknown_fields, known))


def counter() -> Callable[[str], str]:
    """Ids that tell in which order they were given: item_1, item_2, resp_1, .."""
    counts: dict[str, Iterator[int]] = {}
    return lambda kind: f"{kind}_{next(counts.setdefault(kind, itertools.count(1)))}"


@dataclass
class Talk:
    """A client and an answerer, played by the test. What the session says since the last look is in `events`."""

    session: Session
    events: list[ServerEvent] = field(default_factory=list)
    questions: dict[str, Question] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._take(self.session.begin())

    def say(self, type: str, **fields: Any) -> list[ServerEvent]:
        return self.send(json.dumps({"type": type, **fields}))

    def send(self, message: str) -> list[ServerEvent]:
        return self._take(self.session.receive(message))

    def set(self, **settings: Any) -> list[ServerEvent]:
        return self.say("session.update", session={"type": "realtime", **settings})

    def speak(self, samples: Samples, *, chunk_s: float = 0.1) -> list[ServerEvent]:
        """Appends sound as a microphone would."""
        size = round(chunk_s * RATE_HZ)
        return [
            event
            for start in range(0, len(samples), size)
            for event in self.say("input_audio_buffer.append", audio=pcm(samples[start : start + size]))
        ]

    def write(self, text: str, *, role: str = "user") -> list[ServerEvent]:
        kind = "output_text" if role == "assistant" else "input_text"
        item = {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}
        return self.say("conversation.item.create", item=item)

    def answer(self, id: str, *events: Event) -> list[ServerEvent]:
        return [told for event in events for told in self._take(self.session.answered(id, event))]

    def fail(self, id: str, error: Exception) -> list[ServerEvent]:
        return self._take(self.session.failed(id, error))

    @property
    def asked(self) -> str:
        """The id of the latest question."""
        return list(self.questions)[-1]

    def _take(self, outputs: list[Output]) -> list[ServerEvent]:
        told: list[ServerEvent] = []
        for output in outputs:
            match output:
                case Ask():
                    self.questions[output.id] = output.question
                case Drop():
                    self.dropped.append(output.id)
                case _:
                    check_shape(output)
                    told.append(output)
        self.events += told
        return told


def pcm(samples: Samples) -> str:
    return base64.b64encode((samples * 32_767).astype("<i2").tobytes()).decode()


def samples_of(audio: str) -> NDArray[np.int16]:
    return np.frombuffer(base64.b64decode(audio), "<i2")


def types(events: list[ServerEvent]) -> list[str]:
    return [event["type"] for event in events]


def syllables(seconds: float, *, rate_hz: int = RATE_HZ) -> Samples:
    """Something that voice activity takes for speech."""
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    tone = sum(np.sin(2 * np.pi * 120 * k * time_s) / k for k in range(1, 20))
    shape = np.maximum(np.sin(2 * np.pi * 4 * time_s), 0.0) + 0.003
    return np.asarray(0.2 * tone * shape, np.float32)


def room(seconds: float) -> Samples:
    """A quiet room."""
    return np.random.default_rng(0).normal(0.0, 3e-4, round(seconds * RATE_HZ)).astype(np.float32)


def finished(text: str, *, reason: Any = "stop", spoken: SpokenReply | None = None) -> Finished:
    return Finished(text, reason, prompt_tokens=7, completion_tokens=3, spoken=spoken)


def spoken(text: str, samples: Samples, *, spoken_text: str | None = None, rate_hz: int = 16_000) -> SpokenReply:
    return SpokenReply(
        text=text,
        spoken_text=text if spoken_text is None else spoken_text,
        token_ids=(1,),
        text_finished=True,
        speech_finished=True,
        samples=samples,
        sample_rate_hz=rate_hz,
        mels=np.zeros((1, 1), np.float32),
        seconds=0.1,
    )


def written(text: str) -> list[Event]:
    """What the answerer says of a text, word by word."""
    words = [word + " " for word in text.split(" ")]
    words[-1] = words[-1][:-1]
    return [*(TextDelta(word) for word in words), finished(text)]


def said(text: str, samples: Samples, *, chunk: int = 1000, **fields: Any) -> list[Event]:
    """What the answerer says of a text that is said aloud."""
    sound = [SoundDelta(samples[start : start + chunk], 16_000) for start in range(0, len(samples), chunk)]
    return [*written(text)[:-1], *sound, finished(text, spoken=spoken(text, samples, **fields))]


def service_of(*, has_voice: bool = False, spoken_after: str | None = None, **settings: Any) -> Service:
    return Service(
        answerer=cast(Answerer, None),
        decoder=cast(AudioDecoder, None),
        settings=ServeConfig(**settings),
        model_name="tiny",
        has_voice=has_voice,
        spoken_after=spoken_after,
    )

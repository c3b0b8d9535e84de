"""Servers for tests: of a model that answers, or of one whose answers the test writes."""

import contextlib
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import soundfile
import uvicorn
from numpy.typing import NDArray

from sonant.audio.io import load
from sonant.generate.reply import SpokenReply
from sonant.serve.answering.answer import Answer
from sonant.serve.answering.answerer import Answerer, AnswererStats
from sonant.serve.answering.questions import Event, Finished, Question, SoundDelta, TextDelta, TokenScore
from sonant.serve.running import uvicorn_config
from sonant.serve.service import Service
from sonant.serve.settings import ServeConfig
from sonant.serve.untrusted_audio import AudioDecoder
from sonant.testing import tone

Told = Sequence[Event] | Exception


class OwnDecoder:
    """Decodes in the test's own process: workers take a second to start, and have tests of their own."""

    restarts = 0

    async def decode(self, data: bytes, *, max_duration_s: float) -> NDArray[np.float32]:
        return load(data, max_duration_s=max_duration_s)

    def close(self) -> None:
        pass


class Scripted:
    """An answerer that says what the test tells it to, by default the number of each question as two deltas.

    A script without `Finished` leaves its answer open, as a model that is still writing.
    """

    def __init__(self, told: Callable[[Question], Told] | None = None) -> None:
        self.told = told or (lambda question: written("an ", "answer"))
        self.questions: list[Question] = []
        self.answers: list[Answer] = []
        self.drained = threading.Event()

    def start(self) -> None:
        pass

    def submit(self, question: Question) -> Answer:
        said = self.told(question)
        if isinstance(said, Exception):
            raise said
        self.questions.append(question)
        answer = Answer()
        for event in said:
            answer.send(event)
        self.answers.append(answer)
        return answer

    async def drain(self, timeout_s: float) -> bool:
        self.drained.set()
        return True

    def close(self) -> None:
        pass

    def count_anew(self) -> None:
        pass

    def stats(self) -> AnswererStats:
        return AnswererStats(2, 1, 5, 4, 0, 1, 0, prompt_tokens=70, completion_tokens=30)


def written(*deltas: str, reason: Any = "stop", scored: bool = False) -> list[Event]:
    """The events of a written answer."""

    def scores(text: str) -> tuple[TokenScore, ...]:
        other = TokenScore("other", b"other", -2.5)
        return (TokenScore(text, text.encode(), -0.25, (TokenScore(text, text.encode(), -0.25), other)),)

    texts = [TextDelta(text, scores(text) if scored else ()) for text in deltas]
    return [*texts, Finished("".join(deltas), reason, prompt_tokens=7, completion_tokens=len(deltas) + 1)]


def said(text: str, *chunks: NDArray[np.float32], rate_hz: int = 16_000, cut_off: bool = False) -> list[Event]:
    """The events of an answer that is written and then said."""
    whole = np.concatenate([np.zeros(0, np.float32), *chunks])
    nothing = np.zeros((0, 1), np.float32)
    spoken = SpokenReply(text, text, (), True, not cut_off, whole, rate_hz, nothing, 0.1)
    return [TextDelta(text), *(SoundDelta(chunk, rate_hz) for chunk in chunks), Finished(text, "stop", 7, 3, spoken)]


def scripted_service(answerer: Scripted | None = None, *, has_voice: bool = False, **settings: Any) -> Service:
    """A service whose answers the test writes."""
    return Service(
        answerer=cast(Answerer, answerer or Scripted()),
        decoder=cast(AudioDecoder, OwnDecoder()),
        settings=ServeConfig.model_validate({"request_timeout_s": 20.0, "drain_s": 1.0, **settings}),
        model_name="tiny",
        has_voice=has_voice,
    )


@contextmanager
def serving(service: Service) -> Iterator[str]:
    """Serves over loopback; gives the URL."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn_config(service))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    until = time.monotonic() + 30
    while not server.started and thread.is_alive() and time.monotonic() < until:
        time.sleep(0.01)
    try:
        assert server.started
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        with contextlib.suppress(OSError):
            listening.close()


def wav(seconds: float = 0.3, *, rate_hz: int = 16_000, format: str = "WAV") -> bytes:
    """A tone as a file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(seconds, 440, rate_hz), rate_hz, format=format)
    return buffer.getvalue()

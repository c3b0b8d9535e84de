"""What a server is made of."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from sonant.chat.messages import AudioPart
from sonant.serve.answering.answerer import Answerer
from sonant.serve.metrics import Metrics
from sonant.serve.settings import ServeConfig
from sonant.serve.untrusted_audio import AudioDecoder


class Doors:
    """How many requests and realtime sessions are under way, and whether more may come in."""

    def __init__(self) -> None:
        self.under_way, self.sessions, self.closing = 0, 0, False

    async def close(self, *, timeout_s: float) -> None:
        """Lets nobody in any more, and waits until everybody is out, for `timeout_s` at most."""
        self.closing = True
        until = time.monotonic() + timeout_s
        while (self.under_way or self.sessions) and time.monotonic() < until:
            await asyncio.sleep(0.02)


@dataclass(frozen=True)
class Service:
    """A model that answers, with everything that a route needs to ask it."""

    answerer: Answerer
    decoder: AudioDecoder
    settings: ServeConfig
    model_name: str
    has_voice: bool
    voices: Mapping[str, AudioPart | None] = field(default_factory=lambda: {"default": None})  # who lends each, if any
    spoken_after: str | None = None  # only what follows the last of these in an answer is said
    metrics: Metrics = field(default_factory=Metrics)
    doors: Doors = field(default_factory=Doors)

    async def drain(self) -> None:
        """Lets nobody in any more and answers what was accepted, for `drain_s` seconds at most."""
        began = time.monotonic()
        await self.doors.close(timeout_s=self.settings.drain_s)
        await self.answerer.drain(max(0.0, self.settings.drain_s - (time.monotonic() - began)))

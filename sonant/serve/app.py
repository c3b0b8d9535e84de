"""The application: what a server is made of, and which routes it has.

    request ──▶ guard (host, origin, key, how many, how large, how long) ──▶ route ──▶ Answerer ──▶ answer
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fastapi import FastAPI

from sonant import __version__
from sonant.serve.answering import Answerer
from sonant.serve.failures import handle_failures
from sonant.serve.guard import guard
from sonant.serve.metrics import Metrics
from sonant.serve.settings import ServeConfig
from sonant.serve.untrusted_audio import AudioDecoder


@dataclass(frozen=True)
class Service:
    """A model that answers, with everything that a route needs to ask it."""

    answerer: Answerer
    decoder: AudioDecoder
    settings: ServeConfig
    model_name: str
    has_voice: bool
    metrics: Metrics = field(default_factory=Metrics)


def create_app(service: Service) -> FastAPI:
    """Returns the application; it starts the service when it starts, and drains and closes it when it stops."""
    from sonant.serve import chat_completions, health, models, page, speech, transcriptions

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.answerer.start()
        service.metrics.watch(service.answerer.stats)
        try:
            yield
            await service.answerer.drain(service.settings.drain_s)
        finally:
            service.answerer.close()
            service.decoder.close()

    app = FastAPI(
        title="Sonant",
        summary="A speech language model behind OpenAI's API.",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # they would load scripts from a third-party host
        redoc_url=None,
        redirect_slashes=False,
    )
    handle_failures(app)
    for room in (health, models, chat_completions, transcriptions, speech):
        app.include_router(room.routes(service))
    if service.settings.page:
        app.include_router(page.routes())
    guard(app, service.settings, metrics=service.metrics)
    return app

"""The application: which routes a server has, and what stands before them.

request ──▶ guard (host, origin, key, how many, how large, how long) ──▶ route ──▶ Answerer ──▶ answer
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from sonant import __version__
from sonant.serve import chat_completions, health, models, page, speech, transcriptions
from sonant.serve.failures import Failure, handle_failures
from sonant.serve.guard import guard
from sonant.serve.realtime import routes as realtime
from sonant.serve.service import Service


def create_app(service: Service) -> FastAPI:
    """Returns the application; it starts the service when it starts, and drains and closes it when it stops."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.answerer.start()
        service.metrics.watch(service.answerer.stats, restarts=lambda: service.decoder.restarts)
        try:
            yield
            await service.drain()
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
        responses={"4XX": {"model": Failure}, "5XX": {"model": Failure}},
    )
    handle_failures(app)
    for room in (health, models, chat_completions, transcriptions, speech, realtime):
        app.include_router(room.routes(service))
    if service.settings.page:
        app.include_router(page.routes())
    guard(app, service)
    return app

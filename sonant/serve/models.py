"""GET /v1/models: the one model that is served, and whether it speaks."""

import time
from typing import Literal

from fastapi import APIRouter

from sonant.config import Config
from sonant.serve.failures import RefusedError
from sonant.serve.service import Service


class Model(Config):
    """A model as OpenAI lists it; `modalities` is ours: what it answers in."""

    id: str
    object: Literal["model"] = "model"
    created: int  # seconds since 1970 at which the server began to serve it
    owned_by: str = "sonant"
    modalities: tuple[Literal["text", "audio"], ...]
    voices: tuple[str, ...]


class Models(Config):
    """All models of a server: one."""

    object: Literal["list"] = "list"
    data: tuple[Model, ...]


def check_model(service: Service, asked: str) -> None:
    """Raises: RefusedError (404) if another model is asked for than is served."""
    if asked != service.model_name:
        raise RefusedError(
            f"there is no model of the name asked for; this server has {service.model_name!r}",
            status=404,
            param="model",
            code="model_not_found",
        )


def routes(service: Service) -> APIRouter:
    """Returns the routes that list the model."""
    router = APIRouter(prefix="/v1", tags=["models"])
    model = Model(
        id=service.model_name,
        created=int(time.time()),
        modalities=("text", "audio") if service.has_voice else ("text",),
        voices=tuple(service.voices) if service.has_voice else (),
    )

    @router.get("/models")
    async def list_models() -> Models:
        """Lists the model."""
        return Models(data=(model,))

    @router.get("/models/{name:path}")
    async def retrieve_model(name: str) -> Model:
        """Describes the model."""
        check_model(service, name)
        return model

    return router

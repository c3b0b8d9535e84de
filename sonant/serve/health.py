"""Is it alive, and what does it do: /health for load balancers, /metrics for Prometheus."""

from typing import Literal

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from sonant.config import Config
from sonant.serve.service import Service


class Health(Config):
    """Whether it takes questions."""

    status: Literal["ok", "closing"]


def routes(service: Service) -> APIRouter:
    """Returns the two routes."""
    router = APIRouter(tags=["operation"])

    @router.get("/health", responses={503: {"model": Health}})
    async def health(response: Response) -> Health:
        """Says that the server runs; needs no key. 503 once it is about to stop: send it nothing more."""
        response.status_code = 503 if service.doors.closing else 200
        return Health(status="closing" if service.doors.closing else "ok")

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """What the server has done and does, in Prometheus' text format."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return router

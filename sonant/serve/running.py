"""Running a server: a folder becomes a service, uvicorn serves it, SIGTERM and SIGINT end it in good order."""

import os
from collections.abc import Callable
from pathlib import Path

from sonant.generate.assistant import Assistant
from sonant.serve.answering import Answerer
from sonant.serve.app import Service, create_app
from sonant.serve.settings import ServeConfig
from sonant.serve.untrusted_audio import AudioDecoder


def load_service(folder: str | os.PathLike[str], settings: ServeConfig, *, device: str = "cpu") -> Service:
    """Returns the service of the model in `folder`, not yet started. Raises: CheckpointError, ModelError."""
    assistant = Assistant.from_folder(folder, device=device)
    return Service(
        answerer=Answerer(assistant, max_rows=settings.max_rows, max_waiting=settings.max_waiting),
        decoder=AudioDecoder(
            memory_bytes=settings.decode_memory_bytes,
            timeout_s=settings.decode_timeout_s,
            workers=settings.decode_workers,
        ),
        settings=settings,
        model_name=settings.model_name or Path(folder).resolve().name,
        has_voice=assistant.model.speech_head is not None,
    )


def run(service: Service, *, on_ready: Callable[[str], None] = lambda url: None) -> None:
    """Serves until SIGTERM or SIGINT, then answers what was accepted, for `drain_s` seconds at most.

    on_ready: is told the URL once the server listens.
    """

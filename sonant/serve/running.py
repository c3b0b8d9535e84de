"""Running a server: a folder becomes a service, uvicorn serves it, SIGTERM and SIGINT end it in good order."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import torch
import uvicorn

from sonant.audio.io import info
from sonant.chat.messages import AudioPart
from sonant.errors import ConfigError
from sonant.generate.assistant import Assistant
from sonant.serve.answering.answerer import Answerer
from sonant.serve.app import create_app
from sonant.serve.media_urls import MediaHost
from sonant.serve.memory import keep_giving_back, settle
from sonant.serve.service import Service
from sonant.serve.settings import ServeConfig
from sonant.serve.untrusted_audio import AudioDecoder
from sonant.serve.warm_up import warm_up

# Of oneDNN, which makes one for each shape and keeps 1024. Clips of all lengths hardly ever need one again, and each
# holds a quarter of a megabyte; a voice needs all of its own for every piece of sound.
KEPT_KERNELS, KEPT_KERNELS_OF_A_VOICE = 16, 128


def load_service(folder: str | os.PathLike[str], settings: ServeConfig, *, device: str = "cpu") -> Service:
    """Returns the service of the model in `folder`, not yet started.

    Raises: CheckpointError or ModelError if there is no model; ConfigError or AudioError if settings do not fit.
    """
    settings.check_lock()
    for host in settings.media_hosts:
        MediaHost.parse(host)
    lent = {name: None if path is None else _recording(path) for name, path in settings.voices.items()}
    assistant = Assistant.from_folder(folder, device=device)
    head = assistant.model.speech_head
    return Service(
        answerer=Answerer(
            assistant,
            max_rows=settings.max_rows,
            max_waiting=settings.max_waiting,
            threads=threads_of(settings.threads),
        ),
        decoder=AudioDecoder(
            memory_bytes=settings.decode_memory_bytes,
            timeout_s=settings.decode_timeout_s,
            workers=settings.decode_workers,
        ),
        settings=settings,
        model_name=settings.model_name or Path(folder).resolve().name,
        has_voice=head is not None,
        voices={"default": None, **lent},
        spoken_after=None if head is None else head.config.spoken_after,
    )


def threads_of(asked: int | None) -> int:
    """Returns how many threads the model takes to hear, and to write: what is asked, OMP_NUM_THREADS, or all but one.

    The last one reads requests and recordings. Where the model takes every core, each of its products waits for a
    thread that has been set aside for that: on two cores, first tokens come later and fewer requests are answered.
    """
    taken = torch.get_num_threads()
    return asked or (taken if "OMP_NUM_THREADS" in os.environ else max(1, taken - 1))


def run(service: Service, *, on_ready: Callable[[str], None] = lambda url: None) -> None:
    """Serves until SIGTERM or SIGINT, then answers what was accepted, for `drain_s` seconds at most.

    on_ready: is told the URL once the server listens.

    Raises: ConfigError if the address cannot be listened on.
    """
    settings = service.settings
    listening = bound(settings)
    # Read by oneDNN when torch first asks it for a kernel, which is in the warm-up.
    kept = KEPT_KERNELS_OF_A_VOICE if service.has_voice else KEPT_KERNELS
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(kept))
    if settings.warm_up:
        asyncio.run(warm_up(service))
    settle()
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{listening.getsockname()[1]}"
    server = _Server(uvicorn_config(service), service, on_ready=lambda: on_ready(url))
    # uvicorn raises a signal again once it has stopped: answered, it must not kill the process.
    ended_by = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run(sockets=[listening])
    finally:
        for number, handler in ended_by.items():
            signal.signal(number, handler)


def uvicorn_config(service: Service) -> uvicorn.Config:
    """Returns how uvicorn serves: with bounds on what one connection may send before anybody looks at it."""
    settings = service.settings
    return uvicorn.Config(
        create_app(service),
        log_level="warning",
        access_log=False,
        limit_concurrency=settings.max_connections,
        timeout_graceful_shutdown=1,  # everybody is out by then
        http="h11",  # httptools, which is taken where it is installed, knows no bound of headers
        h11_max_incomplete_event_size=64 * 1024,
        ws="websockets-sansio",
        ws_max_size=settings.max_event_bytes + 64 * 1024,
        server_header=False,
        lifespan="on",
    )


class _Server(uvicorn.Server):
    """A server that tells when it listens, and answers what it accepted before it stops listening.

    uvicorn's own way closes the port and every WebSocket first: who comes then is refused without a word.
    """

    def __init__(self, config: uvicorn.Config, service: Service, *, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._service, self._on_ready = service, on_ready
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._loop = asyncio.get_running_loop()
            self._giving_back = asyncio.create_task(keep_giving_back())  # ends with the loop
            self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._loop is None or self._service.doors.closing:  # not yet listening, or told twice: at once
            super().handle_exit(sig, frame)
        else:
            self._loop.call_soon_threadsafe(self._begin_to_stop)

    def _begin_to_stop(self) -> None:
        self._stopping = asyncio.create_task(self._stop())

    async def _stop(self) -> None:
        await self._service.drain()
        self.should_exit = True


def bound(settings: ServeConfig) -> socket.socket:
    """Returns a socket that is bound to the address and sends at once. Raises: ConfigError if it cannot be bound."""
    try:
        family, _, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(address[:2], family=family)
    except OSError as error:
        raise ConfigError(
            f"{settings.host}:{settings.port}: cannot be listened on ({error.strerror}); choose another port "
            "(0: any that is free), or end what listens there"
        ) from None
    # Accepted connections inherit it; asyncio sets it only on sockets that name their protocol, which this one does
    # not. Without it what follows the headers waits, for 40 ms, until the client has acknowledged them.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def _recording(path: str) -> AudioPart:
    """A recording of whoever lends a voice, read once. Raises: AudioError."""
    info(path)
    return AudioPart(data=Path(path).read_bytes())

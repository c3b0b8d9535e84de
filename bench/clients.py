"""Clients of a server and the server itself: what they were told, how long it took, how much memory it held."""

import asyncio
import base64
import contextlib
import io
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx2
import numpy as np
import soundfile
from numpy.typing import NDArray

LOOK_S = 0.1  # between two questions to /health
START_S = 600.0  # at most until a server listens: a busy machine imports for minutes


@dataclass(frozen=True)
class Asked:
    """What became of one request."""

    status: int | None  # None: the connection was refused or broke off
    text: str = ""
    complete: bool = False  # the answer came to its end
    num_tokens: int = 0
    first_s: float = float("nan")  # from the question to the first text
    seconds: float = 0.0
    retry_after_s: float | None = None
    error: str = ""  # what a stream told of a failure in its midst


class Client:
    """Asks a server about clips, as many at a time as it is asked to."""

    def __init__(
        self, url: str, *, model: str | None = None, max_tokens: int | None = None, stream: bool = True
    ) -> None:
        self.url, self.model, self.max_tokens, self.stream = url, model, max_tokens, stream
        self._http = httpx2.AsyncClient(timeout=600.0, limits=httpx2.Limits(max_connections=None))

    async def __aenter__(self) -> "Client":
        if self.model is None:
            self.model = (await self._http.get(f"{self.url}/v1/models")).json()["data"][0]["id"]
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._http.aclose()

    async def ask(self, clip: bytes) -> Asked:
        """Returns what was answered to a WAV file."""
        audio = {"data": base64.b64encode(clip).decode(), "format": "wav"}
        content = [{"type": "text", "text": "transcribe:"}, {"type": "input_audio", "input_audio": audio}]
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "stream": self.stream,
        }
        body |= {} if self.max_tokens is None else {"max_tokens": self.max_tokens, "temperature": 0.0}
        began = time.perf_counter()
        try:
            async with self._http.stream("POST", f"{self.url}/v1/chat/completions", json=body) as response:
                if response.status_code != 200:
                    after = response.headers.get("retry-after")
                    return Asked(response.status_code, retry_after_s=None if after is None else float(after))
                return await (_read(response, began) if self.stream else _whole(response, began))
        except httpx2.HTTPError:
            return Asked(None)


async def _whole(response: Any, began: float) -> Asked:
    try:
        answer = json.loads(await response.aread())
    except httpx2.HTTPError:
        return Asked(200)
    (choice,), seconds = answer["choices"], time.perf_counter() - began
    text, num_tokens = choice["message"]["content"], answer["usage"]["completion_tokens"]
    return Asked(200, text, choice["finish_reason"] is not None, num_tokens, seconds, seconds)


async def _read(response: Any, began: float) -> Asked:
    text, first_s, reason, num_tokens = "", float("nan"), None, 0
    try:
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            if '"error"' in line[:20]:  # of `transformers serve` this need not be JSON
                return Asked(200, text, error=line)
            event = json.loads(line.removeprefix("data: "))
            for choice in event.get("choices", ()):
                if piece := choice["delta"].get("content"):
                    first_s = time.perf_counter() - began if not text else first_s
                    text, num_tokens = text + piece, num_tokens + 1
                reason = choice.get("finish_reason") or reason
    except httpx2.HTTPError:
        reason = None
    return Asked(200, text, reason is not None, num_tokens, first_s, time.perf_counter() - began)


class Server:
    """A process that serves, from when it listens until it is told to stop."""

    def __init__(self, command: Sequence[str], *, url: str | None = None, health: str = "/health") -> None:
        """url: where it will listen; None: it prints its address."""
        env = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
        out = subprocess.DEVNULL if url else subprocess.PIPE
        self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL, text=True, env=env)
        self.url = url or self._printed()
        self._wait_for(self.url + health)

    @classmethod
    def of_sonant(cls, model: Path, *settings: str) -> "Server":
        """Returns `sonant serve` of a model's folder."""
        return cls([sys.executable, "-m", "sonant", "serve", str(model), "--port", "0", *settings])

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()

    @property
    def memory_bytes(self) -> int:
        """Returns what it and its workers hold in memory."""
        return sum(_resident(pid) for pid in [self.process.pid, *_children(self.process.pid)])

    def _printed(self) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.search(r"http://[\w.:]+", line):
                return found[0]
        raise SystemExit(f"the server ended with {self.process.wait()} before it listened")

    def _wait_for(self, address: str) -> None:
        until = time.monotonic() + START_S
        while time.monotonic() < until and self.process.poll() is None:
            with contextlib.suppress(httpx2.HTTPError):
                if httpx2.get(address).status_code == 200:
                    return
            time.sleep(0.2)
        self.process.kill()
        raise SystemExit(f"{address} did not answer within {START_S:.0f} s (exit status {self.process.poll()})")


class Watch:
    """Looks after a server while others ask it: how fast /health answers, how much memory it holds."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.health_ms: list[float] = []
        self._memory: list[tuple[float, int]] = []  # seconds since the watch began, bytes

    async def __aenter__(self) -> "Watch":
        self._looking = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._looking.cancel()
        await asyncio.gather(self._looking, return_exceptions=True)

    def memory_until(self, seconds: float) -> float:
        """Returns the bytes held in the first seconds, their median."""
        return percentile([held for at_s, held in self._memory if at_s <= seconds], 50)

    def memory_of(self, *, last: float) -> float:
        """Returns the bytes held in the last share of the time, their median."""
        return percentile([held for _, held in self._memory[-math.ceil(last * len(self._memory)) :]], 50)

    async def _look(self) -> None:
        start = time.perf_counter()
        async with httpx2.AsyncClient(timeout=60.0) as http:
            while True:
                began = time.perf_counter()
                with contextlib.suppress(httpx2.HTTPError):
                    await http.get(f"{self._server.url}/health")
                self.health_ms.append(1000 * (time.perf_counter() - began))
                self._memory.append((time.perf_counter() - start, self._server.memory_bytes))
                await asyncio.sleep(LOOK_S)


def percentile(values: Sequence[float], share: float) -> float:
    """Returns the value that `share` % of the values do not exceed."""
    return float(np.percentile(np.array(values), share))


def wav(samples: NDArray[np.float32]) -> bytes:
    """Returns samples at 16 kHz as the bytes of a WAV file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16_000, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def _children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in found for child in path.read_text().split()]


def _resident(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:  # it has ended meanwhile
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")

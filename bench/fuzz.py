"""Damaged recordings against a running server: every one is answered, and so is the good one after each batch.

BENCH_FUZZ_FILES: how many, 2,400 unless set; half are sent to chat completions, half to transcriptions.
"""

import asyncio
import base64
import os
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx2
import numpy as np

from bench.clients import Server
from bench.damaged import DAMAGES, FORMATS, damaged, encoded, tone
from bench.figure import RUNS, Figure, at_least, at_most, reported

NUM_FILES = int(os.environ.get("BENCH_FUZZ_FILES", "2400"))
AT_A_TIME = 8
PER_BATCH = 5 * len(FORMATS)
ALLOWED = (200, 400, 413, 415)


@dataclass
class Fuzzed:
    """What became of the damaged recordings, and of the good ones between them."""

    statuses: Counter[int | None] = field(default_factory=Counter)  # None: no answer
    faults: list[str] = field(default_factory=list)  # damaged recordings that were not answered as they should
    good: int = 0
    good_asked: int = 0

    @property
    def num_files(self) -> int:
        """Returns how many damaged recordings were sent."""
        return sum(self.statuses.values())


def measure() -> list[Figure]:
    from sonant.testing import save_cascade

    with Server.of_sonant(save_cascade(RUNS / "fuzz" / "model")) as server:
        began = time.perf_counter()
        fuzzed = asyncio.run(fuzz(server.url, num_files=NUM_FILES))
        seconds = time.perf_counter() - began
        alive = server.process.poll() is None
    for fault in fuzzed.faults[:20]:
        print(fault)
    what = f"{fuzzed.num_files} damaged files: {len(FORMATS)} formats, {len(DAMAGES)} kinds of damage, {seconds:.0f} s"
    refused = sum(fuzzed.statuses[status] for status in ALLOWED[1:])
    return [
        reported(f"{what}: heard, refused", [fuzzed.statuses[200], refused], ""),
        at_most(
            f"answered otherwise than with {', '.join(map(str, ALLOWED))}, or in words that leak",
            0,
            [len(fuzzed.faults)],
            "",
        ),
        at_least(
            "the good file after each batch, answered as before", 100, [100 * fuzzed.good / fuzzed.good_asked], "%"
        ),
        at_least("the server lives", 1, [float(alive)], ""),
    ]


async def fuzz(url: str, *, num_files: int, seed: int = 0) -> Fuzzed:
    """Returns what a server said to so many damaged recordings, the same ones for the same seed."""
    rng = np.random.default_rng(seed)
    whole = {kind: encoded(kind, tone(0.5)) for kind in FORMATS}
    fuzzed = Fuzzed()
    async with httpx2.AsyncClient(base_url=url, timeout=120.0) as http:
        model = (await http.get("/v1/models")).json()["data"][0]["id"]
        expected = await _ask(http, model, whole["wav"])
        assert expected.status_code == 200, expected.text
        for first in range(0, num_files, PER_BATCH):
            count = min(PER_BATCH, num_files - first)
            sent = [(kind := FORMATS[i % len(FORMATS)], *damaged(whole[kind], rng)) for i in range(count)]
            for start in range(0, count, AT_A_TIME):
                batch = list(enumerate(sent[start : start + AT_A_TIME], start=first + start))
                tasks = [_send(http, model, data, number) for number, (_, _, data) in batch]
                for (number, (kind, damage, _)), answer in zip(batch, await asyncio.gather(*tasks), strict=True):
                    _note(fuzzed, f"file {number} (seed {seed}, {kind}, {damage})", answer)
            good = await _ask(http, model, whole["wav"])
            fuzzed.good_asked += 1
            fuzzed.good += good.status_code == 200 and _content(good) == _content(expected)
    return fuzzed


async def _send(http: httpx2.AsyncClient, model: str, data: bytes, number: int) -> httpx2.Response | Exception:
    """To one endpoint or the other, in turn."""
    try:
        return await (_ask if number % 2 else _transcribe)(http, model, data)
    except httpx2.HTTPError as error:
        return error


async def _ask(http: httpx2.AsyncClient, model: str, data: bytes) -> httpx2.Response:
    audio = {"data": base64.b64encode(data).decode(), "format": "wav"}
    content = [{"type": "text", "text": "transcribe:"}, {"type": "input_audio", "input_audio": audio}]
    body = {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 4}
    return await http.post("/v1/chat/completions", json=body)


async def _transcribe(http: httpx2.AsyncClient, model: str, data: bytes) -> httpx2.Response:
    return await http.post("/v1/audio/transcriptions", files={"file": ("clip", data)}, data={"model": model})


def _note(fuzzed: Fuzzed, what: str, answer: httpx2.Response | Exception) -> None:
    if isinstance(answer, Exception):
        fuzzed.statuses[None] += 1
        fuzzed.faults.append(f"{what}: no answer ({type(answer).__name__})")
        return
    fuzzed.statuses[answer.status_code] += 1
    if answer.status_code not in ALLOWED:
        fuzzed.faults.append(f"{what}: {answer.status_code} {answer.text[:200]}")
    elif answer.status_code != 200 and leaks(answer.text):
        fuzzed.faults.append(f"{what}: leaks: {answer.text[:200]}")


def leaks(text: str) -> bool:
    """Returns whether a refusal tells more than why: an address of memory, a path, a class or a trace of ours."""
    return any(sign in text for sign in ("0x", "Traceback", "object at", "/home", "/usr", "/tmp", ".py", "Errno"))


def _content(answer: Any) -> str:
    return str(answer.json()["choices"][0]["message"]["content"])

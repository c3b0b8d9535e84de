"""A busy server grew without end: by caches that only a search for garbage found, and by what glibc kept of them."""

import asyncio
import gc
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sonant.chat.messages import Conversation, user
from sonant.generate.assistant import Assistant
from sonant.generate.kv_cache import KVCache
from sonant.generate.sampling import GenerationConfig
from sonant.serve import memory, running
from sonant.serve.answering.answerer import Answerer
from sonant.serve.answering.questions import Event, Question
from sonant.serve.memory import give_back, settle
from sonant.serve.service import Service
from sonant.serve.settings import ServeConfig

MB = 1_000_000


@pytest.fixture
def settled() -> Iterator[None]:
    """No garbage is looked for unless the test does, and then among few objects."""
    gc.disable()
    settle()
    yield
    gc.unfreeze()
    gc.enable()


@pytest.mark.usefixtures("settled")
def test_what_was_answered_leaves_no_cache(cascade: Assistant) -> None:
    # A cache and its layers referred to each other: 70 MB of them lay there after 20 seconds of load.
    question = Question(Conversation((user("who is the friend of the shark"),)), GenerationConfig(max_new_tokens=2))

    async def work() -> list[list[Event]]:
        return [[event async for event in answerer.submit(question)] for _ in range(12)]

    answerer = Answerer(cascade)
    answerer.start()
    try:
        assert len(asyncio.run(work())) == 12
        give_back()
        assert sum(isinstance(each, KVCache) for each in gc.get_objects()) <= 4  # beginnings of prompts
    finally:
        answerer.close()


@pytest.mark.usefixtures("settled")
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to give back")
def test_memory_between_things_that_stay_goes_back_to_the_system() -> None:
    blocks = [bytearray(os.urandom(1) * 100_000) for _ in range(1000)]
    held = _resident()
    stay = blocks[::10]
    blocks.clear()
    give_back()
    assert len(stay) == 100
    assert held - _resident() > 80 * MB


LARGE_BLOCKS = """
import os
from pathlib import Path
from sonant.serve.memory import settle

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

settle()
del [bytearray(16_000_000)][:]  # from which glibc would learn that blocks of so much are its own to keep
blocks = [(bytearray(b"1" * 2_000_000), bytearray(b"1" * 100_000)) for _ in range(50)]
held, stay = resident(), [small for _, small in blocks]
blocks.clear()
print(held - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to give back")
def test_large_blocks_go_back_as_soon_as_they_are_freed() -> None:
    said = subprocess.run([sys.executable, "-c", LARGE_BLOCKS], capture_output=True, text=True, check=True).stdout
    assert int(said) > 80 * MB


def test_a_server_that_listens_gives_back_again_and_again(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    given = threading.Semaphore(0)
    told: list[Any] = []
    monkeypatch.setattr(memory, "EVERY_S", 0.01)
    monkeypatch.setattr(memory, "give_back", given.release)
    server = running._Server(running.uvicorn_config(service), service, on_ready=lambda: told.append(None))
    listening = running.bound(ServeConfig(port=0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        assert all(given.acquire(timeout=60) for _ in range(3))
        assert told == [None]
    finally:
        server.should_exit = True
        thread.join(60)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

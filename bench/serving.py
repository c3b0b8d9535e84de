"""A server under its clients: first token, many at once, twice what it can, told to stop, beside `transformers serve`.

BENCH_LOAD_S: seconds of overload, 60 unless set; the figure of the README takes 600.
"""

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.clients import Asked, Client, Server, Watch, percentile, wav
from bench.figure import RUNS, Figure, at_least, at_most, reported
from bench.heldout import NONE
from bench.serving_peer import beside_transformers
from sonant.audio.io import load
from sonant.data.manifest import Manifest
from sonant.synth.world.make import WorldConfig, make_world
from sonant.testing import save_cascade

FOLDER = RUNS / "serving"
CLIENTS, ROUNDS = 32, 4
CLIP_S, RATE_HZ = 5.0, 16_000
LOAD_S = float(os.environ.get("BENCH_LOAD_S", "60"))
BASE_S = 10.0  # of the load, from when no place is left: questions that wait take memory, which is no growth
FULL = "all others were told 429 or 503, which says when to ask again"


def measure() -> list[Figure]:
    shutil.rmtree(FOLDER, ignore_errors=True)
    model, clips = save_cascade(FOLDER / "model"), spoken_clips(FOLDER / "world", 2 * CLIENTS)
    with Server.of_sonant(model, "max_rows=32", "max_waiting=32") as server:
        figures = asyncio.run(
            _first_token(server.url, [_lasting(pair) for pair in zip(clips[::2], clips[1::2], strict=True)])
        )
        together, per_s = asyncio.run(_together(server.url, clips[:CLIENTS]))
        figures += together
    with Server.of_sonant(model) as server:
        figures += asyncio.run(_overload(server, clips, per_s=per_s))
    with Server.of_sonant(model, f"max_rows={CLIENTS}", "drain_s=120") as server:
        figures += asyncio.run(_told_to_stop(server, clips[:CLIENTS]))
    return [*figures, *beside_transformers(clips[:CLIENTS])]


def spoken_clips(world: Path, count: int) -> list[bytes]:
    """Returns so many different WAV files of a spoken sentence each."""
    make_world(world, config=WorldConfig(train=NONE, dev=NONE, test=NONE.model_copy(update={"asr": count})))
    rows = Manifest(world / "test" / "asr.jsonl")
    return [wav(row.messages[0].heard[0].load(sample_rate_hz=RATE_HZ)) for row in rows]


def _lasting(clips: Sequence[bytes]) -> bytes:
    """One clip of `CLIP_S` made of several."""
    return wav(
        np.resize(np.concatenate([load(clip, sample_rate_hz=RATE_HZ) for clip in clips]), round(CLIP_S * RATE_HZ))
    )


async def _first_token(url: str, clips: Sequence[bytes]) -> list[Figure]:
    async with Client(url) as client:
        await client.ask(clips[0])
        firsts = [1000 * (await client.ask(clip)).first_s for clip in clips]
    what = f"time to first token, idle, {CLIP_S:g} s clip, over HTTP"
    return [
        at_most(f"{what}: median", 80, [percentile(firsts, 50)], "ms"),
        reported(f"{what}: 19 of 20 are below", [percentile(firsts, 95)], "ms"),
    ]


async def _together(url: str, clips: Sequence[bytes]) -> tuple[list[Figure], float]:
    """The figures, and how many requests the server answers in a second when many ask."""
    async with Client(url, stream=False) as client:
        await client.ask(clips[0])
        began = time.perf_counter()
        alone = [await client.ask(clip) for clip in clips]
        alone_s = time.perf_counter() - began

        async def one(number: int) -> list[Asked]:
            return [await client.ask(clips[(number + turn) % len(clips)]) for turn in range(ROUNDS)]

        began = time.perf_counter()
        many = await asyncio.gather(*(one(number) for number in range(CLIENTS)))
        many_s = time.perf_counter() - began
    asked = [answer for answers in many for answer in answers]
    expected = [alone[(number + turn) % len(clips)].text for number in range(CLIENTS) for turn in range(ROUNDS)]
    same = sum(answer.text == text for answer, text in zip(asked, expected, strict=True))
    per_s = len(asked) / many_s
    tokens = [sum(answer.num_tokens for answer in alone) / len(alone)]
    return [
        reported("tokens of an answer", tokens, ""),
        reported("one at a time", [len(alone) / alone_s], "requests/s"),
        reported(f"{CLIENTS} clients", [per_s], "requests/s"),
        at_least(f"throughput, {CLIENTS} clients against one at a time", 4, [per_s * alone_s / len(alone)], "x"),
        at_least("answers equal to those given one at a time", 100, [100 * same / len(asked)], "%"),
        at_least("requests that did not fail", 100, [100 * sum(a.complete for a in asked) / len(asked)], "%"),
    ], per_s


async def _overload(server: Server, clips: Sequence[bytes], *, per_s: float) -> list[Figure]:
    """Twice as many requests a second as the server answers, none waiting for another; /health is asked meanwhile.

    Memory is compared between two times of the same load, no place being left in both: as many questions are being
    answered and wait as may. It begins with the first 429 and ends before anybody stops asking; so do the seconds told.
    """
    asked_for = list[asyncio.Task[Asked]]()
    async with Client(server.url) as client:
        asking = asyncio.create_task(_keep_asking(client, clips, asked_for, per_s=2 * per_s))
        while not any(one.done() and one.result().status == 429 for one in asked_for):
            if asking.done():
                raise SystemExit(f"{2 * per_s:.3g} requests/s for {LOAD_S:.0f} s are no overload: none was told 429")
            await asyncio.sleep(0.01)
        async with Watch(server) as watch:
            began = time.perf_counter()
            await asking
            passed = time.perf_counter() - began
            growth = 100 * (watch.memory_of(last=0.1) / watch.memory_until(BASE_S) - 1)
            asked = await asyncio.gather(*asked_for)
    accepted = [answer for answer in asked if answer.status == 200]
    refused = [answer for answer in asked if answer.status in (429, 503) and answer.retry_after_s is not None]
    lost = len(asked) - len(refused) - sum(answer.complete for answer in accepted)
    what = f"{passed:.0f} s of {2 * per_s:.3g} requests/s, twice what it answers"
    since = f"since the first {BASE_S:.0f} s in which no place was left"
    return [
        reported(f"{what}: asked, answered, refused", [len(asked), len(accepted), len(refused)], ""),
        at_most(f"{what}: lost; {FULL}", 0, [lost], ""),
        at_most(f"{what}: growth of memory {since}, to the last tenth of the load", 2, [growth], "%"),
        at_most(f"{what}: /health, 99 of 100 are below", 100, [percentile(watch.health_ms, 99)], "ms"),
    ]


async def _keep_asking(
    client: Client, clips: Sequence[bytes], asked_for: list[asyncio.Task[Asked]], *, per_s: float
) -> None:
    """Asks for `LOAD_S` seconds, at random times, and notes what was asked for."""
    rng = np.random.default_rng(0)
    until = time.perf_counter() + LOAD_S
    while time.perf_counter() < until:
        asked_for.append(asyncio.create_task(client.ask(clips[len(asked_for) % len(clips)])))
        await asyncio.sleep(rng.exponential(1 / per_s))


async def _told_to_stop(server: Server, clips: Sequence[bytes]) -> list[Figure]:
    """SIGTERM while every client waits for an answer, and others come."""
    async with Client(server.url) as client:
        await client.ask(clips[0])
        waiting = [asyncio.create_task(client.ask(clip)) for clip in clips]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        server.process.send_signal(signal.SIGTERM)
        late = [asyncio.create_task(client.ask(clip)) for clip in clips[:8]]
        asked = await asyncio.gather(*waiting)
        after = await asyncio.gather(*late)
    code = await asyncio.to_thread(server.process.wait, 60)
    accepted = [answer for answer in (*asked, *after) if answer.status == 200]
    unanswered = sum(not answer.complete for answer in accepted)
    refused = sum(answer.status in (503, None) for answer in after)
    return [
        reported("SIGTERM under load: accepted; asked afterwards and refused", [len(accepted), refused], ""),
        at_most("SIGTERM under load: accepted and not answered", 0, [unanswered], ""),
        at_most("SIGTERM under load: exit status", 0, [abs(code)], ""),
    ]

"""Hands-free: who speaks is heard in noise, noise is not taken for speech, and answers come at once.

Turns are found in recordings of human digits (../shared/data, where it is there), each in a second of quiet on both
sides under pink noise. Answers are those of a model of the tiny world to spoken questions, sent in real time over
/v1/realtime by OpenAI's client: from the last sample of a turn to the first word.
"""

import asyncio
import base64
import math
import shutil
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.browsing import spoken
from bench.clients import Server
from bench.figure import RUNS, Figure, at_least, at_most, reported
from bench.voices import HUMANS
from sonant.audio.augment import colored_noise
from sonant.audio.io import load, resample
from sonant.audio.voice_activity import Started, VoiceActivity
from sonant.serve.realtime.coding import as_pcm
from sonant.synth.world.facts import Fact, facts
from sonant.testing import save_cascade

FOLDER = RUNS / "realtime"
RATE_HZ, SENT_HZ = 16_000, 24_000
CHUNK_S = 0.02
QUESTIONS = 20


def measure() -> list[Figure]:
    rng = np.random.default_rng(0)
    return [*heard_in_noise(rng), noise_alone(rng), *answers()]


def heard_in_noise(rng: np.random.Generator) -> list[Figure]:
    """The official test set: takes 0 to 4 of six speakers."""
    words = [load(path) for path in sorted(HUMANS.glob("*_[0-4].wav"))]
    if not words:
        return [Figure("human digits in noise", "report", f"not measured: {HUMANS} is not there")]
    figures = []
    for snr_db, least in ((20.0, 0.99), (10.0, 0.95), (5.0, None)):
        found = [len(_turns(_in_noise(word, snr_db, rng))) == 1 for word in words]
        what, share = f"digits of {len(words)} that are one turn, pink noise at {snr_db:g} dB", sum(found) / len(found)
        figures.append(reported(what, [share], "") if least is None else at_least(what, least, [share], ""))
    return figures


def noise_alone(rng: np.random.Generator) -> Figure:
    """An hour of steady noise of three colours at any loudness."""
    minutes = (
        colored_noise(60 * RATE_HZ, exponent, rng=rng) * np.float32(10 ** (-rng.uniform(20, 60) / 20))
        for exponent in (0.0, 1.0, 2.0)
        for _ in range(20)
    )
    return at_most("turns in an hour of steady noise", 1, [sum(len(_turns(minute)) for minute in minutes)], "")


def answers() -> list[Figure]:
    """Spoken questions, one a session, in real time."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    asked = [fact for fact in facts() if fact.relation == "colour"][:QUESTIONS]
    with Server.of_sonant(save_cascade(FOLDER / "model")) as server:
        told = [asyncio.run(_ask(server.url, fact)) for fact in asked]
    waits_ms = sorted(1000 * wait_s for wait_s, _ in told[1:])  # the first warms the model up
    return [
        at_most("end of the turn to the first word, median", 80, [waits_ms[len(waits_ms) // 2]], "ms"),
        at_most("the same, 19 of 20 are below", 160, [waits_ms[int(0.95 * len(waits_ms))]], "ms"),
        at_least(f"right answers, of {len(told)}", len(told) - 2, [sum(right for _, right in told)], ""),
    ]


async def _ask(url: str, fact: Fact) -> tuple[float, bool]:
    """Seconds from the sample that ends the turn to the first word, and whether the answer is right."""
    from openai import AsyncOpenAI

    voice = resample(spoken(fact.questions[0]), from_hz=RATE_HZ, to_hz=SENT_HZ)
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none")
    async with client, client.realtime.connect() as connection:
        began = time.perf_counter()
        speaking = asyncio.create_task(_speak(connection, voice, began=began))
        ended_s = first_s = 0.0
        async for event in connection:
            if event.type == "input_audio_buffer.speech_stopped":
                ended_s = began + event.audio_end_ms / 1000
            elif event.type == "response.output_text.delta":
                first_s = first_s or time.perf_counter()
            elif event.type == "response.done":
                break
        speaking.cancel()
        answer: Any = event
        return (first_s or math.inf) - ended_s, answer.response.output[0].content[0].text == fact.statement


async def _speak(connection: Any, voice: NDArray[np.float32], *, began: float) -> None:
    """Sends speech between silences, each chunk when its last sample has been spoken."""
    quiet = [np.zeros(round(seconds * SENT_HZ), np.float32) for seconds in (0.4, 5.0)]
    pcm = as_pcm(np.concatenate([quiet[0], voice, quiet[1]]))
    size = round(CHUNK_S * SENT_HZ)
    for number, start in enumerate(range(0, len(pcm), size), start=1):
        await asyncio.sleep(max(0.0, began + number * CHUNK_S - time.perf_counter()))
        chunk = base64.b64encode(pcm[start : start + size].tobytes()).decode()
        await connection.input_audio_buffer.append(audio=chunk)


def _in_noise(word: NDArray[np.float32], snr_db: float, rng: np.random.Generator) -> NDArray[np.float32]:
    quiet = np.zeros(RATE_HZ, np.float32)
    noise = colored_noise(len(word) + 2 * RATE_HZ, 1.0, rng=rng)
    level = np.sqrt(np.mean(np.square(word))) * 10 ** (-snr_db / 20)
    return np.asarray(np.concatenate([quiet, word, quiet]) + noise * level, np.float32)


def _turns(samples: NDArray[np.float32]) -> Sequence[Started]:
    return [event for event in VoiceActivity(RATE_HZ).push(samples) if isinstance(event, Started)]

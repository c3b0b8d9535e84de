"""What the certificate asks: rows of a manifest, or questions made here, so that a bare install needs no recording.

A made clip is a buzz like a voice's: harmonics under two resonances that move, in syllables, over a little noise.
"""

import io
import os
from dataclasses import replace

import numpy as np
import soundfile
from numpy.typing import NDArray

from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.data.manifest import Manifest

SAMPLE_RATE_HZ = 16_000


def made_questions(*, seed: int = 0) -> tuple[Conversation, ...]:
    """Returns six questions: clips of 0.4 to 12 seconds, two of them in one turn, text alone, and a second turn."""
    clip = [made_clip(seconds, seed=seed + number) for number, seconds in enumerate((1.5, 0.4, 0.8, 3.1, 12.0))]
    return (
        Conversation((user(clip[1]),), id="a short clip"),
        Conversation((user("What is the capital of France?"),), id="text alone"),
        Conversation((user("repeat: ", clip[0]),), id="text and a clip"),
        Conversation((user("First: ", clip[2], " Then: ", clip[0], " What is the same?"),), id="two clips in a turn"),
        Conversation((user(clip[3]), assistant("a buzz"), user("And here? ", clip[1])), id="a second turn"),
        Conversation((user("Repeat: ", clip[4]),), id="12 seconds"),
    )


def manifest_questions(path: str | os.PathLike[str], *, num_rows: int | None = None) -> tuple[Conversation, ...]:
    """Returns what the first `num_rows` rows of a manifest ask; None: all. Raises: ManifestError or ChatError."""
    manifest = Manifest(path)
    wanted = len(manifest) if num_rows is None else min(num_rows, len(manifest))
    questions = [manifest[row].prompt() for row in range(wanted)]
    # A row's draws, and the names of rows in what is found, hang on ids: give each row one of its own.
    names = [question.id or f"row {number}" for number, question in enumerate(questions, start=1)]
    return tuple(
        replace(question, id=name if names.count(name) == 1 else f"{name} (row {number})")
        for number, (question, name) in enumerate(zip(questions, names, strict=True), start=1)
    )


def made_clip(duration_s: float, *, seed: int) -> AudioPart:
    """Returns a clip of a buzz like a voice's, 16 bits at 16 kHz; the same seed gives the same bytes."""
    buffer = io.BytesIO()
    soundfile.write(buffer, _buzz(duration_s, np.random.default_rng(seed)), SAMPLE_RATE_HZ, format="WAV")
    return AudioPart(data=buffer.getvalue())


def _buzz(duration_s: float, rng: np.random.Generator) -> NDArray[np.float32]:
    time_s = np.arange(round(duration_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    knots = np.arange(0.0, duration_s + 0.2, 0.1)  # ten new targets a second, as in speech

    def moving(low: float, high: float) -> NDArray[np.float64]:
        return np.interp(time_s, knots, rng.uniform(low, high, len(knots)))

    phase = 2 * np.pi * np.cumsum(moving(100, 160)) / SAMPLE_RATE_HZ
    first_hz, second_hz, loudness = moving(300, 800), moving(900, 2400), moving(0.0, 1.0)
    sound = np.zeros_like(time_s)
    for harmonic in range(1, 30):
        at_hz = 130.0 * harmonic
        sound += sum(np.exp(-(((at_hz - hz) / 150) ** 2)) for hz in (first_hz, second_hz)) * np.sin(harmonic * phase)
    noisy = loudness * sound + 0.05 * rng.standard_normal(len(time_s))
    quiet: NDArray[np.float32] = (0.5 * noisy / np.abs(noisy).max()).astype(np.float32)
    return quiet

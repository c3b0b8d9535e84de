"""Text to speech: one signature for every engine, and clips kept as files.

A clip's file is named by the hash of (engine, text, voice, rate, pitch), so the folder of clips is its own cache:
a second run makes only what is missing.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sonant.audio.io import resample, save
from sonant.errors import SynthesisError

Speech = tuple[NDArray[np.float32], int]  # samples (S,) mono in [-1, 1], sample rate in Hz


@dataclass(frozen=True)
class SpeechRequest:
    """One clip to speak: `rate` and `pitch` are factors on the voice's own (1.0 = as it is)."""

    text: str
    voice: str
    rate: float = 1.0
    pitch: float = 1.0

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise SynthesisError("there is nothing to speak: the text is empty; give at least one word")
        if not 0.25 <= self.rate <= 4.0 or not 0.0 <= self.pitch <= 2.0:
            raise SynthesisError(f"rate {self.rate}, pitch {self.pitch}: allowed are rate 0.25 to 4 and pitch 0 to 2")


class Synthesizer(Protocol):
    """Anything that speaks. `name` is part of a clip's identity."""

    @property
    def name(self) -> str: ...

    def synthesize(self, requests: Sequence[SpeechRequest]) -> Iterator[Speech]:
        """Yields one (samples, sample_rate_hz) for each request, in order. Raises: SynthesisError."""
        ...


def load_synthesizer(name: str, *, num_workers: int = 2) -> Synthesizer:
    """Returns the engine called `name`. Raises: SynthesisError if it is not known."""
    from sonant.synth.command import FliteSynthesizer
    from sonant.synth.espeak import EspeakSynthesizer
    from sonant.synth.festival import FestivalSynthesizer

    if name == "espeak":
        return EspeakSynthesizer(num_workers=num_workers)
    if name == "flite":
        return FliteSynthesizer(num_workers=num_workers)
    if name == "festival":
        return FestivalSynthesizer(num_workers=num_workers)
    raise SynthesisError(f"no engine {name!r}; engines are espeak, flite, festival; others: CommandSynthesizer")


def clip_path(folder: str | os.PathLike[str], engine: str, request: SpeechRequest) -> Path:
    """Returns where the clip of `request` lives in `folder`."""
    identity = json.dumps([engine, request.text, request.voice, request.rate, request.pitch])
    return Path(folder, hashlib.sha256(identity.encode()).hexdigest()[:20] + ".wav")


def speak(
    synthesizer: Synthesizer,
    requests: Sequence[SpeechRequest],
    *,
    folder: str | os.PathLike[str],
    sample_rate_hz: int = 16_000,
) -> list[Path]:
    """Returns the files of the clips, one for each request, after making those that are not in `folder` yet.

    Raises: SynthesisError if a clip is silent or the engine fails; the clips made before stay.
    """
    paths = [clip_path(folder, synthesizer.name, request) for request in requests]
    missing = {path: request for path, request in zip(paths, requests, strict=True) if not path.exists()}
    Path(folder).mkdir(parents=True, exist_ok=True)
    for path, (samples, own_rate_hz) in zip(missing, synthesizer.synthesize(list(missing.values())), strict=True):
        if not np.any(samples):
            raise SynthesisError(f"{synthesizer.name} made no sound for {missing[path]}; choose another text or voice")
        resampled = resample(samples, from_hz=own_rate_hz, to_hz=sample_rate_hz)
        # A loud voice may overshoot full scale by a little between its samples.
        save(path, resampled / max(1.0, float(np.abs(resampled).max())), sample_rate_hz=sample_rate_hz)
    return paths

"""Text to speech: one signature for every engine, and clips kept as files.

A clip's file is named by the hash of its request and engine, so the folder of clips is its own cache: a second run
makes only what is missing. Word marks, where they are asked for, lie beside it:

    out/clips/5d41402abc4b2a76b971.wav
    out/clips/5d41402abc4b2a76b971.words.json     [["the", 0.0], ["bear", 0.1107], ...], or null
"""

import hashlib
import json
import os
import shlex
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from sonant.audio.io import resample, save
from sonant.errors import EngineError, SynthesisError
from sonant.synth.marks import Marks

Speech = tuple[NDArray[np.float32], int]  # samples (S,) mono in [-1, 1], sample rate in Hz
Marked = tuple[Speech, Marks | None]


@dataclass(frozen=True)
class SpeechRequest:
    """One clip to speak: everything but text and voice is a factor on the voice's own (1.0 = as it is).

    pitch_range: how far the pitch moves around its height (0: a monotone). volume: of the samples, before an engine
    limits them. espeak alone knows these two; other engines refuse anything but 1.0.
    """

    text: str
    voice: str
    rate: float = 1.0
    pitch: float = 1.0
    pitch_range: float = 1.0
    volume: float = 1.0

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise SynthesisError("there is nothing to speak: the text is empty; give at least one word")
        if not 0.25 <= self.rate <= 4.0 or not 0.0 <= self.pitch <= 2.0:
            raise SynthesisError(f"rate {self.rate}, pitch {self.pitch}: allowed are rate 0.25 to 4 and pitch 0 to 2")
        if not 0.0 <= self.pitch_range <= 2.0 or not 0.0 < self.volume <= 2.0:
            raise SynthesisError(
                f"pitch_range {self.pitch_range}, volume {self.volume}: allowed are pitch_range 0 to 2 and volume "
                "above 0 to 2"
            )


class Synthesizer(Protocol):
    """Anything that speaks. `name` is part of a clip's identity."""

    @property
    def name(self) -> str: ...

    def synthesize(self, requests: Sequence[SpeechRequest]) -> Iterator[Speech | SynthesisError]:
        """Yields one (samples, sample_rate_hz) for each request, in order, or why that text cannot be spoken.

        Raises: EngineError if the engine or a voice is missing, so that no text can.
        """
        ...


@runtime_checkable
class MarksWords(Protocol):
    """An engine that tells when each word begins."""

    def synthesize_marked(self, requests: Sequence[SpeechRequest]) -> Iterator[Marked | SynthesisError]:
        """Yields what `synthesize` does, each with its word marks; None where they cannot be told."""
        ...


def load_synthesizer(name: str, *, num_workers: int = 2) -> Synthesizer:
    """Returns an engine; `num_workers` processes, threads or calls at once.

    espeak, flite, festival     programs of Debian, espeak with our own wheel
    hf:FOLDER                   a text-to-speech model of Hugging Face in a folder (VITS, MMS-TTS)
    http(s)://HOST/v1#MODEL     any server of the OpenAI speech API
    command:PROGRAM ARGS...     any program, with the fields {text_file} {output} {voice} {rate} {stretch} {pitch}

    Raises: SynthesisError if it is none of these, or cannot be loaded.
    """
    from sonant.synth.command import CommandSynthesizer, FliteSynthesizer
    from sonant.synth.espeak import EspeakSynthesizer
    from sonant.synth.festival import FestivalSynthesizer

    kind, _, rest = name.partition(":")
    programs: dict[str, Callable[..., Synthesizer]]
    programs = {"espeak": EspeakSynthesizer, "flite": FliteSynthesizer, "festival": FestivalSynthesizer}
    if name in programs:
        return programs[name](num_workers=num_workers)
    if kind == "hf" and rest:
        from sonant.synth.hugging_face import HuggingFaceSynthesizer

        return HuggingFaceSynthesizer(rest)
    if kind in ("http", "https"):
        url, _, model = name.partition("#")
        from sonant.synth.openai_speech import OpenAISynthesizer

        return OpenAISynthesizer(url, model, max_concurrency=num_workers)
    if kind == "command" and rest.strip():
        try:
            return CommandSynthesizer(name, shlex.split(rest), num_workers=num_workers)
        except ValueError as error:
            raise EngineError(
                f"{name}: the command cannot be read ({error}); quote it as a shell would have it"
            ) from None
    raise EngineError(
        f"no engine {name!r}; engines are espeak, flite, festival, hf:FOLDER, http://HOST/v1#MODEL and "
        "'command:PROGRAM ARGS...'"
    )


def clip_path(
    folder: str | os.PathLike[str],
    engine: str,
    request: SpeechRequest,
    *,
    sample_rate_hz: int = 16_000,
    suffix: str = ".wav",
) -> Path:
    """Returns where the clip of `request` lives in `folder`."""
    identity: list[str | float] = [engine, request.text, request.voice, request.rate, request.pitch]
    if (request.pitch_range, request.volume) != (1.0, 1.0):  # clips made before these were known keep their names
        identity.append(f"pitch_range={request.pitch_range} volume={request.volume}")
    if sample_rate_hz != 16_000:
        identity.append(sample_rate_hz)
    return Path(folder, hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:20] + suffix)


def marks_path(clip: Path) -> Path:
    """Returns where the word marks of a clip live."""
    return clip.with_suffix(".words.json")


def marks_of(clip: Path) -> Marks | None:
    """Returns the word marks of a clip that was spoken with `marks=True`; None where the engine cannot tell them.

    Raises: SynthesisError if it was spoken without.
    """
    try:
        values = json.loads(marks_path(clip).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SynthesisError(f"{clip} was spoken without word marks; speak it again with marks=True") from None
    return None if values is None else tuple((word, start_s) for word, start_s in values)


def speak(
    synthesizer: Synthesizer,
    requests: Sequence[SpeechRequest],
    *,
    folder: str | os.PathLike[str],
    sample_rate_hz: int = 16_000,
    suffix: str = ".wav",
    marks: bool = False,
) -> list[Path]:
    """Returns the files of the clips, one for each request, after making those that are not in `folder` yet.

    marks: also keep when each word begins, for `marks_of`.

    Raises: SynthesisError for the first clip that cannot be made; the clips made before stay.
    """
    paths = []
    with closing(
        speak_each(synthesizer, requests, folder=folder, sample_rate_hz=sample_rate_hz, suffix=suffix, marks=marks)
    ) as clips:
        for clip in clips:
            if isinstance(clip, SynthesisError):
                raise clip
            paths.append(clip)
    return paths


def speak_each(
    synthesizer: Synthesizer,
    requests: Sequence[SpeechRequest],
    *,
    folder: str | os.PathLike[str],
    sample_rate_hz: int = 16_000,
    suffix: str = ".wav",
    marks: bool = False,
) -> Generator[Path | SynthesisError, None, None]:
    """Yields the file of each clip, or why it cannot be made; clips that are in `folder` are not made again.

    Raises: EngineError if the engine or a voice is missing, or it has no word marks and they are wanted.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    paths = [clip_path(folder, synthesizer.name, r, sample_rate_hz=sample_rate_hz, suffix=suffix) for r in requests]
    missing = {
        path: request
        for path, request in zip(paths, requests, strict=True)
        if not path.exists() or (marks and not marks_path(path).exists())
    }
    failures: dict[Path, SynthesisError] = {}
    with closing(_synthesized(synthesizer, list(missing.values()), marks=marks)) as spoken:
        for path in paths:
            if request := missing.pop(path, None):  # the first time that it is asked for
                try:
                    speech, words = _heard(next(spoken), f"{synthesizer.name}: {request}")
                    if marks:
                        marks_path(path).write_text(json.dumps(words, ensure_ascii=False), encoding="utf-8")
                    _save(path, speech, sample_rate_hz=sample_rate_hz)
                except EngineError:
                    raise
                except SynthesisError as error:
                    failures[path] = error
            yield failures.get(path, path)


def _synthesized(
    synthesizer: Synthesizer, requests: Sequence[SpeechRequest], *, marks: bool
) -> Generator[Marked | SynthesisError, None, None]:
    """An engine's answers as a generator, so that it can be closed: what it holds is then given back at once."""
    if not requests:
        return
    if not marks:
        speeches = synthesizer.synthesize(requests)
        yield from (speech if isinstance(speech, SynthesisError) else (speech, None) for speech in speeches)
    elif isinstance(synthesizer, MarksWords):
        yield from synthesizer.synthesize_marked(requests)
    else:
        raise EngineError(
            f"{synthesizer.name} does not tell when words begin; use espeak, or find it out afterwards with "
            "sonant data mark-words"
        )


def _heard(clip: Marked | SynthesisError, what: str) -> Marked:
    """Returns the clip. Raises: SynthesisError if there is none, or no sound in it."""
    if isinstance(clip, SynthesisError):
        raise clip
    if not np.any(clip[0][0]):
        raise SynthesisError(f"{what} gave no sound; choose another text or voice")
    return clip


def _save(path: Path, speech: Speech, *, sample_rate_hz: int) -> None:
    samples, own_rate_hz = speech
    resampled = resample(samples, from_hz=own_rate_hz, to_hz=sample_rate_hz)
    # A loud voice may overshoot full scale by a little between its samples.
    save(path, resampled / max(1.0, float(np.abs(resampled).max())), sample_rate_hz=sample_rate_hz)

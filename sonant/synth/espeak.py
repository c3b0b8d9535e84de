"""espeak-ng as a `Synthesizer`: many voices, 300 clips a second, no system package.

The library comes with `espeakng-loader` (GPL-3); it is called in a process of its own, never in ours.
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from typing import IO

import numpy as np

from sonant.errors import EngineError, SynthesisError
from sonant.synth.espeak_worker import HEADER, NO_VOICE
from sonant.synth.marks import WordEvent, word_marks
from sonant.synth.tts import Marked, Speech, SpeechRequest
from sonant.synth.voices import ANY, ENGLISH_ACCENTS, ESPEAK_VARIANTS, Voices


class EspeakSynthesizer:
    """Speaks with espeak-ng voices such as `en`, `en-us+f3`, `en-gb-scotland+klatt2`, `de+m5`.

    A request's bytes depend on the request alone: not on the worker, nor on what was spoken before.
    `rate` 1.0 is 175 words a minute; `pitch` 1.0 is espeak's 50 and may reach from 0 to 2, `pitch_range` likewise.
    `volume` 1.0 is espeak's 100, a peak of about 0.6; from 1.5 on loud voices are limited, softly.
    """

    name = "espeak"
    voices = Voices(
        {
            "en": tuple(f"{accent}+{variant}" for variant in ESPEAK_VARIANTS for accent in ENGLISH_ACCENTS),
            "no": tuple(f"nb+{variant}" for variant in ESPEAK_VARIANTS),
            "zh": tuple(f"cmn+{variant}" for variant in ESPEAK_VARIANTS),
            ANY: tuple(f"{{language}}+{variant}" for variant in ESPEAK_VARIANTS),
        }
    )

    def __init__(self, *, num_workers: int = 2) -> None:
        self.num_workers = num_workers

    def synthesize(self, requests: Sequence[SpeechRequest]) -> Iterator[Speech | SynthesisError]:
        """Yields (samples (S,) float32, 22050), or why a text has none, in order. Raises: EngineError."""
        with closing(self.synthesize_marked(requests)) as clips:
            for clip in clips:
                yield clip if isinstance(clip, SynthesisError) else clip[0]

    def synthesize_marked(self, requests: Sequence[SpeechRequest]) -> Generator[Marked | SynthesisError, None, None]:
        """Yields what `synthesize` does, each with its word marks or None. Raises: EngineError."""
        if importlib.util.find_spec("espeakng_loader") is None:
            raise EngineError("espeak-ng is not installed; run: pip install 'sonant[synth]'")
        num_workers = min(self.num_workers, max(1, len(requests)))
        workers = [_start(requests[first::num_workers]) for first in range(num_workers)]
        try:
            for index, request in enumerate(requests):
                stdout = workers[index % num_workers].stdout
                assert stdout is not None
                yield _read(stdout, request)
        finally:
            for worker in workers:
                worker.kill()
                worker.communicate()


def _start(requests: Sequence[SpeechRequest]) -> "subprocess.Popen[bytes]":
    # A file as stdin: a pipe would block us on writing while the worker blocks on answering.
    with tempfile.TemporaryFile() as lines:
        for request in requests:
            lines.write(json.dumps(asdict(request)).encode() + b"\n")
        lines.seek(0)
        command = [sys.executable, "-m", "sonant.synth.espeak_worker"]
        return subprocess.Popen(command, stdin=lines, stdout=subprocess.PIPE)


def _read(stdout: IO[bytes], request: SpeechRequest) -> Marked | SynthesisError:
    header = stdout.read(HEADER.size)
    if len(header) < HEADER.size:
        raise EngineError(f"the espeak process ended before it spoke {request.text!r}; its message is above")
    sample_rate_hz, num_bytes = HEADER.unpack(header)
    payload = stdout.read(num_bytes)
    if sample_rate_hz == 0:
        message = f"espeak cannot speak {request.text!r}: {payload.decode()}"
        if payload.startswith(NO_VOICE.encode()):
            raise EngineError(
                f"{message}; voices are a language, or language+variant such as en+f3, en-us+m5, en-gb-scotland+klatt2"
            )
        return SynthesisError(message)
    events, _, pcm = payload.partition(b"\n")
    samples = np.frombuffer(pcm, dtype="<i2").astype(np.float32) / np.float32(32768)
    return (samples, sample_rate_hz), word_marks(request.text, _word_events(json.loads(events), sample_rate_hz))


def _word_events(events: Sequence[tuple[int | None, int]], sample_rate_hz: int) -> list[WordEvent]:
    """Words (with a place) and phonemes (without) as they come -> words, each with the phonemes that follow it."""
    words: list[WordEvent] = []
    for place, sample in events:
        start_s = round(sample / sample_rate_hz, 4)
        if place is not None:
            words.append(WordEvent(place, start_s))
        elif words:
            words[-1] = replace(words[-1], phonemes_s=(*words[-1].phonemes_s, start_s))
    return words

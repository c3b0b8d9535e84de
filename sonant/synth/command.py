"""Speech from any program: one call for each clip; flite is such a program."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sonant.audio.io import info, load
from sonant.errors import AudioError, EngineError, SynthesisError
from sonant.synth.tts import Speech, SpeechRequest
from sonant.synth.voices import Voices


class CommandSynthesizer:
    """Speaks by running a program that writes a sound file.

    `command` is a list of arguments with the fields {text_file}, {output}, {voice}, {rate}, {stretch} (1 / rate) and
    {pitch}; for example `("piper", "--model", "{voice}", "--input-file", "{text_file}", "--output-file", "{output}")`.
    No shell is involved.
    """

    def __init__(self, name: str, command: Sequence[str], *, install: str = "", num_workers: int = 2) -> None:
        self.name = name
        self.command = tuple(command)
        self.install = install
        self.num_workers = num_workers

    def synthesize(self, requests: Sequence[SpeechRequest]) -> Iterator[Speech | SynthesisError]:
        """Yields (samples (S,) float32, the program's rate), or why there are none, in order. Raises: EngineError."""
        require_program(self.command[0], self.install)
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(self.num_workers) as pool:
            yield from pool.map(lambda job: self._try(job[1], Path(folder, str(job[0]))), enumerate(requests))

    def _try(self, request: SpeechRequest, stem: Path) -> Speech | SynthesisError:
        try:
            return self._speak(request, stem)
        except EngineError:
            raise
        except SynthesisError as error:
            return error

    def _speak(self, request: SpeechRequest, stem: Path) -> Speech:
        text_file, output = stem.with_suffix(".txt"), stem.with_suffix(".wav")
        text_file.write_text(request.text, encoding="utf-8")
        fields: dict[str, Any] = {"rate": request.rate, "stretch": 1 / request.rate, "pitch": request.pitch}
        fields |= {"text_file": text_file, "output": output, "voice": request.voice}
        refuse_unused(request, self.name, "".join(self.command))
        try:
            command = [argument.format(**fields) for argument in self.command]
        except (LookupError, ValueError):
            known = " ".join(f"{{{name}}}" for name in fields)
            raise EngineError(f"{self.name}: fields are {known}; write other braces twice: {{{{ and }}}}") from None
        run_program(command)
        speech = read_speech(output, f"{self.name} {request.voice}: {request.text!r}")
        text_file.unlink()
        return speech


FLITE_VOICES = ("kal", "kal16", "slt", "awb", "rms")


class FliteSynthesizer(CommandSynthesizer):
    """Speaks with flite's English voices (a Debian program)."""

    voices = Voices({"en": FLITE_VOICES})

    def __init__(self, *, num_workers: int = 2) -> None:
        options = ("-voice", "{voice}", "--setf", "duration_stretch={stretch:.3f}", "-f", "{text_file}")
        command = ("flite", *options, "-o", "{output}")
        super().__init__("flite", command, install="apt-get install flite", num_workers=num_workers)

    def _speak(self, request: SpeechRequest, stem: Path) -> Speech:
        # flite takes an unknown voice without a word and speaks with kal.
        if request.voice not in FLITE_VOICES:
            raise EngineError(f"flite has no voice {request.voice!r}; its voices are {', '.join(FLITE_VOICES)}")
        return super()._speak(request, stem)


def require_program(program: str, install: str) -> None:
    """Raises EngineError, saying how to get it, if `program` cannot be found."""
    if shutil.which(program) is None:
        remedy = f"run: {install}" if install else "install it or give its full path"
        raise EngineError(f"the program {program!r} is not installed; {remedy}")


def refuse_unused(request: SpeechRequest, name: str, command: str) -> None:
    """Raises EngineError if the request asks for a change that the command has no field for."""
    if (request.pitch_range, request.volume) != (1.0, 1.0):
        asked = f"{request.pitch_range}, {request.volume}"
        raise EngineError(
            f"{name} cannot change pitch_range or volume (asked: {asked}); leave them at 1.0, or use espeak"
        )
    if request.pitch != 1.0 and "{pitch" not in command:
        raise EngineError(f"{name} cannot change the pitch (asked: {request.pitch}); leave it at 1.0")
    if request.rate != 1.0 and "{rate" not in command and "{stretch" not in command:
        raise EngineError(f"{name} cannot change the rate (asked: {request.rate}); leave it at 1.0")


def run_program(command: Sequence[str]) -> None:
    """Runs a program to its end. Raises: SynthesisError with the end of what it printed."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-300:]
        raise SynthesisError(f"{command[0]} returned {done.returncode}: {said or 'no message'}")


def read_speech(path: Path, what: str) -> Speech:
    """Returns (samples, rate) of the file a program wrote, and deletes it. Raises: SynthesisError if it is no sound."""
    if not path.exists():
        raise SynthesisError(f"{what}: the program wrote no sound file; try it by hand")
    try:
        sample_rate_hz = info(path).sample_rate_hz
        samples = load(path, sample_rate_hz=sample_rate_hz)
    except AudioError as error:
        raise SynthesisError(f"{what}: {error}") from None
    finally:
        path.unlink()
    return samples, sample_rate_hz

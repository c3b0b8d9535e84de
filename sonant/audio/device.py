"""The microphone and the loudspeaker of this machine, by sounddevice (PortAudio).

with recording() as heard:      from here
    input()
heard.samples                   to here
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sonant.errors import AudioError


@dataclass
class Heard:
    """What a microphone has heard so far."""

    sample_rate_hz: int
    blocks: list[NDArray[np.float32]] = field(default_factory=list)  # (S, 1) each

    @property
    def samples(self) -> NDArray[np.float32]:
        """Returns all of it, (S,) float32 in [-1, 1]."""
        return np.concatenate([np.zeros(0, np.float32), *(block[:, 0] for block in self.blocks)])


def check_device(kind: Literal["input", "output"]) -> None:
    """Returns if there is a microphone (input) or a loudspeaker (output). Raises: AudioError if there is none."""
    with _named_faults():
        _library().query_devices(kind=kind)


@contextmanager
def recording(*, sample_rate_hz: int = 16_000) -> Iterator[Heard]:
    """Returns what the microphone hears while the context is open. Raises: AudioError if it cannot be opened."""
    library, heard = _library(), Heard(sample_rate_hz)

    def hear(block: NDArray[np.float32], *_: Any) -> None:
        heard.blocks.append(block.copy())  # PortAudio uses the buffer again

    with _named_faults(), library.InputStream(sample_rate_hz, channels=1, dtype="float32", callback=hear):
        yield heard


@contextmanager
def loudspeaker(*, sample_rate_hz: int) -> Iterator[Any]:
    """Returns a stream whose `write(samples)` plays (S, 1) float32 behind what plays; leaving waits for the end.

    Raises: AudioError if there is none.
    """
    with _named_faults(), _library().OutputStream(sample_rate_hz, channels=1, dtype="float32") as stream:
        yield stream


@contextmanager
def _named_faults() -> Iterator[None]:
    """PortAudio's faults become AudioErrors."""
    try:
        yield
    except _library().PortAudioError as error:
        raise AudioError(
            f"this machine's sound device cannot be used ({error}); plug a microphone and a loudspeaker in, and close "
            "what else holds them"
        ) from None


def _library() -> Any:
    try:
        import sounddevice
    except ImportError:
        raise AudioError(
            "the microphone of this machine needs the package sounddevice, which is not installed; "
            "install it with: pip install 'sonant[talk]'"
        ) from None
    except OSError:  # it looks for PortAudio when it is imported
        raise AudioError(
            "the microphone of this machine needs the library PortAudio, which was not found; install it "
            "(Debian: apt install libportaudio2; macOS: brew install portaudio)"
        ) from None
    return sounddevice

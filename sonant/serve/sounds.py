"""What is said, written as clients want it: 24 kHz mono, 16 bits where the format has bits, as OpenAI speaks."""

import io
from collections.abc import Iterator
from typing import Literal, TypeAlias, get_args

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from sonant.audio.io import resample

SPOKEN_RATE_HZ = 24_000
SoundFormat: TypeAlias = Literal["mp3", "opus", "flac", "wav", "pcm"]
SOUND_FORMATS: tuple[SoundFormat, ...] = get_args(SoundFormat)
MEDIA_TYPES: dict[SoundFormat, str] = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
_CONTAINERS: dict[SoundFormat, tuple[str, str]] = {
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "opus": ("OGG", "OPUS"),
    "flac": ("FLAC", "PCM_16"),
    "wav": ("WAV", "PCM_16"),
}


class PCMStream:
    """Samples as they come -> 16-bit little-endian PCM at 24 kHz; what is pushed joins without a seam."""

    def __init__(self, sample_rate_hz: int) -> None:
        self._resampler = soxr.ResampleStream(sample_rate_hz, SPOKEN_RATE_HZ, 1, dtype="float32")

    def push(self, samples: NDArray[np.float32]) -> bytes:
        """Returns the bytes that the next samples (S,) complete."""
        return pcm16(self._resampler.resample_chunk(samples))

    def finish(self) -> bytes:
        """Returns the bytes that are left."""
        return pcm16(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))


def pcm16(samples: NDArray[np.float32]) -> bytes:
    """Returns samples (S,) as 16-bit little-endian PCM; what is louder than full scale is clipped."""
    return (np.clip(samples, -1.0, 1.0) * 32_767.0).round().astype("<i2").tobytes()


def written(samples: NDArray[np.float32], *, sample_rate_hz: int, format: SoundFormat) -> bytes:
    """Returns samples (S,) as a file of the format, at 24 kHz; what is louder than full scale is clipped."""
    samples = np.clip(resample(samples, from_hz=sample_rate_hz, to_hz=SPOKEN_RATE_HZ), -1.0, 1.0)
    if format == "pcm":
        return pcm16(samples)
    container, subtype = _CONTAINERS[format]
    buffer = io.BytesIO()
    with soundfile.SoundFile(
        buffer, "w", samplerate=SPOKEN_RATE_HZ, channels=1, format=container, subtype=subtype
    ) as file:
        for block in _seconds(samples):  # libsndfile overflows its stack when it encodes minutes in one call
            file.write(block)
    return buffer.getvalue()


def _seconds(samples: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    for first in range(0, len(samples), SPOKEN_RATE_HZ):
        yield samples[first : first + SPOKEN_RATE_HZ]

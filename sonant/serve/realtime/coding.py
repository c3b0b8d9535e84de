"""Sound on the wire of a realtime session: raw 16-bit PCM at 24 kHz, or telephone sound (G.711) at 8 kHz.

Inside a session, samples are (S,) int16 at the rate of their coding; libsndfile knows the telephone's laws.
"""

import base64
import binascii
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from sonant.serve.failures import RefusedError

Pcm: TypeAlias = NDArray[np.int16]
CodingName: TypeAlias = Literal["audio/pcm", "audio/pcmu", "audio/pcma"]


@dataclass(frozen=True)
class Coding:
    """How samples are written as bytes."""

    sample_rate_hz: int
    bytes_per_sample: int
    subtype: str  # libsndfile's name

    def decode(self, text: str, *, param: str) -> Pcm:
        """Returns the samples in base64 text. Raises: RefusedError if it is not base64, or cuts a sample in two."""
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise RefusedError("the audio is not valid base64; encode its raw samples", param=param) from None
        if len(data) % self.bytes_per_sample:
            raise RefusedError(
                f"the audio has {len(data)} bytes; a sample has {self.bytes_per_sample}: send whole samples",
                param=param,
            )
        if self.subtype == "PCM_16":
            return np.frombuffer(data, "<i2").astype(np.int16)
        samples, _ = soundfile.read(
            io.BytesIO(data),
            dtype="int16",
            samplerate=self.sample_rate_hz,
            channels=1,
            format="RAW",
            subtype=self.subtype,
        )
        return np.asarray(samples, np.int16)

    def encode(self, samples: Pcm) -> str:
        """Returns samples as base64 text."""
        if self.subtype == "PCM_16":
            return base64.b64encode(samples.astype("<i2").tobytes()).decode("ascii")
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, self.sample_rate_hz, format="RAW", subtype=self.subtype)
        return base64.b64encode(buffer.getvalue()).decode("ascii")

    def as_wav(self, samples: Pcm) -> bytes:
        """Returns samples as a WAV file that `sonant.audio.io.load` reads back exactly."""
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, self.sample_rate_hz, format="WAV", subtype="PCM_16")
        return buffer.getvalue()


CODINGS: Mapping[CodingName, Coding] = {
    "audio/pcm": Coding(24_000, 2, "PCM_16"),
    "audio/pcmu": Coding(8_000, 1, "ULAW"),
    "audio/pcma": Coding(8_000, 1, "ALAW"),
}


class Outgoing:
    """A voice's samples as they come -> int16 at the rate of a coding; what is pushed joins without a seam."""

    def __init__(self, sample_rate_hz: int, coding: Coding) -> None:
        self._resampler = soxr.ResampleStream(sample_rate_hz, coding.sample_rate_hz, 1, dtype="float32")

    def push(self, samples: NDArray[np.float32]) -> Pcm:
        """Returns the samples that the next ones (S,) complete."""
        return as_pcm(self._resampler.resample_chunk(samples))

    def finish(self) -> Pcm:
        """Returns the samples that are left."""
        return as_pcm(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))


def as_pcm(samples: NDArray[np.float32]) -> Pcm:
    """Returns samples in [-1, 1] as int16; what is louder than full scale is clipped."""
    return (np.clip(samples, -1.0, 1.0) * 32_767.0).round().astype(np.int16)


def as_float(samples: Pcm) -> NDArray[np.float32]:
    """Returns int16 samples as float32 in [-1, 1)."""
    return samples.astype(np.float32) / np.float32(32_768.0)

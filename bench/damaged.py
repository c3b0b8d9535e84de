"""Recordings in every format the server reads, and ways to damage them: what `bench.fuzz` and the tests send."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

RATE_HZ = 48_000
# How libsndfile, or FFmpeg (container, codec), calls each.
_BY_SNDFILE = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "vorbis": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
_BY_FFMPEG = {"webm": ("webm", "libopus"), "mp4": ("mp4", "aac"), "aac": ("adts", "aac")}
FORMATS = (*_BY_SNDFILE, *_BY_FFMPEG)
# One frame of silence (1024 samples at 16 kHz) as bare AAC; any number of them is a recording.
SILENT_AAC = bytes.fromhex("fff16040017ffc01182007")


def tone(duration_s: float, *, rate_hz: int = RATE_HZ) -> NDArray[np.float32]:
    """Returns a swelling tone (S,) float32 within [-0.5, 0.5]."""
    times = np.arange(round(duration_s * rate_hz)) / rate_hz
    swell = np.minimum(1, 20 * np.minimum(times, duration_s - times))
    return (0.5 * swell * np.sin(2 * np.pi * 440 * times)).astype(np.float32)


def encoded(kind: str, samples: NDArray[np.float32], *, rate_hz: int = RATE_HZ) -> bytes:
    """Returns mono (S,) or multi-channel (S, C) samples in one of FORMATS."""
    buffer = io.BytesIO()
    if kind in _BY_SNDFILE:
        container, subtype = _BY_SNDFILE[kind]
        soundfile.write(buffer, samples, rate_hz, format=container, subtype=subtype)
        return buffer.getvalue()
    return encoded_by_ffmpeg(*_BY_FFMPEG[kind], samples, rate_hz=rate_hz)


def encoded_by_ffmpeg(
    container: str, codec: str, samples: NDArray[np.float32], *, rate_hz: int = RATE_HZ, **options: str
) -> bytes:
    """Returns samples (S,) or (S, 2) in a container and codec that FFmpeg can write."""
    import av

    num_channels = 1 if samples.ndim == 1 else samples.shape[1]
    layout = {1: "mono", 2: "stereo"}[num_channels]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container, container_options=options) as file:
        stream: Any = file.add_stream(codec, rate=rate_hz)
        stream.layout = layout
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.reshape(1, -1)), format="flt", layout=layout)
        frame.sample_rate, frame.pts = rate_hz, 0
        for packet in (*stream.encode(frame), *stream.encode(None)):
            file.mux(packet)
    return buffer.getvalue()


@dataclass(frozen=True)
class Damage:
    """A way to damage bytes, the same each time for the same generator."""

    name: str
    apply: Callable[[bytearray, np.random.Generator], bytes]


def _flip(data: bytearray, rng: np.random.Generator) -> bytes:
    for place in _places(data, rng, 8):
        data[place] ^= 1 << int(rng.integers(8))
    return bytes(data)


def _overwrite(data: bytearray, rng: np.random.Generator) -> bytes:
    start = _places(data, rng, 1)[0]
    data[start : start + 16] = rng.bytes(16)
    return bytes(data)


def _extreme(data: bytearray, rng: np.random.Generator) -> bytes:
    """A length, rate or count that is as large, as small or as negative as it can be."""
    start, width = _places(data, rng, 1)[0], int(rng.choice((2, 4, 8)))
    data[start : start + width] = (b"\x00", b"\xff", b"\x7f" + b"\xff" * 7, b"\x80")[int(rng.integers(4))][:1] * width
    return bytes(data)


def _cut(data: bytearray, rng: np.random.Generator) -> bytes:
    return bytes(data[: int(rng.integers(len(data)))])


def _remove(data: bytearray, rng: np.random.Generator) -> bytes:
    start = _places(data, rng, 1)[0]
    del data[start : start + int(rng.integers(1, 400))]
    return bytes(data)


def _repeat(data: bytearray, rng: np.random.Generator) -> bytes:
    start = _places(data, rng, 1)[0]
    stretch = data[start : start + int(rng.integers(1, 400))]
    return bytes(data[:start] + stretch * int(rng.integers(2, 30)) + data[start:])


def _insert(data: bytearray, rng: np.random.Generator) -> bytes:
    start = _places(data, rng, 1)[0]
    return bytes(data[:start]) + rng.bytes(int(rng.integers(1, 64))) + bytes(data[start:])


def _behead(data: bytearray, rng: np.random.Generator) -> bytes:
    """The right first bytes, then noise."""
    return bytes(data[: int(rng.integers(4, 64))]) + rng.bytes(len(data) // 2)


DAMAGES = tuple(
    Damage(apply.__name__.lstrip("_"), apply)
    for apply in (_flip, _overwrite, _extreme, _cut, _remove, _repeat, _insert, _behead)
)


def damaged(data: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """Returns the name of a damage, and the bytes with it."""
    damage = DAMAGES[int(rng.integers(len(DAMAGES)))]
    return damage.name, damage.apply(bytearray(data), rng)


def _places(data: bytearray, rng: np.random.Generator, count: int) -> list[int]:
    """Where to strike: half the time among the first 256 bytes, where the headers are."""
    end = min(256, len(data)) if rng.random() < 0.5 else len(data)
    return [int(place) for place in rng.integers(end, size=count)]

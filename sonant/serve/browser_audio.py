"""What browsers record -> float32 samples: webm and mp4 (opus, aac, ...) and bare aac, by PyAV.

Only the decoding worker calls this. The container is recognised here, by its first bytes, and FFmpeg is held to it and
to a few codecs: left to guess, it would also follow playlists to files and addresses.
"""

import io
from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from sonant.audio.io import MAX_CHANNELS, MAX_RATE_HZ, MIN_RATE_HZ, resample_blocks
from sonant.errors import AudioError

CODECS = ("opus", "libopus", "vorbis", "aac", "mp3float", "flac", "alac", "pcm_s16le")
# Full scale of FFmpeg's sample formats, packed (s16) or planar (s16p); others do not come out of CODECS.
_FULL_SCALE = {"s16": 2.0**15, "s32": 2.0**31, "flt": 1.0}
# A container may count priming samples that decoding drops, and rounds.
LENGTH_SLACK_S = 0.1


def container_of(data: bytes) -> str | None:
    """Returns FFmpeg's name of the browser's container that these bytes begin like; None if they are none of ours."""
    if data.startswith(b"\x1aE\xdf\xa3"):
        return "matroska"
    if data[4:8] == b"ftyp":
        return "mp4"
    # ADTS: twelve bits of sync and layer 0; MP3 differs in the layer.
    return "aac" if len(data) > 1 and data[0] == 0xFF and data[1] & 0xF6 == 0xF0 else None


def load(data: bytes, *, sample_rate_hz: int, max_duration_s: float) -> NDArray[np.float32]:
    """Returns the only, or first, audio track as mono samples: (S,) float32; channels are averaged.

    Memory is bounded by twice `max_duration_s` at the asked rate plus a block, whatever the file claims.

    Raises: AudioError if the bytes cannot be decoded, hold no track of CODECS, are cut off, not finite, of an
        impossible or changing rate or channel count, or last longer than `max_duration_s`.
    """
    import av

    name = f"audio of {len(data)} bytes"
    try:
        with av.open(
            io.BytesIO(data),
            format=container_of(data),
            container_options={"codec_whitelist": ",".join(CODECS), "protocol_whitelist": "none"},
            io_open=_refuse_to_open,
        ) as container:
            blocks = _blocks(container, name=name, max_duration_s=max_duration_s)
            first, from_hz = next(blocks, (None, 0))
            if first is None:
                raise AudioError(f"{name}: holds no samples; record it again or drop it")
            rest = (block for block, _ in blocks)
            chunks = list(resample_blocks(_chain(first, rest), from_hz=from_hz, to_hz=sample_rate_hz))
    except (av.FFmpegError, ValueError, OverflowError):
        raise AudioError(
            f"{name}: cannot be decoded as {container_of(data)}; wav, flac, ogg, mp3, webm, mp4 and aac are allowed, "
            "whole and undamaged; convert or record it again"
        ) from None
    samples = np.concatenate(chunks)
    if not len(samples):
        raise AudioError(f"{name}: holds less than one sample at {sample_rate_hz} Hz; use a longer recording")
    return samples


def _chain(first: NDArray[np.float32], rest: Iterator[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    yield first
    yield from rest


def _refuse_to_open(*_: Any) -> NoReturn:
    raise ValueError("a recording is one file")


def _blocks(container: Any, *, name: str, max_duration_s: float) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Mono blocks (S,) and their rate; counted, never more than `max_duration_s`."""
    if not container.streams.audio:
        raise AudioError(f"{name}: holds no audio track; send a recording of sound")
    stream = container.streams.audio[0]
    if stream.codec_context is None or stream.codec_context.name not in CODECS:
        raise AudioError(f"{name}: its audio is of a codec not allowed here; {', '.join(CODECS)} are; convert it")
    stream.codec_context.thread_count = 1
    count, rate_hz = 0, 0
    for frame in container.decode(stream):
        rate_hz = rate_hz or frame.sample_rate
        _check(frame, rate_hz, name=name)
        count += frame.samples
        if count > max_duration_s * rate_hz:
            raise AudioError(
                f"{name}: is longer than {max_duration_s:g} s, the most allowed here; cut it into segments"
            )
        block = _mono(frame)
        if not np.isfinite(block).all():
            raise AudioError(f"{name}: holds NaN or infinite samples near sample {count}; record it again")
        yield block, rate_hz
    promised_s = _promised_s(container, stream)
    if count and count / rate_hz < promised_s - LENGTH_SLACK_S:
        raise AudioError(
            f"{name}: is cut off or damaged (the header promises {promised_s:.2f} s, {count / rate_hz:.2f} s could be "
            "decoded); the whole file is needed, copy or convert it again"
        )


def _promised_s(container: Any, stream: Any) -> float:
    """How long the header says that the track is; 0 where it does not, as in what browsers record."""
    if container.format.name == "aac":  # has no header: FFmpeg guesses
        return 0.0
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    # Matroska tells only how long the longest of its tracks is.
    return (container.duration or 0) / 1e6 if len(container.streams) == 1 else 0.0


def _check(frame: Any, rate_hz: int, *, name: str) -> None:
    if not MIN_RATE_HZ <= frame.sample_rate <= MAX_RATE_HZ:
        raise AudioError(
            f"{name}: the sample rate is {frame.sample_rate} Hz; {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz are allowed"
        )
    if frame.sample_rate != rate_hz:
        raise AudioError(f"{name}: the sample rate changes from {rate_hz} to {frame.sample_rate} Hz; send one rate")
    if not 1 <= frame.layout.nb_channels <= MAX_CHANNELS:
        raise AudioError(
            f"{name}: has {frame.layout.nb_channels} channels; 1 to {MAX_CHANNELS} are allowed; split or mix it"
        )


def _mono(frame: Any) -> NDArray[np.float32]:
    """The mean of a frame's channels: (S,) float32."""
    kind = frame.format.name
    values = frame.to_ndarray()
    if not frame.format.is_planar:
        values = values.reshape(-1, frame.layout.nb_channels).T
    mean: NDArray[np.float32] = values.mean(axis=0, dtype=np.float32) / np.float32(_FULL_SCALE[kind.removesuffix("p")])
    return mean

"""Recordings on disk or in memory <-> float32 samples.

libsndfile decodes, soxr resamples. A file's header is a claim: every sample is counted while it is decoded, in blocks,
so that neither a lying header nor a decompression bomb can take more memory than `max_duration_s` allows.
"""

import io
import math
import os
import re
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from sonant.errors import AudioError

Source = str | os.PathLike[str] | bytes

FORMATS = ("WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3")
WRITABLE = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}
MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 384_000
MAX_CHANNELS = 32
BLOCK_FRAMES = 65_536
MAX_OGG_PAGE_BYTES = 65_307
# MP3 frames borrow bits from up to 511 bytes before them: without those, the start of a part would be noise.
MP3_WARM_UP = 32 * 1152  # samples
# libsndfile's seek into the last page of Ogg Vorbis is off by up to a block; pages are at most 65 kB.
VORBIS_LAST_PAGE_S = 60
# What libsndfile says of a FLAC from a pipe, whose header does not know its length; such are counted, up to a day.
UNKNOWN_LENGTH = 2**63 - 1
MAX_COUNTED_S = 24 * 3600
# Manifests round seconds: a segment may claim this much more than its recording holds.
SEGMENT_SLACK_S = 0.02


@dataclass(frozen=True)
class AudioInfo:
    """What a header says; `load` is the one that counts."""

    sample_rate_hz: int
    num_samples: int  # per channel
    num_channels: int
    format: str  # one of FORMATS

    @property
    def duration_s(self) -> float:
        """Returns the length in seconds."""
        return self.num_samples / self.sample_rate_hz


def info(source: Source) -> AudioInfo:
    """Returns rate, length and channels of a recording without decoding it (but for FLAC that was piped).

    Raises: AudioError as `load` does, for everything that can be seen without decoding.
    """
    with _open(source) as file:
        return _read_info(file, name=_name(source))


def load(
    source: Source,
    *,
    sample_rate_hz: int = 16_000,
    offset_s: float = 0.0,
    duration_s: float | None = None,
    max_duration_s: float = 3600.0,
) -> NDArray[np.float32]:
    """Returns a recording, or the part from `offset_s` for `duration_s`, as mono samples: (S,) float32.

    Channels are averaged. Integer formats lie in [-1, 1]; float and lossy ones may go a little beyond and are kept.
    Memory is bounded by twice `max_duration_s` at the asked rate plus a block, whatever the file claims.

    Raises: AudioError if the source is missing, no regular file, empty, not wav/flac/ogg/mp3, cut off, not finite, of
        an impossible rate or channel count, longer than `max_duration_s`, or if the asked part is not inside it.
    """
    name = _name(source)
    _check_rate(sample_rate_hz, name=name)
    if not (math.isfinite(offset_s) and offset_s >= 0):
        raise AudioError(f"{name}: offset_s is {offset_s}; give seconds from the start, 0 or more")
    if duration_s is not None and not (math.isfinite(duration_s) and duration_s > 0):
        raise AudioError(f"{name}: duration_s is {duration_s}; give seconds above 0, or leave it out for all the rest")
    with _open(source) as file:
        header = _read_info(file, name=name)
        start = round(offset_s * header.sample_rate_hz)
        if start >= header.num_samples:
            raise AudioError(
                f"{name}: offset_s {offset_s:g} is past the end; this recording has {header.duration_s:.3f} s"
            )
        wanted = None if duration_s is None else max(1, round(duration_s * header.sample_rate_hz))
        blocks = _decode(file, header, name=name, start=start, wanted=wanted, max_duration_s=max_duration_s)
        chunks = list(resample_blocks(blocks, from_hz=header.sample_rate_hz, to_hz=sample_rate_hz))
    samples = chunks[0] if len(chunks) == 1 else np.concatenate(chunks)
    if not len(samples):
        raise AudioError(f"{name}: holds less than one sample at {sample_rate_hz} Hz; use a longer recording")
    return samples


def save(path: str | os.PathLike[str], samples: NDArray[np.float32], *, sample_rate_hz: int) -> None:
    """Writes mono samples (S,) in [-1, 1]; the extension chooses the format, .wav and .flac hold 16 bits.

    The file appears whole or not at all.

    Raises: AudioError if the samples are not one finite row within [-1, 1], the rate or the extension does not fit,
        or the folder cannot be written.
    """
    path = Path(path)
    _check_rate(sample_rate_hz, name=str(path))
    if path.suffix.lower() not in WRITABLE:
        raise AudioError(f"{path}: cannot write {path.suffix or 'a name without extension'}; use {', '.join(WRITABLE)}")
    samples = _as_samples(samples, name=str(path))
    peak = float(np.abs(samples).max(initial=0.0))
    if peak > 1.0:
        raise AudioError(f"{path}: the peak is {peak:.4g}, outside [-1, 1]; scale the samples before saving")
    container, subtype = WRITABLE[path.suffix.lower()]
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    encoded = io.BytesIO()  # libsndfile would wait for the disk twice a file: 4 ms each, thrice what encoding takes
    try:
        with soundfile.SoundFile(
            encoded, "w", samplerate=sample_rate_hz, channels=1, format=container, subtype=subtype
        ) as file:
            # libsndfile overflows its stack when it encodes minutes of Vorbis in one call.
            for first in range(0, len(samples), BLOCK_FRAMES):
                file.write(samples[first : first + BLOCK_FRAMES])
        temporary.write_bytes(encoded.getbuffer())
        os.replace(temporary, path)
    except (OSError, soundfile.LibsndfileError) as error:
        reason = getattr(error, "error_string", None) or getattr(error, "strerror", None) or "unknown reason"
        raise AudioError(
            f"{path}: cannot write {container} at {sample_rate_hz} Hz ({reason}); check the folder and the rate"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def resample(samples: NDArray[np.float32], *, from_hz: int, to_hz: int) -> NDArray[np.float32]:
    """Returns the samples (S,) at another rate: (about S * to_hz / from_hz,) float32; the same array if rates agree.

    Raises: AudioError if a rate is impossible or the samples are not one finite row.
    """
    for rate_hz in (from_hz, to_hz):
        _check_rate(rate_hz, name="resample")
    samples = _as_samples(samples, name="resample")
    if from_hz == to_hz:
        return samples
    resampled: NDArray[np.float32] = soxr.resample(samples, from_hz, to_hz)
    return resampled


def _name(source: Source) -> str:
    """What to call a source in messages."""
    return f"audio of {len(source)} bytes" if isinstance(source, bytes) else os.fspath(source)


def _check_rate(sample_rate_hz: int, *, name: str) -> None:
    if not MIN_RATE_HZ <= sample_rate_hz <= MAX_RATE_HZ:
        raise AudioError(
            f"{name}: the sample rate is {sample_rate_hz} Hz; {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz are allowed; "
            "resample it, or correct the header"
        )


def _as_samples(samples: NDArray[np.float32], *, name: str) -> NDArray[np.float32]:
    samples = np.asarray(samples, dtype=np.float32)
    if samples.ndim != 1:
        raise AudioError(f"{name}: the samples have shape {samples.shape}; give one row (S,), mono")
    if not np.isfinite(samples).all():
        raise AudioError(f"{name}: the samples hold NaN or infinity; only finite values are allowed")
    return samples


class _Stream(soundfile.SoundFile):
    """A SoundFile that only moves on when told.

    The original seeks to where it already is after every read. In MP3 that forgets the bits borrowed from the frames
    before: reading in blocks gave up to 0.3 s of silence or noise at each border. (`seek` itself still works.)
    """

    def seekable(self) -> bool:
        return False


@contextmanager
def _open(source: Source) -> Iterator[Any]:
    """The source as an open file of libsndfile; whatever libsndfile refuses becomes an AudioError."""
    name = _name(source)
    with _raw(source, name=name) as raw:
        if not raw.seek(0, os.SEEK_END):
            raise AudioError(f"{name}: is empty (0 bytes); write it again")
        cut_off = _is_cut_ogg(raw)
        raw.seek(0)
        try:
            # libsndfile reads a file by itself, and what is none by calling back for every 8 kB.
            file = _Stream(raw) if isinstance(source, bytes) else _Stream(raw.fileno(), closefd=False)
        except (soundfile.LibsndfileError, TypeError) as error:
            reason = getattr(error, "error_string", "no format found").strip().rstrip(".")
            raise AudioError(
                f"{name}: cannot be read as audio ({reason}); wav, flac, ogg and mp3 are allowed, "
                "whole and undamaged; convert or record it again"
            ) from None
        with file:
            if cut_off:
                raise _cut_off(name, "the last Ogg page is not marked as the end")
            yield file


@contextmanager
def _raw(source: Source, *, name: str) -> Iterator[io.BytesIO | io.FileIO]:
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    try:
        # A pipe or device would block or never end.
        if not stat.S_ISREG(os.stat(source).st_mode):
            raise AudioError(f"{name}: is not a regular file; give the path of one recording")
        # Unbuffered: libsndfile reads on where its file descriptor is.
        file = open(source, "rb", buffering=0)  # noqa: SIM115 - closed below, where errors of the caller are not ours
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "the name is not valid"
        raise AudioError(f"{name}: cannot be opened ({reason}); check the path") from None
    with file:
        yield file


def _is_cut_ogg(raw: io.BytesIO | io.FileIO) -> bool:
    """Whether this is Ogg that does not finish with a whole page marked as the end: libsndfile silently gives less.

    Source: RFC 3533, section 6: capture pattern, flags in byte 5 (4: end of stream), segment table from byte 26.
    """
    raw.seek(0)
    if raw.read(4) != b"OggS":
        return False
    raw.seek(max(0, raw.seek(0, os.SEEK_END) - 2 * MAX_OGG_PAGE_BYTES))
    tail = raw.read()
    page = tail[max(0, tail.rfind(b"OggS")) :]
    if len(page) < 27 or not page[5] & 4:
        return True
    num_segments = page[26]
    return len(page) < 27 + num_segments + sum(page[27 : 27 + num_segments])


def _cut_off(name: str, detail: str) -> AudioError:
    return AudioError(f"{name}: is cut off or damaged ({detail}); the whole file is needed, copy or convert it again")


def _read_info(file: Any, *, name: str) -> AudioInfo:
    if file.format not in FORMATS:
        raise AudioError(f"{name}: is {file.format} audio; wav, flac, ogg and mp3 are allowed; convert it")
    _check_rate(file.samplerate, name=name)
    if not 1 <= file.channels <= MAX_CHANNELS:
        raise AudioError(f"{name}: has {file.channels} channels; 1 to {MAX_CHANNELS} are allowed; split or mix it")
    # libsndfile corrects a data chunk that claims more than the file holds, and says so only in its log.
    claim = re.search(r"data\s*: (\d+) \(should be (\d+)\)", file.extra_info)
    # Writers that cannot seek back leave 2**32 - 1: "until the end".
    if claim and int(claim[1]) != 2**32 - 1:
        raise _cut_off(name, f"the header claims {claim[1]} bytes of samples, the file has {claim[2]}")
    if file.frames <= 0:
        raise AudioError(f"{name}: holds no samples; record it again or drop it")
    num_samples = _count(file, name=name) if file.frames == UNKNOWN_LENGTH else file.frames
    return AudioInfo(file.samplerate, num_samples, file.channels, file.format)


def _count(file: Any, *, name: str) -> int:
    """The samples of a file from here to its end, found by decoding; then goes back to its start."""
    count = 0
    try:
        while num_decoded := len(file.read(BLOCK_FRAMES, dtype="float32")):
            count += num_decoded
            if count > MAX_COUNTED_S * file.samplerate:
                raise AudioError(f"{name}: does not tell its length and is longer than a day; cut it into segments")
        file.seek(0)
    except soundfile.LibsndfileError:
        raise _cut_off(name, f"decoding stopped after sample {count}") from None
    return count


def _decode(
    file: Any, header: AudioInfo, *, name: str, start: int, wanted: int | None, max_duration_s: float
) -> Iterator[NDArray[np.float32]]:
    """Mono blocks from sample `start`, `wanted` samples or all; counted, never more than `max_duration_s`."""
    rate_hz = header.sample_rate_hz
    promised = header.num_samples - start
    if wanted is not None and wanted > promised + SEGMENT_SLACK_S * rate_hz:
        raise AudioError(
            f"{name}: the part from {start / rate_hz:.3f} s for {wanted / rate_hz:.3f} s ends past the end; "
            f"this recording has {header.duration_s:.3f} s"
        )
    promised = promised if wanted is None else min(wanted, promised)
    count = 0
    try:
        _seek(file, start)
        while count < promised:
            block = _read(file, min(BLOCK_FRAMES, promised - count))
            if not len(block):
                break
            count += len(block)
            if count > max_duration_s * rate_hz:
                raise AudioError(
                    f"{name}: is longer than {max_duration_s:g} s, the most allowed here; "
                    "cut it into segments or raise max_duration_s"
                )
            if not np.isfinite(block).all():
                raise AudioError(f"{name}: holds NaN or infinite samples near sample {start + count}; write it again")
            yield block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
    except soundfile.LibsndfileError:
        raise _cut_off(name, f"decoding stopped after sample {start + count} of {header.num_samples}") from None
    if count < promised:
        raise _cut_off(name, f"the header promises {header.num_samples} samples, {start + count} could be decoded")


def _read(file: Any, num: int) -> NDArray[np.float32]:
    """The next samples (S, channels); those of 16 bits become floats here, in a third of libsndfile's time."""
    if file.subtype != "PCM_16":
        read: NDArray[np.float32] = file.read(num, dtype="float32", always_2d=True)
        return read
    return np.multiply(file.read(num, dtype="int16", always_2d=True), np.float32(2**-15), dtype=np.float32)


def _seek(file: Any, start: int) -> None:
    """Moves to sample `start`, by way of a place before it where libsndfile's own seek cannot be trusted."""
    entry = start
    if file.format == "MP3":
        entry = max(0, start - MP3_WARM_UP)
    elif file.subtype == "VORBIS":
        entry = max(0, min(start, file.frames - VORBIS_LAST_PAGE_S * file.samplerate))
    file.seek(entry)
    while entry < start:
        dropped = file.read(min(BLOCK_FRAMES, start - entry), dtype="float32")
        if not len(dropped):
            return
        entry += len(dropped)


def resample_blocks(
    blocks: Iterator[NDArray[np.float32]], *, from_hz: int, to_hz: int
) -> Iterator[NDArray[np.float32]]:
    """Yields a recording that comes in mono blocks (S,) float32 at another rate, as if it had come in one piece."""
    if from_hz == to_hz:
        yield from blocks
        return
    stream = soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)

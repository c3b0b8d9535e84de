"""What is wrong with the clips of a manifest: each different clip is opened once, by several threads."""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from sonant.audio.io import SEGMENT_SLACK_S, AudioInfo, info, load
from sonant.chat.messages import AudioPart
from sonant.data.check_rows import Found
from sonant.errors import AudioError

ClipKey = tuple[str, float, float | None]

MIN_DURATION_S = 0.1
MIN_RATE_HZ = 8_000
SILENT_PEAK = 1e-4  # -80 dB of full scale
CLIPPED_SHARE = 0.01
CLIPS_AT_ONCE = 1000  # in the threads' queue


@dataclass(frozen=True)
class Clip:
    """What was found out about a clip."""

    duration_s: float | None  # None: it cannot be opened
    digest: str | None  # of its samples; None: not decoded
    found: tuple[Found, ...]


def look_at(
    parts: Mapping[ClipKey, AudioPart],
    *,
    decode: bool = True,
    workers: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> dict[ClipKey, Clip]:
    """Returns what was found for each clip. `progress` is called with (done, total).

    decode: read every sample; otherwise only headers, which finds neither damage nor silence.
    """
    clips: dict[ClipKey, Clip] = {}
    keys = list(parts)
    with ThreadPoolExecutor(workers) as pool:
        for first in range(0, len(keys), CLIPS_AT_ONCE):
            some = keys[first : first + CLIPS_AT_ONCE]
            for key, clip in zip(some, pool.map(lambda key: _look(parts[key], decode), some), strict=True):
                clips[key] = clip
                if progress:
                    progress(len(clips), len(keys))
    return clips


def _look(part: AudioPart, decode: bool) -> Clip:
    if part.path is not None and not os.path.isfile(part.path):
        return _unusable(
            "audio-missing", f"{part.path} {'is a folder' if os.path.isdir(part.path) else 'does not exist'}"
        )
    try:
        header = info(part.source)
    except AudioError as error:
        empty = "is empty" in str(error) or "holds no samples" in str(error)
        return _unusable("audio-empty" if empty else "audio-corrupt", str(error))
    rest_s = header.duration_s - part.offset_s
    if rest_s <= 0 or (part.duration_s or 0.0) > rest_s + SEGMENT_SLACK_S:
        end_s = part.offset_s + (part.duration_s or 0.0)
        found = "beyond-file", f"{part.name}: the clip is {part.offset_s:g} to {end_s:g} s of {header.duration_s:.3f} s"
        return Clip(part.duration_s, None, (found,))
    duration_s = min(rest_s, part.duration_s or rest_s)
    found_so_far = tuple(_header_faults(part, header, duration_s))
    return _decoded(part, header, duration_s, found_so_far) if decode else Clip(duration_s, None, found_so_far)


def _unusable(code: str, detail: str) -> Clip:
    return Clip(None, None, ((code, detail),))


def _header_faults(part: AudioPart, header: AudioInfo, duration_s: float) -> Iterable[Found]:
    if duration_s < MIN_DURATION_S:
        yield "too-short", f"{part.name}: the clip has {duration_s:.3f} s"
    if header.sample_rate_hz < MIN_RATE_HZ:
        yield "low-sample-rate", f"{part.name}: {header.sample_rate_hz} Hz"
    if header.num_channels > 1:
        yield "stereo", f"{part.name}: {header.num_channels} channels"


def _decoded(part: AudioPart, header: AudioInfo, duration_s: float, found: tuple[Found, ...]) -> Clip:
    try:
        samples = load(
            part.source,
            sample_rate_hz=header.sample_rate_hz,
            offset_s=part.offset_s,
            duration_s=part.duration_s,
            max_duration_s=duration_s + 1.0,
        )
    except AudioError as error:
        code = "audio-nan" if "NaN" in str(error) else "audio-corrupt"
        return Clip(duration_s, None, (*found, (code, str(error))))
    loudness = np.abs(samples)
    if loudness.max() < SILENT_PEAK:
        found = (*found, ("audio-silent", f"{part.name}: the peak is {loudness.max():.1g} of full scale"))
    elif (clipped := float((loudness >= 32767 / 32768).mean())) > CLIPPED_SHARE:
        found = (*found, ("audio-clipped", f"{part.name}: {clipped:.1%} of the samples are at full scale"))
    digest = hashlib.blake2b(samples.tobytes(), digest_size=16).hexdigest()
    return Clip(duration_s, f"{header.sample_rate_hz}:{digest}", found)

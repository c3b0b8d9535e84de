"""A frame cache that fills itself while training runs: what is not there yet is encoded when it is first asked for.

    row ─▶ on disk? ───────────────────────────▶ frames
             └─ no ─▶ encoded here and now ─────▶ frames ─▶ kept in memory ─▶ a shard, now and then
                      (a thread of the loader, beside the step)

So the first epoch runs the encoder in the background, and every later one, of this run or another, reads. Any number of
processes fill one folder: each writes shards of its own and finds those of the others.
"""

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from sonant.audio.features import FeatureSpec
from sonant.chat.messages import AudioPart
from sonant.data.frame_cache import Encode, FrameCache
from sonant.data.frame_shards import (
    Clip,
    Key,
    Precision,
    begin,
    key_of,
    read_index,
    remove_faulty,
    size_of,
    stored,
    write_shard,
)
from sonant.errors import AudioError, ManifestError

log = logging.getLogger(__name__)

MIN_SHARD_S = 10.0  # no shard is written sooner after the last,
MAX_UNWRITTEN = 0.2  # nor later than when this share of all the time so far has passed: what a kill may cost


class GrowingFrameCache:
    """The frames of a folder, and an encoder for those that it lacks: a `sonant.batch.CachedFrames`.

    Args:
        spec: whose frames they are; what `load()` encodes.
        load: returns what encodes clips; called at the first clip that is not in the folder, so perhaps never.
        precision: "float16" halves the folder and rounds by 2^-11 at most; "float32" gives what the encoder gave.

    A clip is encoded alone, so that its frames never depend on its neighbours, on threads or on where a run stopped;
    and what comes from the encoder is rounded like what comes from disk: epochs are equal bit for bit.

    Safe to use from several threads and, one instance each, several processes; call `flush` at the end.

    Raises: ManifestError if the folder holds something else, frames of another encoder or of another precision.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        spec: FeatureSpec,
        load: Callable[[], Encode],
        *,
        precision: Precision = "float16",
        shard_bytes: int = 256 << 20,
    ) -> None:
        self.spec, self.num_encoded = spec, 0
        self._load, self._shard_bytes = load, shard_bytes
        self._store = partial(stored, spec=spec, precision=precision)
        self._folder = Path(folder).absolute()
        begin(self._folder, spec, precision)
        _, faults = read_index(self._folder)
        remove_faulty(faults)
        for fault in faults.values():
            log.warning("%s; its clips are encoded again", fault)
        self._disk = FrameCache(self._folder)
        self._encode: Encode | None = None
        self._fresh: dict[Key, Clip] = {}  # not on disk yet
        self._fresh_bytes = 0
        self._started = self._written = time.monotonic()
        self._lock, self._loading, self._writing = threading.Lock(), threading.Lock(), threading.Lock()

    def __len__(self) -> int:
        return len(self._disk) + len(self._fresh)

    def __call__(self, part: AudioPart) -> Tensor:
        """Returns the frames (T, dim) float32 of one segment.

        Raises: AudioError if it can neither be found nor encoded, its recording has changed since, or its shard is
        damaged.
        """
        frames = self._find(part)
        if frames is None:
            frames = self._make(part)
        if self._is_due():
            self.flush()
        return frames.float()

    def flush(self) -> None:
        """Writes a shard of what is not on disk yet. A disk that cannot be written to is told, and no error."""
        with self._writing:
            with self._lock:
                clips = dict(self._fresh)
                self._written = time.monotonic()
            if not clips:
                return
            try:
                write_shard(self._folder / f"frames-{uuid.uuid4().hex[:12]}.safetensors", clips)
            except (OSError, SafetensorError, ManifestError) as error:
                log.warning("%s: frames cannot be written (%s); they are made again when needed", self._folder, error)
            self._disk.refresh()
            with self._lock:
                for key, clip in clips.items():
                    self._fresh_bytes -= clip.frames.nbytes
                    del self._fresh[key]

    def _find(self, part: AudioPart) -> Tensor | None:
        """From disk, from memory, or from a shard that another process has written since."""
        if (frames := self._disk.find(part)) is not None:
            return frames
        if (clip := self._fresh.get(key_of(part, self._folder))) is not None:
            return clip.frames
        self._disk.refresh()
        return self._disk.find(part)

    def _make(self, part: AudioPart) -> Tensor:
        size = size_of(part)
        (frames,) = self._encoder()([part])
        try:
            clip = Clip(size, self._store(frames))
        except AudioError as error:
            raise AudioError(f"{part.name}: {error}") from None
        with self._lock:
            self.num_encoded += 1
            if self._fresh.setdefault(key_of(part, self._folder), clip) is clip:
                self._fresh_bytes += clip.frames.nbytes
        return clip.frames

    def _encoder(self) -> Encode:
        with self._loading:
            if self._encode is None:
                self._encode = self._load()
            return self._encode

    def _is_due(self) -> bool:
        if not self._fresh or self._writing.locked():
            return False
        now = time.monotonic()
        wait_s = max(MIN_SHARD_S, MAX_UNWRITTEN * (now - self._started))
        return self._fresh_bytes >= self._shard_bytes or now - self._written >= wait_s

"""A stand-in for an encoder, and caches of what it hears; imported by the processes that tests kill."""

import os
import signal
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sonant.audio.features import FeatureSpec
from sonant.audio.io import save
from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.data.frame_cache import CacheReport, write_frame_cache
from sonant.data.manifest import write
from sonant.errors import AudioError
from sonant.testing import tone

SPEC = FeatureSpec.encoded("ear-0", 4, 25.0)


def frames_of(part: AudioPart) -> Tensor:
    """What the stand-in for an encoder hears: a function of the file's name, the offset and the length alone."""
    seed = zlib.crc32(f"{Path(part.path or 'data').name} {part.offset_s}".encode())
    length = round(25 * (part.duration_s or 0.4))
    return torch.randn(length, 4, generator=torch.Generator().manual_seed(seed))


class Ear:
    """Counts what it hears; refuses recordings called "bad"."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def __call__(self, parts: Sequence[AudioPart]) -> list[Tensor]:
        if bad := [part.name for part in parts if Path(part.name).name == "bad.wav"]:
            raise AudioError(f"{bad[0]}: is noise")
        self.heard += [part.name for part in parts]
        return [frames_of(part) for part in parts]


def manifest(root: Path, names: Sequence[str], *, name: str = "train", duration_s: float | None = None) -> Path:
    """A manifest of one clip a row, and its recordings."""
    (root / "clips").mkdir(parents=True, exist_ok=True)
    for clip in names:
        if not (root / "clips" / clip).exists():
            save(root / "clips" / clip, tone(0.4), sample_rate_hz=16_000)
    rows = [Conversation((user(AudioPart(f"clips/{n}", duration_s=duration_s)), assistant("yes")), id=n) for n in names]
    write(root / f"{name}.jsonl", rows)
    return root / f"{name}.jsonl"


def build(*manifests: Path, out: Path, shard_clips: int = 2, ear: Ear | None = None) -> CacheReport:
    shard_bytes = round(shard_clips * 0.4 * 25 * 4 * 2)
    return write_frame_cache(manifests, out, encode=ear or Ear(), spec=SPEC, shard_bytes=shard_bytes, workers=1)


class Interrupted(Ear):
    """Stops for good when it hears c.wav."""

    def __call__(self, parts: Sequence[AudioPart]) -> list[Tensor]:
        if "c.wav" in parts[0].name:
            self.stop()
        return super().__call__(parts)

    def stop(self) -> None:
        raise KeyboardInterrupt


class Killed(Interrupted):
    def stop(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

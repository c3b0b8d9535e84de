"""What the tests of made worlds share: an engine that hums, and how a world is read."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from sonant.chat.messages import Conversation
from sonant.data.check import check
from sonant.data.faults import Fault
from sonant.data.manifest import Manifest
from sonant.synth.tts import Speech, SpeechRequest


class Hum:
    """Hums 0.1 s whatever it is asked to say."""

    name = "hum"

    def __init__(self) -> None:
        self.num_clips = 0

    def synthesize(self, requests: Sequence[SpeechRequest]) -> Iterator[Speech]:
        for _ in requests:
            self.num_clips += 1
            yield np.full(1600, 0.1, dtype=np.float32), 16_000


def rows(world: Path, name: str) -> list[Conversation]:
    return list(Manifest(world / f"{name}.jsonl"))


def errors_in(world: Path) -> list[Fault]:
    """What the doctor finds wrong with a world's manifests, warnings apart."""
    report = check(sorted(world.glob("*/*.jsonl")), depth="headers", workers=1)
    return [fault for fault in report.faults if fault.severity == "error"]

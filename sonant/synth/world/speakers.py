"""Who speaks, and how, in the tiny world: speakers with a pitch and a tempo of their own, in four manners.

A speaker is an espeak voice with its own rate and pitch, fixed by the voice's name. A manner changes them by factors:
"excited" is how this speaker sounds beside its other manners, so a high voice is not an excited one.

    manner    rate  pitch  range  volume
    calm      0.90   1.00   0.70    0.70
    excited   1.30   1.30   2.00    1.00
    sad       0.74   0.85   0.25    0.40
    angry     1.10   0.85   1.10    1.60

espeak alone can do it: other engines know neither range nor volume.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

from sonant.synth.tts import SpeechRequest
from sonant.synth.world.text import Split
from sonant.synth.world.voices import voices

Manner = Literal["calm", "excited", "sad", "angry"]
MANNERS: tuple[Manner, ...] = ("calm", "excited", "sad", "angry")


@dataclass(frozen=True)
class Shape:
    """Factors on a speaker's own way of speaking."""

    rate: float = 1.0
    pitch: float = 1.0
    pitch_range: float = 1.0
    volume: float = 1.0


SHAPES: Mapping[Manner, Shape] = {
    "calm": Shape(rate=0.9, pitch=1.0, pitch_range=0.7, volume=0.7),
    "excited": Shape(rate=1.3, pitch=1.3, pitch_range=2.0, volume=1.0),
    "sad": Shape(rate=0.74, pitch=0.85, pitch_range=0.25, volume=0.4),
    "angry": Shape(rate=1.1, pitch=0.85, pitch_range=1.1, volume=1.6),
}
JITTER = Shape(rate=0.03, pitch=0.03, pitch_range=0.05, volume=0.08)  # share of a factor that chance adds or takes

# espeak's variants hold near-copies (mean log-mel spectra less than 0.1 apart, median 0.43): nobody tells them apart.
_COPIES = (
    ("steph", "steph2", "steph3"),
    ("Gene", "Gene2"),
    ("klatt6", "adam", "benjamin", "edward2", "Reed"),
    ("rob", "robert"),
    ("michel", "miguel"),
    ("aunty", "f4"),
    ("Mike", "m3"),
)


@dataclass(frozen=True)
class Speaker:
    """An espeak voice (accent+variant) with its own pitch and rate, as factors on the voice's."""

    voice: str
    pitch: float
    rate: float

    @property
    def variant(self) -> str:
        """The part of the voice that is a throat, not an accent."""
        return self.voice.partition("+")[2]

    @property
    def throat(self) -> str:
        """The variant, near-copies called by one name."""
        return next((copies[0] for copies in _COPIES if self.variant in copies), self.variant)

    def differs(self, other: "Speaker") -> bool:
        """Returns whether the two are heard as different people: other variants, and not near-copies of one another."""
        return self.throat != other.throat


@cache
def speakers(split: Split) -> tuple[Speaker, ...]:
    """Returns the speakers of a split, one for each of its espeak voices; variants of dev and test never train."""
    return tuple(_speaker(voice) for voice in voices("espeak", split))


def manner_request(text: str, speaker: Speaker, manner: Manner | None, rng: random.Random) -> SpeechRequest:
    """Returns `text` as the speaker says it in a manner, varied a little; None: as the speaker always speaks."""
    shape = Shape() if manner is None else SHAPES[manner]

    def varied(factor: float, jitter: float) -> float:
        return round(factor * rng.uniform(1 - jitter, 1 + jitter), 3)

    return SpeechRequest(
        text,
        speaker.voice,
        rate=varied(shape.rate * speaker.rate, JITTER.rate),
        pitch=varied(shape.pitch * speaker.pitch, JITTER.pitch),
        pitch_range=min(2.0, varied(shape.pitch_range, JITTER.pitch_range)),
        volume=varied(shape.volume, JITTER.volume),
    )


def _speaker(voice: str) -> Speaker:
    rng = random.Random(f"speaker {voice}")
    return Speaker(voice, pitch=round(rng.uniform(0.75, 1.25), 2), rate=round(rng.uniform(0.94, 1.06), 2))

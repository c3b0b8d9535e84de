"""Who speaks, and how, in the tiny world: speakers with a pitch and a tempo of their own, in four manners.

A speaker is an espeak voice with its own rate and pitch, fixed by the voice's name, about as loud and as fast as any
other. A manner changes them by factors: "excited" is how this speaker sounds beside its other manners, so a high voice
is not an excited one.

    manner    rate  pitch  range  volume
    calm      0.90   1.00   0.70    0.70
    excited   1.50   1.30   2.00    1.00
    sad       0.65   0.85   0.25    0.40
    angry     1.15   0.85   1.10    1.60

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
    "excited": Shape(rate=1.5, pitch=1.3, pitch_range=2.0, volume=1.0),
    "sad": Shape(rate=0.65, pitch=0.85, pitch_range=0.25, volume=0.4),
    "angry": Shape(rate=1.15, pitch=0.85, pitch_range=1.1, volume=1.6),
}
JITTER = Shape(rate=0.03, pitch=0.03, pitch_range=0.05, volume=0.08)  # share of a factor that chance adds or takes

# How loud espeak's variants are by themselves (dB below full scale, of sounding frames, measured over six sentences).
# They lie 23 dB apart, more than any manners: unless speakers are as loud as one another, a quiet voice is a sad one.
_LOUDNESS_DB = (
    "Alex:-22 Alicia:-20 Andrea:-16 Andy:-18 Annie:-21 Denis:-25 Diogo:-25 Gene:-17 Gene2:-16 Henrique:-25 Hugo:-29 "
    "Jacky:-10 Lee:-21 Marco:-14 Mario:-20 Michael:-19 Mike:-24 Nguyen:-21 Reed:-18 adam:-21 anika:-17 announcer:-22 "
    "antonio:-9 aunty:-20 belinda:-19 benjamin:-21 boris:-22 caleb:-23 david:-22 ed:-12 edward:-19 edward2:-21 f1:-20 "
    "f2:-20 f3:-21 f4:-20 f5:-22 grandma:-21 grandpa:-21 gustave:-16 ian:-28 iven:-6 iven2:-14 iven3:-17 iven4:-21 "
    "john:-16 kaukovalta:-21 klatt2:-29 klatt3:-22 klatt4:-19 klatt6:-20 linda:-19 m1:-22 m2:-23 m3:-21 m4:-21 m5:-22 "
    "m6:-21 m7:-19 m8:-25 marcelo:-19 max:-22 michel:-20 miguel:-18 mike2:-16 norbert:-18 pablo:-18 paul:-13 "
    "pedro:-16 quincy:-23 rob:-22 robert:-22 sandro:-18 shelby:-20 steph:-19 steph2:-14 steph3:-13 travis:-18 "
    "victor:-26 zac:-15 "
)
_EVEN_DB = -24.0
# How long variants take by themselves for the same four sentences, beside the median: those more than 4 % off. Marco's
# ordinary tempo would else be another speaker's sadness.
_TEMPO = {
    **{"Alicia": 1.19, "Andrea": 0.81, "Andy": 1.08, "Lee": 1.05, "Marco": 1.32, "anika": 0.81, "antonio": 0.82},
    **{"aunty": 1.05, "f1": 1.05, "f4": 1.07, "linda": 1.05, "m4": 1.09, "pedro": 0.82},
}

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
    """An espeak voice (accent+variant) with its own pitch, rate and volume, as factors on the voice's."""

    voice: str
    pitch: float
    rate: float
    volume: float = 1.0

    @property
    def variant(self) -> str:
        """The part of the voice that is a throat, not an accent."""
        return self.voice.partition("+")[2]

    @property
    def throat(self) -> str:
        """The variant, near-copies called by one name."""
        return throat_of(self.voice)

    def differs(self, other: "Speaker") -> bool:
        """Returns whether the two are heard as different people: other variants, and not near-copies of one another."""
        return self.throat != other.throat


def throat_of(voice: str) -> str:
    """Returns the throat of an espeak voice (accent+variant): its variant, near-copies called by one name."""
    variant = voice.partition("+")[2]
    return next((copies[0] for copies in _COPIES if variant in copies), variant)


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
        volume=min(2.0, varied(shape.volume * speaker.volume, JITTER.volume)),
    )


def _speaker(voice: str) -> Speaker:
    rng = random.Random(f"speaker {voice}")
    pitch, rate = round(rng.uniform(0.75, 1.25), 2), round(rng.uniform(0.94, 1.06), 2)
    variant = voice.partition("+")[2]
    own_db = dict(pair.split(":") for pair in _LOUDNESS_DB.split())[variant]
    rate = round(rate * _TEMPO.get(variant, 1.0), 2)
    return Speaker(voice, pitch, rate, volume=round(10 ** ((_EVEN_DB - float(own_db)) / 20), 2))

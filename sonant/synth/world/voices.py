"""Who speaks in the tiny world: espeak voices for training, dev and test; two other engines as options.

Test voices differ from training voices in the speaker (espeak's variants); the accents are shared. Two of the twelve
variants of test, steph and michel, are hardly told apart from one that trains (`Speaker.throat` says so): figures about
who speaks leave them out. Of the Debian engines, whole voices stay out of training: flite's rms and awb, festival's
ked_diphone.
"""

import random
from typing import Literal

from sonant.errors import SynthesisError
from sonant.synth.voices import ENGLISH_ACCENTS, ESPEAK_VARIANTS
from sonant.synth.world.facts import SEED
from sonant.synth.world.text import Split

Engine = Literal["espeak", "flite", "festival"]

_OTHERS: dict[Engine, dict[Split, tuple[str, ...]]] = {
    "flite": {"train": ("kal16", "slt"), "dev": ("kal16", "slt"), "test": ("rms", "awb")},
    "festival": {
        "train": ("kal_diphone", "cmu_us_slt_arctic_hts"),
        "dev": ("kal_diphone", "cmu_us_slt_arctic_hts"),
        "test": ("ked_diphone",),
    },
}


def voices(engine: Engine, split: Split) -> tuple[str, ...]:
    """Returns the voices of a split; those of test are never trained on. Raises: SynthesisError for other engines."""
    if engine != "espeak" and engine not in _OTHERS:
        raise SynthesisError(f"the tiny world has no voices for {engine!r}; engines are espeak, flite, festival")
    return _espeak_voices(split) if engine == "espeak" else _OTHERS[engine][split]


def _espeak_voices(split: Split) -> tuple[str, ...]:
    shuffled = random.Random(SEED).sample(ESPEAK_VARIANTS, len(ESPEAK_VARIANTS))
    chosen = {"dev": shuffled[:6], "test": shuffled[6:18], "train": shuffled[18:]}[split]
    return tuple(f"{accent}+{variant}" for variant in sorted(chosen) for accent in ENGLISH_ACCENTS)

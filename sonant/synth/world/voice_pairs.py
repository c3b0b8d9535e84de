"""Pairs of clips for the training of a speaker encoder: one voice twice, or two voices, saying different sentences.

    out/clips/<hash>.wav
    out/{train,dev}/pairs.jsonl    two clips and "yes" (one speaker) or "no" a row, in turn; `speakers`, `throats` and
                                   `manners` hold what is true of each clip

The clips of a pair are joined by the recipe, in both orders and with pauses that differ every epoch. Half of the pairs
are spoken in one manner (task "verification"), half in any two ("verification_manners").
"""

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.data import manifest
from sonant.synth.tts import SpeechRequest, load_synthesizer, speak
from sonant.synth.world.speakers import MANNERS, Manner, Speaker, manner_request, speakers
from sonant.synth.world.text import Split, speech_texts

NUM_PAIRS = {"train": 5000, "dev": 1200}
_MIN_WORDS, _MAX_WORDS = 3, 8  # long enough to be known by the voice, short enough to train on thousands


@dataclass(frozen=True)
class _Clip:
    request: SpeechRequest
    speaker: Speaker
    manner: Manner


def make_voice_pairs(out_folder: str | os.PathLike[str], *, tell: Callable[[str], None] = print) -> tuple[Path, Path]:
    """Returns the manifests of training and dev, which share no variant. Running it again makes only what is missing.

    Raises: EngineError if espeak is not installed.
    """
    out = Path(out_folder).absolute()
    tell(f"speaking {2 * sum(NUM_PAIRS.values()):,} clips (espeak)")
    return write_pairs(out, "train", NUM_PAIRS["train"]), write_pairs(out, "dev", NUM_PAIRS["dev"])


def write_pairs(out: Path, split: Split, num_pairs: int) -> Path:
    """Returns the manifest of a split: one speaker and two in turn; two pairs in one manner, then two in any."""
    rng = random.Random(f"voice pairs {split}")
    texts = (t for t in speech_texts(split, 6 * num_pairs, seed=77) if _MIN_WORDS <= len(t.split()) <= _MAX_WORDS)
    pairs = []
    for index, first_text, second_text in zip(range(num_pairs), texts, texts, strict=False):
        first, manner = _cast(split, rng), rng.choice(MANNERS)
        second, other_manner = first, manner if index % 4 < 2 else rng.choice(MANNERS)
        while index % 2 == 1 and not first.differs(second):
            second = _cast(split, rng)
        said = ((first_text, first, manner), (second_text, second, other_manner))
        pairs.append([_Clip(manner_request(text, who, how, rng), who, how) for text, who, how in said])
    clips = [clip.request for pair in pairs for clip in pair]
    paths = speak(load_synthesizer("espeak"), clips, folder=out / "clips")
    path = out / split / "pairs.jsonl"
    rows = [_row(pair, paths[2 * i : 2 * i + 2], f"{split}-{i:05}") for i, pair in enumerate(pairs)]
    manifest.write(path, rows)
    return path


def _cast(split: Split, rng: random.Random) -> Speaker:
    """A speaker of the split; in training one that was never heard before, in a known voice.

    Else an encoder learns by heart which voice has which pitch, and takes a manner for it in a voice it does not know.
    """
    speaker = rng.choice(speakers(split))
    if split != "train":
        return speaker
    pitch, rate = round(rng.uniform(0.7, 1.3), 2), round(speaker.rate * rng.uniform(0.95, 1.05), 2)
    return replace(speaker, pitch=pitch, rate=rate, volume=speaker.volume * 10 ** (rng.uniform(-3, 3) / 20))


def _row(pair: Sequence[_Clip], paths: Sequence[Path], id: str) -> Conversation:
    a, b = pair
    parts = [AudioPart(path=f"../clips/{p.name}", transcript=c.request.text) for p, c in zip(paths, pair, strict=True)]
    return Conversation(
        (user(*parts), assistant("yes" if a.speaker == b.speaker else "no")),
        id=id,
        task="verification" if a.manner == b.manner else "verification_manners",
        language="en",
        extra={
            "speakers": [a.speaker.voice, b.speaker.voice],
            "throats": [a.speaker.throat, b.speaker.throat],
            "manners": [a.manner, b.manner],
        },
    )

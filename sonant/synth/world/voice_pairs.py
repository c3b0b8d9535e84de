"""Pairs of clips for the training of a speaker encoder: one voice twice, or two voices, saying different sentences.

    out/clips/<hash>.wav
    out/{train,dev}/pairs.jsonl    two clips and "yes" (one speaker) or "no" a row, in turn; `speakers`, `throats` and
                                   `manners` hold what is true of each clip

The clips of a pair are joined by the recipe, in both orders and with pauses that differ every epoch. Half of the pairs
are spoken in one manner (task "verification"), half in any two ("verification_manners").
"""

import os
import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.data import manifest
from sonant.errors import SynthesisError
from sonant.synth.tts import SpeechRequest, load_synthesizer, speak
from sonant.synth.world.speakers import MANNERS, Manner, Speaker, manner_request, speakers
from sonant.synth.world.text import Split, speech_texts

NUM_TRAIN_CLIPS, NUM_TRAIN_PAIRS = 6000, 9000
NUM_DEV_CLIPS, NUM_DEV_PAIRS = 768, 1200
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
    tell(f"speaking {NUM_TRAIN_CLIPS + NUM_DEV_CLIPS:,} clips (espeak)")
    train = write_pairs(out, "train", num_clips=NUM_TRAIN_CLIPS, num_pairs=NUM_TRAIN_PAIRS)
    return train, write_pairs(out, "dev", num_clips=NUM_DEV_CLIPS, num_pairs=NUM_DEV_PAIRS)


def write_pairs(out: Path, split: Split, *, num_clips: int, num_pairs: int) -> Path:
    """Returns the manifest of `num_pairs` pairs among `num_clips` clips; every speaker and manner has as many clips.

    Raises: SynthesisError if some speaker has no two clips in one manner.
    """
    if num_clips < (least := 2 * len(speakers(split)) * len(MANNERS)):
        raise SynthesisError(
            f"{num_clips} clips are too few for pairs of one speaker in one manner; make at least {least}"
        )
    rng = random.Random(f"voice pairs {split}")
    texts = (
        text for text in speech_texts(split, 3 * num_clips, seed=77) if _MIN_WORDS <= len(text.split()) <= _MAX_WORDS
    )
    clips = []
    for index, text in zip(range(num_clips), texts, strict=False):
        speaker = speakers(split)[index % len(speakers(split))]
        manner = MANNERS[index // len(speakers(split)) % len(MANNERS)]
        clips.append(_Clip(manner_request(text, speaker, manner, rng), speaker, manner))
    paths = speak(load_synthesizer("espeak"), [clip.request for clip in clips], folder=out / "clips")
    files = {clip.request: path for clip, path in zip(clips, paths, strict=True)}
    path = out / split / "pairs.jsonl"
    manifest.write(path, [_row(pair, files, f"{split}-{i:05}") for i, pair in enumerate(_pairs(clips, num_pairs, rng))])
    return path


def _pairs(clips: Sequence[_Clip], num_pairs: int, rng: random.Random) -> list[tuple[_Clip, _Clip]]:
    """One speaker and two in turn; two pairs in one manner, then two in any."""
    groups: dict[Hashable, list[_Clip]] = defaultdict(list)
    for clip in clips:
        for key in (None, clip.manner, clip.speaker, (clip.speaker, clip.manner)):
            groups[key].append(clip)
    pairs: list[tuple[_Clip, _Clip]] = []
    while len(pairs) < num_pairs:
        first = rng.choice(clips)
        of_one_manner, of_one_speaker = len(pairs) % 4 < 2, len(pairs) % 2 == 0
        by_speaker: Hashable = (first.speaker, first.manner) if of_one_manner else first.speaker
        second = rng.choice(groups[by_speaker if of_one_speaker else first.manner if of_one_manner else None])
        if second.request.text != first.request.text and (of_one_speaker or first.speaker.differs(second.speaker)):
            pairs.append((first, second))
    return pairs


def _row(pair: tuple[_Clip, _Clip], files: dict[SpeechRequest, Path], id: str) -> Conversation:
    a, b = pair
    parts = [AudioPart(path=f"../clips/{files[c.request].name}", transcript=c.request.text) for c in pair]
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

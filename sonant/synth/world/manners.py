"""What a recogniser hears before it meets WavLLM's world: sentences, instructions and beginnings in all four manners.

    out/clips/<hash>.wav
    out/{train,dev}/manners.jsonl    a clip and its transcript a row; every fifth is two clips with a pause between

`listening` has voices at their ordinary tempo, up to a third faster. Who is excited speaks half as fast again, and of
such clips a recogniser that never heard any spells two words in five wrong.
"""

import os
import random
from collections.abc import Callable
from pathlib import Path

from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.data import manifest
from sonant.synth.tts import Synthesizer, load_synthesizer
from sonant.synth.world.scenes import SAY_AGAIN, SAY_GERMAN, Recorder
from sonant.synth.world.speakers import MANNERS, speakers
from sonant.synth.world.text import Split, in_split, speech_texts

NUM_TRAIN, NUM_DEV = 12_000, 400
_ORDERED, _BROKEN_OFF, _JOINED = 0.2, 0.1, 0.2  # shares of the texts


def make_manners(out_folder: str | os.PathLike[str], *, tell: Callable[[str], None] = print) -> tuple[Path, Path]:
    """Returns the manifests of training and dev, which share no voice. Running it again makes only what is missing.

    Raises: EngineError if espeak is not installed, which alone knows manners.
    """
    out = Path(out_folder).absolute()
    tell(f"speaking {NUM_TRAIN + NUM_DEV:,} clips (espeak)")
    synthesizer = load_synthesizer("espeak")
    train = write_manners(out, "train", NUM_TRAIN, synthesizer)
    return train, write_manners(out, "dev", NUM_DEV, synthesizer)


def write_manners(out: Path, split: Split, num: int, synthesizer: Synthesizer) -> Path:
    """Returns the manifest of `num` clips, written. Raises: SynthesisError if the engine fails."""
    rng, recorder = random.Random(f"{split} manners"), Recorder(out / "clips", synthesizer)
    texts = [_as_in_the_world(text, split, rng) for text in speech_texts(split, num, seed=99)]
    spoken_by, rows, before = speakers(split), list[Conversation](), None
    for index, text in enumerate(texts):
        said = recorder.say(text, rng.choice(spoken_by), rng.choice(MANNERS), rng)
        path, transcript = said.path, text
        if before is not None and rng.random() < _JOINED:
            path, transcript = recorder.join(before, said, rng), f"{before.text} {text}"
        before = said
        part = AudioPart(path=f"../clips/{path.name}", transcript=transcript)
        messages = (user(part), assistant(transcript))
        rows.append(Conversation(messages, id=f"{split}-manners-{index:05}", task="asr", language="en"))
    recorder.record()
    path = out / split / "manners.jsonl"
    manifest.write(path, rows)
    return path


def _as_in_the_world(text: str, split: Split, rng: random.Random) -> str:
    """The text as an order to say it, or broken off, or as it is.

    What is left of it belongs to `split`, too: all that another split says may be the beginning of a sentence.
    """
    kind, words = rng.random(), text.split()
    if kind < _ORDERED:
        return f"{rng.choice(SAY_AGAIN + SAY_GERMAN)} {text}"
    beginnings = [" ".join(words[:length]) for length in range(2, len(words))]
    beginnings = [beginning for beginning in beginnings if in_split(beginning, split)]
    return rng.choice(beginnings) if beginnings and kind < _ORDERED + _BROKEN_OFF else text

"""PocketSphinx: a recogniser that shares nothing with ours, not even an idea (Gaussian mixtures, trained on people).

Its wheel holds a model of American English. That hears every English word badly; told what may be said, it is of use.
So it is given sentences: it knows their words alone, and how often one follows another (trigrams, backing off).

Synthetic voices need what their silence lacks: without noise, silence between their words is no silence to a model of
recordings. On 144 real answers of the tiny world's eight voices (dev), WER is 21.3, 15.5 and 13.3 % with noise at -50,
-40 and -30 dB; by voice, at -30 dB, from 0 to 36 %: hold speech to real speech of the same voice.
"""

import importlib.util
import re
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import numpy as np

from sonant.chat.messages import AudioPart
from sonant.errors import ModelError
from sonant.generate.recognizer import Samples, Tell, by_length

SAMPLE_RATE_HZ = 16_000
LEVEL = 0.1  # root mean square that clips are brought to
NOISE_DB = -30.0  # against that level
PAUSE_S = 0.3  # before and after a clip


class SphinxRecognizer:
    """Writes down clips in words of the sentences it was given. A clip's transcript does not depend on others.

    unknown: words of the sentences that its dictionary lacks: they cannot be heard.
    """

    def __init__(self, sentences: Sequence[str]) -> None:
        """Raises: ModelError if pocketsphinx is not installed, or knows no word of the sentences."""
        if importlib.util.find_spec("pocketsphinx") is None:
            raise ModelError("pocketsphinx is not installed: pip install 'sonant[speech-eval]'")
        import pocketsphinx
        from pocketsphinx.lm import ArpaBoLM

        split = [sentence.split() for sentence in dict.fromkeys(sentences)]
        words = {word for sentence in split for word in sentence}
        spoken = _pronunciations(Path(pocketsphinx.get_model_path("en-us/cmudict-en-us.dict")), words)
        self.unknown = tuple(sorted(words - spoken.keys()))
        if not spoken:
            raise ModelError(f"pocketsphinx knows none of the {len(words)} words it should hear; it hears English")
        known = [" ".join(sentence) for sentence in split if sentence and not {*sentence} & {*self.unknown}]
        counted = ArpaBoLM(text="\n".join(f"<s> {sentence} </s>" for sentence in [*known, *sorted(spoken)]))
        counted.compute()
        with tempfile.TemporaryDirectory() as folder:
            model, dictionary = Path(folder) / "sentences.arpa", Path(folder) / "words.dict"
            counted.write_file(str(model))
            # Of its own words alone: with few sentences and all 134,723 words it has, pocketsphinx 5.1.1 never returns.
            dictionary.write_text("".join(line for word in sorted(spoken) for line in spoken[word]), encoding="utf-8")
            self.decoder = pocketsphinx.Decoder(
                lm=str(model), dict=str(dictionary), samprate=SAMPLE_RATE_HZ, loglevel="FATAL"
            )

    @staticmethod
    def version() -> str:
        """Returns the version of the engine, whose wheel holds the model."""
        return metadata.version("pocketsphinx")

    def transcribe(self, clips: Sequence[AudioPart], *, progress: Tell = lambda new: None) -> list[str]:
        """Returns one transcript a clip."""
        return by_length(clips, self._batch, sample_rate_hz=SAMPLE_RATE_HZ, batch_size=1, progress=progress)

    def _batch(self, recordings: list[Samples]) -> list[str]:
        return [self._written(samples) for samples in recordings]

    def _written(self, samples: Samples) -> str:
        level = float(np.sqrt(np.square(samples, dtype=np.float64).mean())) if len(samples) else 0.0
        pause = round(PAUSE_S * SAMPLE_RATE_HZ)
        padded = np.pad(samples * (LEVEL / level if level else 1.0), (pause, pause))
        noise = np.random.default_rng(0).standard_normal(len(padded)) * LEVEL * 10 ** (NOISE_DB / 20)
        integers = (np.clip(padded + noise, -1, 1) * 32767).astype("<i2")
        self.decoder.start_utt()
        self.decoder.process_raw(integers.tobytes(), full_utt=True)
        self.decoder.end_utt()
        found = self.decoder.hyp()
        return re.sub(r"\(\d+\)", "", found.hypstr) if found else ""  # word(2): its second pronunciation


def _pronunciations(path: Path, words: set[str]) -> dict[str, list[str]]:
    """Word -> its lines in a dictionary of lines such as `the DH AH` and `the(2) DH IY`."""
    found: dict[str, list[str]] = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            word = line.split(maxsplit=1)[0].partition("(")[0]
            if word in words:
                found.setdefault(word, []).append(line)
    return found

"""What an assistant gives: an answer in writing, or said aloud, whole or piece by piece."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Reply:
    """What the model said: its text, its tokens (stop token left out), and whether it came to an end by itself."""

    text: str
    token_ids: tuple[int, ...]
    finished: bool


@dataclass(frozen=True, eq=False)
class SpokenReply:
    """An answer and its sound; an answer without a letter to say has no samples."""

    text: str
    spoken_text: str  # the end of it that is said
    token_ids: tuple[int, ...]
    text_finished: bool  # the text came to an end by itself
    speech_finished: bool  # so did the speech: it was not cut off at the most that its text may last
    samples: NDArray[np.float32]  # (S,)
    sample_rate_hz: int
    mels: NDArray[np.float32]  # (F, M) natural log mels that the vocoder made sound of
    seconds: float  # from the question to the last sample; of several asked together, its share
    first_sound_s: float | None = None  # from the question to the first samples, where they were streamed

    @property
    def finished(self) -> bool:
        """Returns whether text and speech both came to an end by themselves."""
        return self.text_finished and self.speech_finished

    @property
    def duration_s(self) -> float:
        """Returns how long the speech is."""
        return len(self.samples) / self.sample_rate_hz

    @property
    def real_time_factor(self) -> float:
        """Returns seconds of work for a second of speech, hearing and writing included; infinite for no speech."""
        return self.seconds / self.duration_s if len(self.samples) else float("inf")


@dataclass(frozen=True)
class TextPiece:
    """The next characters of an answer."""

    text: str


@dataclass(frozen=True, eq=False)
class SoundChunk:
    """The next samples of an answer, (S,) float32."""

    samples: NDArray[np.float32]

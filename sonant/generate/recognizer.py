"""Speech to text without an LLM: the first half of a cascade."""

from collections.abc import Callable, Sequence
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sonant.audio.features import extract
from sonant.audio.io import info
from sonant.chat.messages import AudioPart
from sonant.chat.tokenizer import ChatTokenizer
from sonant.errors import ModelError
from sonant.models.encoders.base import EncoderConfig, SpeechEncoder
from sonant.models.encoders.load import load_encoder
from sonant.models.parts import resolve_part

Samples = NDArray[np.float32]
Tell = Callable[[int], None]


class Recognizer(Protocol):
    """Anything that writes down what a clip says."""

    def transcribe(self, clips: Sequence[AudioPart], *, progress: Tell = lambda new: None) -> list[str]:
        """Returns one transcript a clip. `progress(n)` is called after each batch of n."""
        ...


class CTCRecognizer:
    """Greedy CTC decoding of an encoder that has a CTC head over a tokenizer's ids, blank last."""

    def __init__(self, encoder: SpeechEncoder, tokenizer: ChatTokenizer, *, batch_size: int = 32) -> None:
        if not hasattr(encoder, "ctc_logits"):
            raise ModelError(
                f"{type(encoder).__name__} has no CTC head and cannot recognise speech by itself; "
                "use an encoder with one, such as tiny/encoder"
            )
        self.encoder, self.tokenizer, self.batch_size = encoder, tokenizer, batch_size

    @classmethod
    def from_parts(cls, encoder: str = "tiny/encoder", tokenizer: str = "tiny/llm") -> "CTCRecognizer":
        """Returns the recogniser of a saved tiny encoder and the folder of the tokenizer it was trained on."""
        loaded = load_encoder(EncoderConfig(kind="tiny", path=encoder))
        return cls(loaded, ChatTokenizer.from_folder(resolve_part(tokenizer)))

    def transcribe(self, clips: Sequence[AudioPart], *, progress: Tell = lambda new: None) -> list[str]:
        """Returns one transcript a clip; clips are batched by length, and padding does not change a transcript."""
        rate_hz = self.encoder.feature_spec.sample_rate_hz
        return by_length(clips, self._batch, sample_rate_hz=rate_hz, batch_size=self.batch_size, progress=progress)

    @property
    def _device(self) -> torch.device:
        """Where the encoder is now: training moves it."""
        return next(cast(nn.Module, self.encoder).parameters()).device

    @torch.no_grad()
    def _batch(self, recordings: list[Samples]) -> list[str]:
        features = [extract(torch.from_numpy(samples), self.encoder.feature_spec) for samples in recordings]
        lengths = torch.tensor([len(f) for f in features])
        padded = nn.utils.rnn.pad_sequence(features, batch_first=True).to(self._device)
        lengths = lengths.to(self._device)
        frames = self.encoder(padded, lengths)
        best = self.encoder.ctc_logits(frames).argmax(-1)  # (A, T)
        return [
            self.tokenizer.decode(collapse(ids[:n].tolist(), blank=self.tokenizer.vocab_size)).strip()
            for ids, n in zip(best, self.encoder.output_lengths(lengths).tolist(), strict=True)
        ]


def by_length(
    clips: Sequence[AudioPart],
    transcribe: Callable[[list[Samples]], list[str]],
    *,
    sample_rate_hz: int,
    batch_size: int,
    progress: Tell,
) -> list[str]:
    """Returns one transcript a clip: clips of like length are loaded and written down together, a batch at a time.

    Raises: AudioError if a clip cannot be read.
    """
    order = sorted(range(len(clips)), key=lambda i: _duration_s(clips[i]))
    texts = [""] * len(clips)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        recordings = [c.load(sample_rate_hz=sample_rate_hz) for c in (clips[i] for i in chosen)]
        for index, text in zip(chosen, transcribe(recordings), strict=True):
            texts[index] = text
        progress(len(chosen))
    return texts


def collapse(ids: Sequence[int], *, blank: int) -> list[int]:
    """Returns the CTC labelling of a frame-wise path: repeats merged, then blanks removed (Graves et al. 2006)."""
    return [now for before, now in zip([blank, *ids], ids, strict=False) if now != before and now != blank]


def _duration_s(part: AudioPart) -> float:
    return part.duration_s if part.duration_s is not None else info(part.source).duration_s - part.offset_s

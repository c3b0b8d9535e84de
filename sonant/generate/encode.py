"""What a frozen encoder makes of clips: what a frame cache holds."""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from sonant.audio.features import extract
from sonant.chat.messages import AudioPart
from sonant.errors import AudioError
from sonant.models.encoders.base import SpeechEncoder


def clip_encoder(encoder: SpeechEncoder, *, device: str = "cpu") -> Callable[[Sequence[AudioPart]], list[Tensor]]:
    """Returns a function of clips that gives the frames (T, dim) of each, computed together on `device`.

    The encoder, an `nn.Module`, is moved there and put in eval mode; a clip's frames do not depend on the others.

    Raises (the function): AudioError if a clip cannot be read or is too short.
    """
    cast("torch.nn.Module", encoder).eval().to(device)
    spec = encoder.feature_spec

    def features(part: AudioPart) -> Tensor:
        rate_hz = spec.sample_rate_hz
        samples = part.load(sample_rate_hz=rate_hz)
        try:
            return extract(torch.from_numpy(samples), spec)
        except AudioError as error:
            raise AudioError(f"{part.name}: {error}") from None

    @torch.no_grad()
    def encode(parts: Sequence[AudioPart]) -> list[Tensor]:
        heard = [features(part) for part in parts]
        lengths = torch.tensor([len(f) for f in heard])
        padded = torch.nn.utils.rnn.pad_sequence(heard, batch_first=True)
        frames = encoder(padded.to(device), lengths.to(device)).cpu()
        return [f[:n] for f, n in zip(frames, encoder.output_lengths(lengths).tolist(), strict=True)]

    return encode

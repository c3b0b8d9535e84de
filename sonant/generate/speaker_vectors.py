"""Who speaks, as a vector: the frames of a named encoder, pooled over a clip."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from sonant.audio.features import extract
from sonant.chat.messages import AudioPart
from sonant.errors import ModelError
from sonant.models.encoders.base import EncoderConfig, SpeechEncoder, valid_mask
from sonant.models.encoders.load import load_encoder
from sonant.models.parts import read_part_config, resolve_part

KINDS = {"sonant_tiny_speaker_encoder": "tiny_speaker", "wavlm": "wavlm"}  # model types that tell voices apart


class SpeakerVectors:
    """The mean frame of each clip, at length 1: the cosine of two is their product."""

    def __init__(self, encoder: SpeechEncoder) -> None:
        self.encoder = encoder

    @classmethod
    def from_part(cls, path: str = "tiny/speaker-encoder") -> "SpeakerVectors":
        """Returns the vectors of an encoder in a folder. Raises: ModelError if it is of no kind that tells voices."""
        model_type = read_part_config(resolve_part(path)).get("model_type")
        if model_type not in KINDS:
            raise ModelError(
                f"{path}: a model of type {model_type!r} tells no voices here; types are {', '.join(KINDS)}"
            )
        return cls(load_encoder(EncoderConfig(kind=KINDS[model_type], path=path)))

    @torch.no_grad()
    def __call__(
        self, clips: Sequence[AudioPart], *, progress: Callable[[int], None] = lambda new: None
    ) -> NDArray[np.float64]:
        """Returns (N, dim) unit vectors; NaN for a clip that is too short to have a frame."""
        vectors = np.full((len(clips), self.encoder.dim), np.nan)
        spec = self.encoder.feature_spec
        for index, clip in enumerate(clips):
            samples = clip.load(sample_rate_hz=spec.sample_rate_hz)
            if len(samples) >= spec.window_length:
                features = extract(torch.from_numpy(samples), spec)[None]
                lengths = torch.tensor([features.shape[1]])
                frames = self.encoder(features, lengths)  # (1, T, dim)
                real = valid_mask(self.encoder.output_lengths(lengths), frames.shape[1])
                mean = frames[real].float().mean(0)
                vectors[index] = torch.nn.functional.normalize(mean, dim=0).double().numpy()
            progress(1)
        return vectors

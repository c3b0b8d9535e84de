"""What an encoder makes of clips before anything else reads it: what a frame cache holds, what a server hears ahead."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from sonant.audio.features import FeatureSpec, extract
from sonant.batch import Example
from sonant.chat.messages import AudioPart
from sonant.errors import AudioError
from sonant.models.encoders.base import SpeechEncoder
from sonant.models.speech_lm import SpeechLM


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

    def encode(parts: Sequence[AudioPart]) -> list[Tensor]:
        return [frames.cpu() for frames in _encoded(encoder, [features(part) for part in parts], device=device)]

    return encode


def with_frames(model: SpeechLM, examples: Sequence[Example]) -> list[Example]:
    """Returns the rows as if all their frames had been cached: with those in place of the features of each encoder.

    All clips are encoded together, on the device of the model; what was cached already stays as it is.

        Example(features={log_mel: [(F, M), ..]}) ──▶ Example(features={encoded: [(T, dim), ..]})
    """
    device = next(model.llm.parameters()).device
    rows: list[dict[FeatureSpec, list[Tensor]]] = [{} for _ in examples]
    for encoder, spec in zip(model.speech_encoders, model.encoded_specs, strict=True):
        known = all(spec in example.features for example in examples)
        clips = [clip for e in examples for clip in e.features[spec if known else encoder.feature_spec]]
        frames = iter(_encoded(encoder, clips, device=device) if clips and not known else clips)
        for row, example in zip(rows, examples, strict=True):
            row[spec] = [next(frames) for _ in example.audio_positions]
    return [replace(example, features=row) for example, row in zip(examples, rows, strict=True)]


@torch.no_grad()
def _encoded(encoder: SpeechEncoder, clips: Sequence[Tensor], *, device: str | torch.device) -> list[Tensor]:
    """Frames (T, dim) of each clip's features (F, M) or (S,), on `device`."""
    lengths = torch.tensor([len(clip) for clip in clips])
    padded = torch.nn.utils.rnn.pad_sequence(list(clips), batch_first=True)
    frames = encoder(padded.to(device), lengths.to(device))
    return [f[:n] for f, n in zip(frames, encoder.output_lengths(lengths).tolist(), strict=True)]

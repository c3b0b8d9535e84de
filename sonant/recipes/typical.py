"""Typical rows as a batch: integers as they would be, features as shapes or as noise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from sonant.audio.features import FeatureSpec
from sonant.audio.mel import MelSpec
from sonant.batch import Batch
from sonant.errors import ConfigError
from sonant.spoken import SpokenBatch
from sonant.train.dry_run import empty

_LETTERS_A_WORD = 5


@dataclass(frozen=True)
class Row:
    """What a typical row holds: one clip, a written question, an answer."""

    clip_s: float = 10.0
    text_tokens: int = 64  # template, question and answer
    target_tokens: int = 32  # of those, the answer

    def __post_init__(self) -> None:
        if self.clip_s <= 0 or not 0 < self.target_tokens < self.text_tokens:
            raise ConfigError(
                f"a row of {self.clip_s:g} s and {self.text_tokens} tokens, {self.target_tokens} of them the answer; "
                "seconds must be above 0, and the answer shorter than the text"
            )


def typical_batch(
    row: Row, num_rows: int, *, specs: Sequence[FeatureSpec], voice: MelSpec | None, shapes: FakeTensorMode | None
) -> Batch:
    """Returns `num_rows` such rows side by side; with a `voice`, each answer lasts as long as its clip.

    shapes: where the features are shapes alone; None: they are noise.
    """

    def floats(*size: int) -> Tensor:
        return torch.randn(size) if shapes is None else empty(shapes, *size)

    def features(spec: FeatureSpec) -> Tensor:
        size = _num_features(spec, row.clip_s)
        return floats(num_rows, size) if spec.kind == "waveform" else floats(num_rows, size, spec.dim)

    tokens = torch.arange(row.text_tokens) % 7 + 1  # neighbours differ: CTC needs no more frames than tokens
    mask = torch.zeros(num_rows, row.text_tokens)
    mask[:, -row.target_tokens :] = 1
    prompt = row.text_tokens - row.target_tokens
    each = torch.ones(num_rows, dtype=torch.int64)
    said = tokens[: min(row.target_tokens, max(1, int(2 * row.clip_s)))].repeat(num_rows, 1)
    return Batch(
        ids=tuple(map(str, range(num_rows))),
        tasks=("asr",) * num_rows,
        token_ids=tokens.repeat(num_rows, 1),
        token_lengths=each * row.text_tokens,
        loss_mask=mask,
        prompt_ids=tokens[:prompt].repeat(num_rows, 1),
        prompt_lengths=each * prompt,
        audio_row=torch.arange(num_rows),
        audio_position=each * (prompt // 2),
        transcript_ids=said,
        transcript_lengths=each * said.shape[1],
        features={spec: features(spec) for spec in specs},
        feature_lengths={spec: each * _num_features(spec, row.clip_s) for spec in specs},
        audio_duration_s=num_rows * row.clip_s,
        spoken=None if voice is None else _spoken(row, num_rows, voice=voice, shapes=shapes),
    )


def _spoken(row: Row, num_rows: int, *, voice: MelSpec, shapes: FakeTensorMode | None) -> SpokenBatch:
    """The answers as they would sound: half of the answer's tokens are words."""
    frames, words = math.ceil(row.clip_s * voice.sample_rate_hz / voice.hop_length), row.target_tokens // 2 or 1
    letters, first = _LETTERS_A_WORD * words, row.text_tokens - row.target_tokens
    size = (num_rows, frames, voice.num_mels)
    return SpokenBatch(
        row=torch.arange(num_rows),
        token_position=torch.arange(first, first + words).repeat(num_rows, 1),
        token_word=torch.arange(words).repeat(num_rows, 1),
        letters=torch.full((num_rows, letters), ord("a")),
        letter_word=(torch.arange(letters) // _LETTERS_A_WORD).repeat(num_rows, 1),
        num_words=torch.full((num_rows,), words),
        mels=torch.randn(size) if shapes is None else empty(shapes, *size),
        mel_lengths=torch.full((num_rows,), frames),
        word_starts=(torch.arange(words) * row.clip_s / words).repeat(num_rows, 1),
    )


def _num_features(spec: FeatureSpec, clip_s: float) -> int:
    if spec.kind == "encoded":
        return math.ceil(clip_s * spec.frame_rate_hz)
    samples = round(clip_s * spec.sample_rate_hz)
    return samples if spec.kind == "waveform" else spec.num_frames(samples)

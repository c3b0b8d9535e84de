from pathlib import Path

import numpy as np
import pytest
import torch

from sonant.audio.features import extract
from sonant.audio.io import save
from sonant.chat.messages import AudioPart
from sonant.errors import ModelError
from sonant.generate.speaker_vectors import SpeakerVectors
from sonant.testing import tone


def test_a_vector_is_the_mean_frame_at_length_1_and_a_clip_too_short_has_none(tmp_path: Path) -> None:
    save(tmp_path / "a.wav", tone(0.5), sample_rate_hz=16_000)
    save(tmp_path / "b.wav", tone(0.01), sample_rate_hz=16_000)
    vectors = SpeakerVectors.from_part()
    told: list[int] = []
    found = vectors([AudioPart(str(tmp_path / f"{name}.wav")) for name in "ab"], progress=told.append)
    samples = torch.from_numpy(tone(0.5) * (1 - 2**-15))
    features = extract(samples, vectors.encoder.feature_spec)[None]
    mean = vectors.encoder(features, torch.tensor([features.shape[1]]))[0].mean(0).detach().double().numpy()
    np.testing.assert_allclose(found[0], mean / np.linalg.norm(mean), atol=1e-3)
    assert np.isnan(found[1]).all()
    assert told == [1, 1]


def test_an_encoder_of_words_tells_no_voices() -> None:
    with pytest.raises(ModelError, match="sonant_tiny_encoder"):
        SpeakerVectors.from_part("tiny/encoder")

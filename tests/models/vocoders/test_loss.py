"""What a vocoder is taught by: hand sums, padding without effect, mels made worse on purpose."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from sonant.audio.mel import log_mel
from sonant.batch import Batch, Example, collate
from sonant.models.vocoders.loss import SAMPLES, VocoderLoss, VocoderLossConfig
from tests.models.vocoders.small_vocoders import SMALL, buzz, small_vocos

AS_IT_IS = VocoderLossConfig(worse_probability=0.0)


def batch_of(*clips: Tensor) -> Batch:
    examples = [
        Example(
            id=str(number),
            task="clip",
            token_ids=np.zeros(1, np.int64),
            loss_mask=np.zeros(1, np.float32),
            prompt_ids=np.zeros(0, np.int64),
            audio_positions=np.zeros(1, np.int64),
            transcript_ids=[np.zeros(0, np.int64)],
            features={SAMPLES: [clip]},
            audio_duration_s=len(clip) / 16_000,
            reference="",
        )
        for number, clip in enumerate(clips)
    ]
    return collate(examples)


def test_it_is_the_weighted_sum_of_distances_by_every_window() -> None:
    vocoder, clip = small_vocos(), buzz(0.4)
    with torch.no_grad():
        loss = VocoderLoss(SMALL, AS_IT_IS)
        out = loss(vocoder, batch_of(clip))
        sound = vocoder(log_mel(clip, SMALL)[None], torch.tensor([32]))[0]
    by_hand = 0.0
    for name, spec in loss.specs.items():
        gap = (log_mel(sound, spec) - log_mel(clip, spec)).abs().mean(-1).sum() * spec.hop_length / 200
        torch.testing.assert_close(out.parts[name][0], gap)
        by_hand += getattr(AS_IT_IS, name) * float(gap)
    assert out.weight == 32
    assert out.total.item() == pytest.approx(by_hand, rel=1e-5)


def test_a_batch_is_the_sum_of_its_rows() -> None:
    vocoder, loss = small_vocos(), VocoderLoss(SMALL, AS_IT_IS)
    clips = [buzz(0.4), buzz(0.3, pitch_hz=200.0)[:4777]]
    with torch.no_grad():
        together = loss(vocoder, batch_of(*clips))
        alone = [loss(vocoder, batch_of(clip)) for clip in clips]
    assert together.weight == sum(out.weight for out in alone) == 32 + 24
    torch.testing.assert_close(together.total, alone[0].total + alone[1].total, rtol=1e-4, atol=1e-4)


def test_mels_are_made_worse_within_bounds_and_the_truth_stays() -> None:
    clip = buzz(0.4)
    mels = log_mel(torch.stack([clip] * 32), SMALL)
    torch.manual_seed(0)
    noisy = VocoderLoss(SMALL, VocoderLossConfig(worse_probability=1.0, blur=0.0, noise=0.3))._worse(mels) - mels
    assert noisy.std(dim=(1, 2)).max() < 0.32
    assert noisy.std(dim=(1, 2)).min() < 0.1  # a row draws how much
    blurred = VocoderLoss(SMALL, VocoderLossConfig(worse_probability=1.0, noise=0.0))._worse(mels)
    assert blurred.diff(dim=1).abs().mean() < 0.9 * mels.diff(dim=1).abs().mean()
    level = torch.full((4, 8, 32), -3.0)
    blurring = VocoderLossConfig(worse_probability=1.0, noise=0.0)
    torch.testing.assert_close(VocoderLoss(SMALL, blurring)._worse(level), level)  # a blur moves no level
    assert torch.equal(VocoderLoss(SMALL, AS_IT_IS)._worse(mels), mels)


def test_short_windows_stay_within_long_ones() -> None:
    specs = VocoderLoss(replace(SMALL, num_mels=40), AS_IT_IS).specs
    assert specs["own"].num_mels == 40
    lengths = [specs[name].window_length for name in ("shortest", "short", "own", "long")]
    assert lengths == sorted(lengths)

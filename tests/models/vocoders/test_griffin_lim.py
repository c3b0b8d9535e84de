"""Griffin-Lim: close to the sound it came from, one row at a time or many, whole or in blocks."""

import torch

from sonant.audio.mel import MelSpec, log_mel, magnitudes
from sonant.models.vocoders.griffin_lim import GriffinLim
from tests.models.vocoders.small_vocoders import buzz

SPEC = MelSpec()


def distance(sound: torch.Tensor, truth: torch.Tensor) -> float:
    """Mean distance of log mels where there is something to hear: within 50 dB of the loudest."""
    true = log_mel(truth, SPEC)
    return float((log_mel(sound, SPEC) - true).abs()[true > true.max() - 6].mean())


def test_mel_to_sound_to_mel_stays_close_and_closer_with_more_iterations() -> None:
    """Story 9 of the spec's tiny form."""
    clip = buzz()
    mels, lengths = log_mel(clip, SPEC)[None], torch.tensor([64])
    few, many = (GriffinLim(iterations=n)(mels, lengths)[0] for n in (2, 60))
    assert many.shape == (64 * 200,)
    assert distance(many, clip) < min(0.3, 0.6 * distance(few, clip))
    loud = magnitudes(clip, SPEC)
    error = (magnitudes(many, SPEC) - loud).norm() / loud.norm()
    assert error < 0.15  # spectral convergence of -16 dB: the pauses begin and end at once


def test_a_batch_equals_its_rows_alone_and_ends_where_they_end() -> None:
    mels = log_mel(torch.stack([buzz(), buzz(pitch_hz=220.0)]), SPEC)
    vocoder = GriffinLim(iterations=8)
    together = vocoder(mels, torch.tensor([64, 40]))
    alone = vocoder(mels[1:, :40], torch.tensor([40]))
    assert torch.allclose(together[1, : 40 * 200], alone[0], atol=1e-4)
    assert together[1, 40 * 200 :].eq(0).all()


def test_the_seed_decides_the_sound() -> None:
    mels, lengths = log_mel(buzz(0.2), SPEC)[None], torch.tensor([16])
    sounds = [GriffinLim(iterations=2, seed=seed)(mels, lengths) for seed in (0, 0, 1)]
    assert torch.equal(sounds[0], sounds[1])
    assert not torch.allclose(sounds[0], sounds[2], atol=1e-2)


def test_a_stream_is_as_long_and_nearly_as_close_as_the_whole() -> None:
    clip = buzz(1.0)
    mels = log_mel(clip, SPEC)
    vocoder = GriffinLim(iterations=30)
    whole = vocoder(mels[None], torch.tensor([80]))[0]
    chunks = list(vocoder.stream(mels.split(7)))
    assert len(chunks) > 2
    streamed = torch.cat(chunks)
    assert streamed.shape == whole.shape
    assert distance(streamed, clip) < 1.6 * distance(whole, clip)


def test_blocks_fade_into_each_other_without_a_click() -> None:
    mels = log_mel(buzz(1.0), SPEC)
    streamed = torch.cat(list(GriffinLim(iterations=30).stream(mels.split(24))))
    whole = GriffinLim(iterations=30)(mels[None], torch.tensor([80]))[0]
    assert streamed.diff().abs().max() < 1.5 * whole.diff().abs().max()


def test_an_empty_stream_and_an_empty_row_are_silent() -> None:
    assert list(GriffinLim().stream([])) == []
    assert GriffinLim(iterations=1)(torch.zeros(1, 3, 128), torch.tensor([0])).eq(0).all()

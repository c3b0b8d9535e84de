"""The small neural vocoder: chunks, batches and the whole agree exactly; folders keep it; it can learn."""

import json
from pathlib import Path

import pytest
import torch

from sonant.audio.mel import MelSpec, log_mel
from sonant.errors import ConfigError, ModelError
from sonant.models.vocoders.vocos import Vocos, VocosConfig
from tests.models.vocoders.small_vocoders import SMALL, buzz, small_vocos


@pytest.mark.parametrize("size", [3, 64, 200])
@torch.no_grad()
def test_chunks_equal_the_whole(size: int) -> None:
    vocoder = small_vocos()
    mels = log_mel(buzz(1.0), SMALL)
    whole = vocoder(mels[None], torch.tensor([80]))[0]
    streamed = torch.cat(list(vocoder.stream(mels.split(size))))
    assert whole.abs().max() > 0.01
    assert torch.allclose(streamed, whole, atol=1e-5)


@torch.no_grad()
def test_a_hop_hears_its_context_and_no_more() -> None:
    vocoder = small_vocos()
    context = vocoder.context_frames
    mels = log_mel(buzz(1.0), SMALL)[None]
    changed = mels.clone()
    changed[:, 70] += 3.0
    gap = (vocoder(changed, torch.tensor([80])) - vocoder(mels, torch.tensor([80])))[0].abs()
    assert gap[: (70 - context) * 200].max() < 1e-6
    assert gap[(70 - context) * 200 :].max() > 1e-3


@torch.no_grad()
def test_a_row_of_a_batch_equals_itself_alone_whatever_the_padding_holds() -> None:
    vocoder = small_vocos()
    mels = log_mel(torch.stack([buzz(), buzz(pitch_hz=220.0)]), SMALL)
    together = vocoder(mels, torch.tensor([64, 40]))
    alone = vocoder(mels[1:, :40], torch.tensor([40]))
    assert torch.allclose(together[1, : 40 * 200], alone[0], atol=1e-6)
    assert together[1, 40 * 200 :].eq(0).all()


@torch.no_grad()
def test_steps_bring_the_mels_nearer_before_anything_is_learnt() -> None:
    truth = log_mel(buzz(), SMALL)

    def distance(steps: int) -> float:
        sound = small_vocos(steps=steps)(truth[None], torch.tensor([64]))[0]
        return float((log_mel(sound, SMALL) - truth).abs().mean())

    assert distance(6) < 0.5 * distance(0)


@torch.no_grad()
def test_a_folder_gives_it_back_in_half_precision(tmp_path: Path) -> None:
    vocoder = small_vocos()
    vocoder.save(tmp_path)
    again = Vocos.from_folder(tmp_path)
    assert again.config == vocoder.config
    mels, lengths = log_mel(buzz(0.2), SMALL)[None], torch.tensor([16])
    assert torch.allclose(again(mels, lengths), vocoder(mels, lengths), atol=0.02)
    assert (tmp_path / "model.safetensors").stat().st_size < 2.2 * sum(p.numel() for p in vocoder.parameters()) + 8000


def test_folders_and_settings_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot read this vocoder"):
        Vocos.from_folder(tmp_path)
    small_vocos().save(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | {"dim": 17}))
    with pytest.raises(ModelError, match="do not fit"):
        Vocos.from_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(values | {"dims": 17}))
    with pytest.raises(ConfigError, match="did you mean 'dim'"):
        Vocos.from_folder(tmp_path)
    with pytest.raises(ModelError, match="odd"):
        Vocos(VocosConfig(kernel_size=4))


def test_the_published_size_is_a_setting() -> None:
    config = VocosConfig(mel=MelSpec(), dim=512, num_layers=8, hidden_dim=1536, steps=0)
    with torch.device("meta"):
        num = sum(parameter.numel() for parameter in Vocos(config).parameters())
    assert 13.0e6 < num < 14.0e6  # 13.5 M in the paper


def test_it_learns_one_clip() -> None:
    torch.manual_seed(0)
    vocoder = small_vocos().train()
    truth = log_mel(buzz(0.4), SMALL)[None]
    optimizer = torch.optim.Adam(vocoder.parameters(), lr=3e-3)
    gaps = []
    for _ in range(12):
        gap = (log_mel(vocoder(truth, torch.tensor([32])), SMALL) - truth).abs().mean()
        optimizer.zero_grad()
        gap.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        gaps.append(gap.item())
    assert gaps[-1] < 0.8 * gaps[0]

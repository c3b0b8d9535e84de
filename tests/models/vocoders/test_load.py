"""Vocoders by name."""

import json
from pathlib import Path

import pytest
import torch

from sonant.audio.mel import MelSpec, log_mel
from sonant.errors import ModelError
from sonant.models.parts import resolve_part
from sonant.models.vocoders.griffin_lim import GriffinLim
from sonant.models.vocoders.load import load_vocoder
from sonant.models.vocoders.vocos import Vocos
from tests.models.vocoders.small_vocoders import SMALL, buzz, small_vocos


def test_griffin_lim_takes_any_mels() -> None:
    assert isinstance(load_vocoder("griffin_lim"), GriffinLim)
    assert load_vocoder("griffin_lim", SMALL).mel == SMALL


def test_a_folder_of_ours_is_known_by_its_model_type(tmp_path: Path) -> None:
    small_vocos().save(tmp_path)
    assert isinstance(load_vocoder(str(tmp_path), SMALL), Vocos)
    with pytest.raises(ModelError, match="num_mels 128 against 32"):
        load_vocoder(str(tmp_path), MelSpec())


def test_a_model_that_is_no_vocoder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match="'bert'; vocoders are sonant_vocos"):
        load_vocoder(str(tmp_path))


@torch.no_grad()
def test_the_shipped_vocoder_is_small_hears_the_default_mels_and_comes_near_them() -> None:
    folder = Path(resolve_part("tiny/vocoder"))
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 1.3e6
    vocoder = load_vocoder("tiny/vocoder", MelSpec())
    truth = log_mel(buzz(0.4), vocoder.mel)
    loud = truth > truth.max() - 6
    for near, sounding in ((0.3, vocoder), (0.6, GriffinLim(iterations=4))):
        sound = sounding(truth[None], torch.tensor([32]))[0]
        assert (log_mel(sound, vocoder.mel) - truth).abs()[loud].mean() < near

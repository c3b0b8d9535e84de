"""Vocoders by name."""

import json
from pathlib import Path

import pytest

from sonant.audio.mel import MelSpec
from sonant.errors import ModelError
from sonant.models.vocoders.griffin_lim import GriffinLim
from sonant.models.vocoders.load import load_vocoder
from sonant.models.vocoders.vocos import Vocos
from tests.models.vocoders.small_vocoders import SMALL, small_vocos


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

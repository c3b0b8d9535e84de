"""The tiny vocoder's recipe: provenance, reproducibility, a buzz learnt for real."""

import json
from pathlib import Path

import pytest
import torch

from sonant.audio.io import save
from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.config import validate
from sonant.data.manifest import write
from sonant.models.vocoders.load import load_vocoder
from sonant.models.vocoders.loss import SAMPLES
from sonant.models.vocoders.vocos import Vocos
from sonant.recipes.tiny_vocoder import TinyVocoderRecipe, build_vocoder, clip_example
from tests.models.vocoders.small_vocoders import SMALL, buzz


def manifest_of(folder: Path, name: str, num: int) -> Path:
    rows = []
    for index in range(num):
        path = folder / f"{name}-{index}.wav"
        save(path, buzz(0.3, pitch_hz=110.0 + 17 * index).numpy(), sample_rate_hz=16_000)
        rows.append(Conversation((user(AudioPart(path=path.name)), assistant("buzz")), id=f"{name}-{index}"))
    write(folder / f"{name}.jsonl", rows)
    return folder / f"{name}.jsonl"


def build(tmp_path: Path, *, steps: int, run: str = "run") -> dict[str, float]:
    values = {
        "architecture": {"mel": {"num_mels": 32}, "dim": 16, "num_layers": 1, "hidden_dim": 24, "steps": 3},
        "plan": {"token_budget": 96},
        "train": {"steps": steps, "warmup_steps": 2},
    }
    config = validate(TinyVocoderRecipe, values, where="test")
    return build_vocoder(
        [manifest_of(tmp_path, "train", 8)],
        tmp_path / run / "vocoder",
        config=config,
        run_dir=tmp_path / run,
        dev={"buzz": manifest_of(tmp_path, "dev", 2)},
        command="make",
        say=lambda text: None,
    )


def test_a_run_leaves_a_folder_that_loads_and_says_where_it_comes_from(tmp_path: Path) -> None:
    scores = build(tmp_path, steps=1)
    assert isinstance(load_vocoder(str(tmp_path / "run" / "vocoder"), SMALL), Vocos)
    provenance = json.loads((tmp_path / "run" / "vocoder" / "provenance.json").read_text())
    assert provenance["command"] == "make"
    assert provenance["recipe"]["architecture"]["mel"]["num_mels"] == 32
    assert provenance["dev_log_mel_distance"] == {"buzz": round(scores["buzz"], 4)}
    assert list(provenance["data"]) == ["train.jsonl"]
    assert [len(digest) for digest in provenance["data"].values()] == [64]


def test_a_row_that_names_a_stretch_gives_that_stretch_and_not_the_file(tmp_path: Path) -> None:
    """Offset and duration were not read: rows cut from one recording all gave all of it."""
    save(tmp_path / "long.wav", torch.arange(8000).div(8000).numpy(), sample_rate_hz=16_000)
    part = AudioPart(path=str(tmp_path / "long.wav"), offset_s=0.125, duration_s=0.25)
    example = clip_example(Conversation((user(part), assistant("a"))), sample_rate_hz=16_000)
    (samples,) = example.features[SAMPLES]
    torch.testing.assert_close(samples, torch.arange(2000, 6000) / 8000, atol=1e-4, rtol=0)
    assert example.audio_duration_s == 0.25


def test_a_run_made_again_gives_the_same_weights(tmp_path: Path) -> None:
    weights = []
    for run in ("a", "b"):
        build(tmp_path, steps=2, run=run)
        weights.append(Vocos.from_folder(tmp_path / run / "vocoder").state_dict())
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


@pytest.mark.recipe
def test_a_buzz_sounds_nearer_after_training(tmp_path: Path) -> None:
    before, after = build(tmp_path, steps=1, run="a"), build(tmp_path, steps=25, run="b")
    assert after["buzz"] < 0.95 * before["buzz"]

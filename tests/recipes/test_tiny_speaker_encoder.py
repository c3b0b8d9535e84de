"""The tiny speaker encoder's recipe: provenance, reproducibility, two buzzing voices told apart for real."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sonant.audio.augment import AugmentConfig
from sonant.audio.io import save
from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.config import validate
from sonant.data.manifest import write
from sonant.models.encoders.base import EncoderConfig
from sonant.models.encoders.load import load_encoder
from sonant.recipes.tiny_speaker_encoder import TinySpeakerRecipe, build_speaker_encoder
from sonant.testing import byte_tokenizer

SMALL = {"dim": 32, "num_layers": 2, "num_heads": 2, "feed_forward_dim": 64, "kernel_size": 5}
QUIET = {key: 0.0 for key in AugmentConfig.model_fields if key.endswith("_probability")}
VOICES_HZ = {"low": 110.0, "mid": 180.0, "high": 290.0}


def clip(voice: str, manner: str, number: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A buzz at the voice's pitch, trembling if excited; how long depends on the number."""
    seconds = np.arange(int(16_000 * (0.6 + 0.1 * (number % 5)))) / 16_000
    bend = (0.15 if manner == "excited" else 0.0) * np.sin(2 * np.pi * 5 * seconds)
    phase = 2 * np.pi * np.cumsum(VOICES_HZ[voice] * (1 + bend)) / 16_000
    return np.asarray(0.05 * sum(np.sin(k * phase) / k for k in range(1, 9)), dtype=np.float32)


def manifest_of(folder: Path, name: str, num: int) -> Path:
    rng = np.random.default_rng(len(name))
    rows = []
    for index in range(num):
        first = str(rng.choice(list(VOICES_HZ)))
        other = str(rng.choice([voice for voice in VOICES_HZ if voice != first]))
        speakers, manner = [first, first if index % 2 == 0 else other], "calm" if index % 4 < 2 else "excited"
        parts = []
        for place, voice in enumerate(speakers):
            path = folder / f"{name}-{index}-{place}.wav"
            save(path, clip(voice, manner, int(rng.integers(5))), sample_rate_hz=16_000)
            parts.append(AudioPart(path=path.name))
        extra = {"speakers": speakers, "throats": speakers, "manners": [manner, manner]}
        answer = assistant("yes" if index % 2 == 0 else "no")
        rows.append(Conversation((user(*parts), answer), id=f"{name}-{index}", task="verification", extra=extra))
    write(folder / f"{name}.jsonl", rows)
    return folder / f"{name}.jsonl"


def build(tmp_path: Path, *, steps: int, rows: int = 24) -> dict[str, float]:
    byte_tokenizer().save(tmp_path / "tokenizer")
    values = {
        "tokenizer": str(tmp_path / "tokenizer"),
        "architecture": SMALL,
        "augment": QUIET,
        "learning_rate": 5e-3,
        "plan": {"token_budget": 400, "micro_batches": 1},
        "train": {"steps": steps, "warmup_steps": 2},
    }
    config = validate(TinySpeakerRecipe, values, where="test")
    manifests = [manifest_of(tmp_path, "train", rows), manifest_of(tmp_path, "dev", rows // 2)]
    return build_speaker_encoder(
        manifests[0],
        tmp_path / "run" / "encoder",
        config=config,
        run_dir=tmp_path / "run",
        dev=manifests[1],
        command="make",
        say=lambda text: None,
    )


def trained(folder: Path) -> torch.nn.Module:
    encoder = load_encoder(EncoderConfig(kind="tiny_speaker", path=str(folder)))
    assert isinstance(encoder, torch.nn.Module)
    return encoder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """The folder of an encoder of two steps, and its scores."""
    folder = tmp_path_factory.mktemp("speaker")
    scores = build(folder, steps=2)
    return folder / "run" / "encoder", scores


def test_a_run_leaves_a_folder_that_loads_and_says_where_it_comes_from(made: tuple[Path, dict[str, float]]) -> None:
    folder, scores = made
    assert trained(folder).dim == 32
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["command"] == "make"
    assert provenance["recipe"]["train"]["seed"] == 0
    assert provenance["dev"] == {name: round(score, 2) for name, score in scores.items()}
    assert [len(provenance["data"][name]) for name in ("train", "dev")] == [64, 64]
    assert set(scores) == {"verification_cosine_eer", "verification_joined_eer", "manner_accuracy", "manner_recall"}


def test_a_run_made_again_gives_the_same_weights_and_leaves_the_layer_weights_equal(
    made: tuple[Path, dict[str, float]], tmp_path: Path
) -> None:
    build(tmp_path, steps=2)
    once, again = (trained(folder).state_dict() for folder in (made[0], tmp_path / "run" / "encoder"))
    assert all(torch.equal(tensor, again[name]) for name, tensor in once.items())
    assert once["layer_weights"].eq(0).all()


@pytest.mark.recipe
def test_three_buzzing_voices_and_a_tremor_are_told_apart(tmp_path: Path) -> None:
    scores = build(tmp_path, steps=150, rows=48)
    assert scores["verification_cosine_eer"] == 0.0
    assert scores["verification_joined_eer"] <= 10.0
    assert scores["manner_accuracy"] == 100.0

"""The tiny encoder's recipe: its loss by hand, its telephone and silences, three tones learnt for real."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sonant.audio.augment import AugmentConfig
from sonant.audio.io import save
from sonant.batch import Batch, collate, make_example
from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.chat.tokenizer import ChatTokenizer
from sonant.config import validate
from sonant.data.manifest import write
from sonant.errors import ModelError
from sonant.models.encoders.base import EncoderConfig
from sonant.models.encoders.load import load_encoder
from sonant.models.encoders.tiny import TinyEncoder
from sonant.models.losses import CTCLoss
from sonant.recipes.tiny_encoder import EarAugmenter, SpellingLoss, TinyEncoderRecipe, build_encoder
from sonant.testing import byte_tokenizer, tone

SMALL = {"dim": 32, "num_layers": 2, "num_heads": 2, "feed_forward_dim": 64, "kernel_size": 5, "letter_layer": 1}
TONES_HZ = {"a": 300.0, "b": 900.0, "c": 2700.0}
QUIET = {key: 0.0 for key in AugmentConfig.model_fields if key.endswith("_probability")}


def recording(text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A tone for each letter, 0.2 s long, and silence around it."""
    silence = np.zeros(1600, np.float32)
    return np.concatenate([piece for c in text for piece in (tone(0.2, TONES_HZ[c]), silence)])


def manifest_of(folder: Path, name: str, texts: list[str]) -> Path:
    rows = []
    for text in texts:
        save(folder / f"{name}-{text}.wav", recording(text), sample_rate_hz=16_000)
        rows.append(Conversation((user(AudioPart(path=f"{name}-{text}.wav")), assistant(text)), id=text, task="asr"))
    write(folder / f"{name}.jsonl", rows)
    return folder / f"{name}.jsonl"


def batch_of(texts: list[str], encoder: TinyEncoder, tokenizer: ChatTokenizer, folder: Path) -> Batch:
    manifest_of(folder, "clip", texts)
    rows = [Conversation((user(AudioPart(path=str(folder / f"clip-{t}.wav"))), assistant(t))) for t in texts]
    return collate([make_example(row, tokenizer, [encoder.feature_spec]) for row in rows])


@pytest.fixture
def encoder() -> TinyEncoder:
    torch.manual_seed(0)
    shape = SMALL | {"vocab_size": byte_tokenizer().vocab_size}
    return TinyEncoder(EncoderConfig(kind="tiny", architecture=shape)).eval()


def test_the_loss_is_ctc_on_tokens_plus_weighted_ctc_on_letters(encoder: TinyEncoder, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    batch = batch_of(["ab", "cab"], encoder, tokenizer, tmp_path)
    loss = SpellingLoss(tokenizer, letter_weight=0.5)(encoder, batch)
    tokens = CTCLoss(stop_ids=tokenizer.stop_ids)(encoder, batch)
    spec = encoder.feature_spec
    _, letters = encoder.forward_with_letters(batch.features[spec], batch.feature_lengths[spec])
    by_letters = sum(
        torch.nn.CTCLoss(blank=27, reduction="sum")(letters[row, :n].log_softmax(-1), target, n[None], size[None])
        for row, (n, target) in enumerate(
            zip(
                encoder.output_lengths(batch.feature_lengths[spec]),
                [torch.tensor([0, 1]), torch.tensor([2, 0, 1])],
                strict=True,
            )
        )
        for size in [torch.tensor(len(target))]
    )
    torch.testing.assert_close(loss.total, tokens.total + 0.5 * by_letters)
    assert loss.weight == tokens.weight == 5
    torch.testing.assert_close(loss.parts["letters"][0], by_letters)


def ears(**settings: float) -> EarAugmenter:
    config = validate(AugmentConfig, QUIET, where="test")
    return EarAugmenter(config, **{"silence_s": 0.0, "telephone_share": 0.0} | settings)


def test_a_telephone_leaves_nothing_above_4_khz() -> None:
    noise = np.random.default_rng(0).normal(size=16_000).astype(np.float32) * 0.1
    heard = ears(telephone_share=1.0).samples(noise, sample_rate_hz=16_000, rng=np.random.default_rng(0))
    power = np.abs(np.fft.rfft(heard)) ** 2  # a bin is one hertz
    assert len(heard) == 16_000
    assert power[4200:].mean() < 1e-4 * power[:3600].mean()


def test_silence_comes_before_or_after_a_clip_or_not_at_all() -> None:
    samples, rng = tone(0.1) + 0.1, np.random.default_rng(0)
    places = set()
    for _ in range(20):
        heard = ears(silence_s=0.5).samples(samples, sample_rate_hz=16_000, rng=rng)
        start = int(np.flatnonzero(heard)[0])
        np.testing.assert_array_equal(heard[start : start + 1600], samples)
        assert not heard[:start].any()
        assert not heard[start + 1600 :].any()
        assert len(heard) <= 1600 + 2 * 8000
        places.add((start > 0, len(heard) > start + 1600))
    assert places == {(False, False), (False, True), (True, False), (True, True)}


def test_ears_without_silence_or_telephone_change_nothing() -> None:
    samples = tone()
    np.testing.assert_array_equal(ears().samples(samples, sample_rate_hz=16_000, rng=np.random.default_rng(0)), samples)


def build(tmp_path: Path, *, steps: int, **settings: Any) -> dict[str, float]:
    byte_tokenizer().save(tmp_path / "tokenizer")
    train = manifest_of(tmp_path, "train", ["a", "b", "c", "ab", "ba", "ac", "ca", "bc", "abc", "cba", "bac", "cab"])
    dev = manifest_of(tmp_path, "dev", ["cb", "bca", "acb"])
    values = {
        "tokenizer": str(tmp_path / "tokenizer"),
        "architecture": SMALL,
        "augment": QUIET,
        "silence_s": 0.0,
        "telephone_share": 0.0,
        "learning_rate": 5e-3,
        "plan": {"token_budget": 100, "micro_batches": 1},
        "train": {"steps": steps, "warmup_steps": 2},
    } | settings
    config = validate(TinyEncoderRecipe, values, where="test")
    out, run_dir = tmp_path / "encoder", tmp_path / "run"
    return build_encoder([train], out, config=config, run_dir=run_dir, dev={"tones": dev}, command="make", say=str)


def test_a_run_leaves_a_folder_that_loads_and_says_where_it_comes_from(tmp_path: Path) -> None:
    scores = build(tmp_path, steps=1)
    encoder = load_encoder(EncoderConfig(kind="tiny", path=str(tmp_path / "encoder")))
    assert encoder.architecture["vocab_size"] == byte_tokenizer().vocab_size
    provenance = json.loads((tmp_path / "encoder" / "provenance.json").read_text())
    assert provenance["command"] == "make"
    assert provenance["dev_word_error_rate"] == scores
    assert len(provenance["data"]["train.jsonl"]) == 64


def test_a_run_goes_on_from_the_encoder_that_begin_names(tmp_path: Path) -> None:
    build(tmp_path, steps=1)
    begun = load_encoder(EncoderConfig(kind="tiny", path=str(tmp_path / "encoder"))).state_dict()
    (again := tmp_path / "again").mkdir()
    build(again, steps=1, begin=str(tmp_path / "encoder"), learning_rate=1e-9)
    after = load_encoder(EncoderConfig(kind="tiny", path=str(again / "encoder"))).state_dict()
    for name, weight in begun.items():
        torch.testing.assert_close(after[name], weight, rtol=0, atol=2e-3)  # half precision on disk


def test_an_encoder_that_spells_in_other_tokens_is_no_beginning(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="begin: tiny/encoder spells in 640 tokens"):
        build(tmp_path, steps=1, begin="tiny/encoder")


@pytest.mark.recipe
def test_three_tones_are_spelled_in_orders_never_heard(tmp_path: Path) -> None:
    assert build(tmp_path, steps=300)["tones"] == 0.0

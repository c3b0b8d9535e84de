"""Frozen encoders run once: a run that fills a cache is the run without one, and goes on where it stopped."""

import json
import logging
from pathlib import Path

import pytest
import torch

from sonant.audio.io import save
from sonant.batch import collate, make_example
from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.chat.tokenizer import ChatTokenizer
from sonant.cli.train import preset_path
from sonant.config import load_config
from sonant.data.growing_cache import GrowingFrameCache
from sonant.data.manifest import Manifest, write
from sonant.errors import AudioError
from sonant.models.build import build_speech_lm
from sonant.models.losses import TokenLoss
from sonant.models.parts import resolve_part
from sonant.recipes.fitting import kept
from sonant.recipes.staged import frames_on_disk
from sonant.recipes.voicetextblender import VoiceTextBlender, main
from sonant.testing import tone


def quiet(text: str) -> None:
    pass


@pytest.fixture
def config(tmp_path: Path) -> VoiceTextBlender:
    """The tiny preset on nine tones, three steps an epoch."""
    rows = []
    for index in range(9):
        save(tmp_path / f"{index}.wav", tone(0.6 + 0.1 * index), sample_rate_hz=16_000)
        rows.append(Conversation((user("repeat:", AudioPart(f"{index}.wav")), assistant(f"la {index}")), id=str(index)))
    write(tmp_path / "rows.jsonl", rows)
    steps = ("train.metric=null", "train.validate_every=0", "train.schedule=constant", "train.save_every=100")
    values = load_config(VoiceTextBlender, [preset_path("voicetextblender", "tiny")], overrides=steps).model_dump()
    values["data"] |= {"root": str(tmp_path), "dev": [], "text": {}, "speech": {"tones": {"manifest": "rows.jsonl"}}}
    values["data"]["plan"] |= {"max_rows": 3, "token_budget": 400}
    return VoiceTextBlender.model_validate(values | {"augment": None})


def test_losses_with_cached_frames_are_those_without(config: VoiceTextBlender, tmp_path: Path) -> None:
    """Half precision moves a loss by less than 0.5 %; float32 by rounding alone, since a clip is encoded by itself."""
    model = build_speech_lm(config.model).eval()
    tokenizer, loss = ChatTokenizer.from_folder(resolve_part("tiny/llm")), TokenLoss()
    rows = list(Manifest(tmp_path / "rows.jsonl"))[:4]

    def total(**settings: str) -> float:
        chosen = config.model_copy(update=settings)
        cached = frames_on_disk(model, chosen, config.groups, root=str(tmp_path), say=quiet)
        specs = model.specs_given(cached)
        with torch.no_grad(), kept(cached):
            return float(loss(model, collate([make_example(r, tokenizer, specs, cached=cached) for r in rows])).total)

    alone = total()
    for _ in range(2):  # the first fills the folder, the second reads it
        assert total(frames="half") == pytest.approx(alone, rel=5e-3)
        assert total(frames="whole", frames_precision="float32") == pytest.approx(alone, rel=1e-5)
    assert len(list((tmp_path / "half/0").glob("*.safetensors"))) == 1


def test_auto_caches_what_is_frozen_where_sound_stays_as_it_is(config: VoiceTextBlender, tmp_path: Path) -> None:
    model = build_speech_lm(config.model)
    told: list[str] = []

    def caches(root: Path = tmp_path, **settings: object) -> list[GrowingFrameCache]:
        chosen = config.model_copy(update={"frames": "auto", **settings})
        found = frames_on_disk(model, chosen, chosen.groups, root=str(root), say=told.append)
        return [cache for cache in found.values() if isinstance(cache, GrowingFrameCache)]

    assert [cache.spec for cache in caches()] == list(model.encoded_specs)
    assert [path.name.partition("-")[0] for path in (tmp_path / "frames").iterdir()] == ["TinyEncoder"]
    assert caches(augment=load_config(VoiceTextBlender, [preset_path("voicetextblender", "tiny")]).augment) == []
    all_of_it = config.groups["adapter"].model_copy(update={"patterns": ("adapter.*", "encoders.*")})
    assert caches(groups={"all": all_of_it}) == []
    assert told[-1] == "encoders.0 trains, so it runs in every step"


def test_an_encoder_that_is_not_as_its_folder_has_it_is_cached_as_the_model_has_it(
    config: VoiceTextBlender, tmp_path: Path
) -> None:
    model = build_speech_lm(config.model)
    encoder = model.encoders[0]
    with torch.no_grad():
        next(encoder.parameters()).mul_(1.5)
    model.own_parts |= {"encoders.0"}
    chosen = config.model_copy(update={"frames": "auto", "frames_precision": "float32"})
    ((spec, cache),) = frames_on_disk(model, chosen, config.groups, root=str(tmp_path), say=quiet).items()
    row = Manifest(tmp_path / "rows.jsonl")[0]
    heard = make_example(row, ChatTokenizer.from_folder(resolve_part("tiny/llm")), model.feature_specs)
    (features,) = heard.features[model.feature_specs[0]]
    with torch.no_grad():
        frames = encoder(features[None], torch.tensor([len(features)]))[0]
    assert spec == model.encoded_specs[0]
    torch.testing.assert_close(cache(row.audio_parts[0]), frames)
    with pytest.raises(AudioError, match="cannot be opened"):
        cache(AudioPart(str(tmp_path / "none.wav")))


@pytest.mark.recipe
def test_a_run_that_fills_a_cache_is_resumed_bit_for_bit(
    config: VoiceTextBlender, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def losses(run: str, steps: int, frames: str | None, *, resume: bool = False) -> list[float]:
        train = config.train.model_copy(update={"steps": steps, "resume": resume})
        main(config.model_copy(update={"train": train, "frames": frames}), tmp_path / run, say=quiet)
        return [json.loads(line)["loss"] for line in (tmp_path / run / "log.jsonl").read_text().splitlines()]

    with caplog.at_level(logging.WARNING):
        alone, whole = losses("alone", 7, None), losses("whole", 7, "frames/whole")
        losses("stopped", 2, "frames/stopped")
        assert losses("stopped", 7, "frames/stopped", resume=True) == whole
    assert whole == pytest.approx(alone, rel=5e-3)
    assert not caplog.records

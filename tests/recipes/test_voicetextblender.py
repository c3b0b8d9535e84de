from pathlib import Path

import pytest
import torch
import yaml

from sonant.cli.train import preset_path
from sonant.config import load_config
from sonant.errors import ConfigError
from sonant.models.build import build_speech_lm
from sonant.models.freeze import FreezePlan
from sonant.models.speech_lm import SpeechLM
from sonant.recipes.voicetextblender import VoiceTextBlender, in_arm


def preset(name: str, *overrides: str) -> VoiceTextBlender:
    return load_config(VoiceTextBlender, [preset_path("voicetextblender", name)], overrides=overrides)


def count(model: torch.nn.Module, part: str) -> int:
    return sum(p.numel() for name, p in model.named_parameters() if part in name)


@pytest.fixture(scope="module")
def published() -> SpeechLM:
    with torch.device("meta"):
        return build_speech_lm(preset("faithful").model)


def test_the_faithful_adapter_has_the_derived_size(published: SpeechLM) -> None:
    total = sum(p.numel() for p in published.adapter.parameters())
    assert total == 51_465_216 + 2_099_200


def test_the_faithful_lora_is_fused_and_has_the_derived_size(published: SpeechLM) -> None:
    assert count(published.llm, "lora_") == 35_684_352


def test_separate_lora_of_the_same_rank_is_a_tenth_larger() -> None:
    config = preset("faithful", "model.lora.layout=separate").model
    with torch.device("meta"):
        assert count(build_speech_lm(config).llm, "lora_") == 39_223_296


def test_the_faithful_llm_is_gemma_2b(published: SpeechLM) -> None:
    lora = count(published.llm, "lora_")
    assert sum(p.numel() for p in published.llm.parameters()) - lora == 2_506_172_416


def test_the_faithful_encoder_is_a_fastconformer_of_609_million(published: SpeechLM) -> None:
    assert count(published.encoders, "") == pytest.approx(609e6, rel=0.005)
    assert published.speech_encoders[0].frame_rate_hz == 12.5


def test_the_faithful_total_and_trained_share_are_the_derived_ones(published: SpeechLM) -> None:
    FreezePlan(preset("faithful").groups).apply(published)
    total = sum(p.numel() for p in published.parameters())
    trained = sum(p.numel() for p in published.parameters() if p.requires_grad)
    assert total == pytest.approx(3.2e9, rel=0.01)
    assert trained == pytest.approx(697e6, rel=0.01)
    assert trained / total == pytest.approx(0.22, abs=0.005)


def test_the_faithful_schedule_and_mix_are_the_published_ones() -> None:
    config = preset("faithful")
    assert (config.train.steps, config.train.warmup_steps, config.train.betas) == (100_000, 2_500, (0.9, 0.98))
    assert {g.lr for g in config.groups.values()} == {1e-4}
    assert {g.weight_decay for g in config.groups.values()} == {1e-3}
    assert config.train.final_lr_ratio * 1e-4 == pytest.approx(1e-6)
    assert (config.data.plan.mixing, config.data.plan.audio_share) == ("modality", 0.85)
    assert (config.data.plan.max_rows, config.data.plan.max_text_rows, config.data.plan.micro_batches) == (4, 1, 64)


@pytest.mark.parametrize("name", ["tiny", "faithful", "best"])
def test_every_preset_round_trips_through_its_saved_form(name: str, tmp_path: Path) -> None:
    config = preset(name)
    (tmp_path / "saved.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert load_config(VoiceTextBlender, [tmp_path / "saved.yaml"]) == config


def test_an_unknown_preset_is_told_with_those_that_exist() -> None:
    with pytest.raises(ConfigError, match="no preset 'huge' for voicetextblender; presets are best, faithful, tiny"):
        preset("huge")


def test_the_speech_only_arm_has_no_text_rows() -> None:
    config = in_arm(preset("faithful", "arm=speech_only"))
    assert not config.data.text
    assert config.data.plan.mixing == "rows"


def test_the_frozen_llm_arm_has_no_lora_and_trains_the_rest() -> None:
    config = in_arm(preset("tiny", "arm=frozen_llm"))
    assert config.model.lora is None
    assert set(config.groups) == {"adapter"}

"""Spectron: the published sizes and loss, presets that differ where they say so, arms, and a voice that is learned."""

from pathlib import Path

import pytest
import torch

from sonant.chat.messages import AudioPart, Conversation, Message, TextPart, user
from sonant.cli.train import preset_path
from sonant.config import load_config
from sonant.errors import ConfigError
from sonant.models.build import build_speech_lm
from sonant.models.freeze import FreezePlan
from sonant.models.speech_head.config import SpeechHeadConfig, SpeechLossConfig
from sonant.models.speech_lm import SpeechLM, part_of
from sonant.recipes.spectron import Spectron, main, null_text


def preset(*names: str, overrides: tuple[str, ...] = ()) -> Spectron:
    return load_config(Spectron, [preset_path("spectron", name) for name in names], overrides=overrides)


def sizes(model: SpeechLM) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        found[part_of(name)] = found.get(part_of(name), 0) + parameter.numel()
    return found


@pytest.fixture(scope="module")
def published() -> SpeechLM:
    with torch.device("meta"):
        return build_speech_lm(preset("faithful").model)


def test_the_faithful_model_has_the_sizes_that_follow_from_the_paper(published: SpeechLM) -> None:
    assert sizes(published) == {
        "encoders.0": pytest.approx(600e6, rel=0.02),
        "adapter": 1024 * 960 + 960,
        "llm": 361_821_120,
        "speech_head": (128 * 256 + 256) + (256 * 960 + 960) + (960 * 256 + 256) + (256 * 128 + 128) + 960,
    }


def test_in_the_faithful_preset_all_trains_by_the_published_loss_and_no_option_is_on(published: SpeechLM) -> None:
    config = preset("faithful")
    FreezePlan(config.groups).apply(published)
    assert all(parameter.requires_grad for parameter in published.parameters())
    assert config.model.speech_head == SpeechHeadConfig()
    assert config.loss == SpeechLossConfig()
    assert (config.loss.l1, config.loss.l2, config.loss.mel_deltas, config.loss.time_deltas) == (1, 1, (1,), (1, 2))
    assert config.model.speech_head.max_seconds * config.model.speech_head.mel.frame_rate_hz == 1000
    assert config.train.warmup_steps == 0.05 * config.train.steps
    assert config.data.plan.token_budget * config.data.plan.micro_batches == pytest.approx(80_000, rel=0.05)


def test_best_and_tiny_are_one_form_and_unlike_the_faithful_one() -> None:
    best, tiny, faithful = (preset(name).model.speech_head for name in ("best", "tiny", "faithful"))
    assert best is not None
    assert tiny is not None
    assert faithful is not None
    switches = ("body", "normalise", "pointer", "llm_states", "speaker_encoder", "arm", "prenet_dropout_at_test")
    for switch in switches:
        assert getattr(best, switch) == getattr(tiny, switch)
        assert getattr(best, switch) != getattr(faithful, switch)


def test_the_faithful_form_can_be_laid_over_tiny() -> None:
    config = preset("tiny", "tiny_faithful")
    assert config.model.lora is None
    assert "lora" not in config.groups
    assert config.model.speech_head is not None
    published = SpeechHeadConfig().model_dump() | {"num_layers": 4}
    own = {"dim", "num_layers", "num_heads", "ffn_dim", "dropout", "window", "noise_dim", "max_seconds"}
    found = config.model.speech_head.model_dump()
    assert {k: v for k, v in found.items() if k not in own} == {k: v for k, v in published.items() if k not in own}


def test_a_recipe_that_speaks_refuses_a_model_without_a_voice(tmp_path: Path) -> None:
    config = preset("tiny", overrides=("model.speech_head=null",))
    with pytest.raises(ConfigError, match=r"model\.speech_head is null"):
        main(config, tmp_path, say=print)


def test_null_text_keeps_the_number_of_words_and_their_marks_and_nothing_else() -> None:
    spoken = AudioPart("a.wav", transcript="the cat", extra={"words": [["the", 0.1], ["cat", 0.4]], "x": 1})
    row = Conversation((user("hi"), Message("assistant", (TextPart("yes: the cat"), spoken))), id="1")
    edited = null_text(row)
    assert edited.reference == "a a a"
    assert edited.spoken is not None
    assert edited.spoken.transcript == "a a"
    assert edited.spoken.extra == {"words": [["a", 0.1], ["a", 0.4]], "x": 1}
    assert edited.messages[0] == row.messages[0]
    parted = Conversation((user("hi"), Message("assistant", (TextPart("here she is | the cat"), spoken))), id="3")
    assert null_text(parted, boundary=" | ").reference == "a a a | a a"  # it went, and at test all of it was said
    silent = Conversation((user("hi"), Message("assistant", (TextPart("the cat"),))), id="2")
    assert null_text(silent) == silent

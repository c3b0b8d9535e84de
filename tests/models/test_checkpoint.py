"""Checkpoints: what is loaded is what was saved, whole or not at all, and never a pickle."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from small_speech_lm import architecture, make_batch, move_lora, small_llm
from tiny_models import WHISPER
from torch import Tensor, nn

from sonant.audio.features import FeatureSpec
from sonant.errors import CheckpointError, ModelError
from sonant.models.build import SpeechLMConfig, add_prompt_lora, add_speech_head, build_speech_lm
from sonant.models.checkpoint import copy_speech_lm, load_speech_lm, save_speech_lm
from sonant.models.freeze import FreezePlan, GroupConfig
from sonant.models.lora import merge_lora
from sonant.models.prompt_lora import PromptLoraConfig
from sonant.models.speech_head.config import SpeechHeadConfig
from sonant.models.speech_lm import SpeechLM


class Tokenizer:
    def save(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text("{}")
        (folder / "chat_template.jinja").write_text("{{ messages }}")


@pytest.fixture
def base(tmp_path: Path) -> str:
    folder = tmp_path / "base llm"
    small_llm().save_pretrained(folder)
    return str(folder)


def _model(llm: dict[str, Any], *, lora: dict[str, Any] | None = None, adapter: str = "conformer") -> SpeechLM:
    settings = {"dim": 32, "num_layers": 1, "num_heads": 4} if adapter == "conformer" else {}
    values = {
        "encoders": [{"kind": "whisper", "architecture": WHISPER}],
        "adapter": {"kind": adapter, **settings},
        "llm": llm,
        "lora": lora,
    }
    torch.manual_seed(1)
    model = build_speech_lm(SpeechLMConfig.model_validate(values))
    move_lora(model)
    with torch.no_grad():
        for buffer in model.adapter.buffers():  # running statistics of batch norm are part of the model
            if buffer.dtype == torch.float32:
                buffer.add_(0.1)
    return model


def _logits(model: SpeechLM) -> Tensor:
    batch = make_batch([(9, [(2, 7), (6, 12)]), (5, [])])
    batch.features[FeatureSpec.whisper()] = next(iter(batch.features.values()))  # type: ignore[index]
    batch.feature_lengths[FeatureSpec.whisper()] = next(iter(batch.feature_lengths.values()))  # type: ignore[index]
    with torch.no_grad():
        return model.logits(model(batch).hidden)


def _parts(folder: Path) -> list[str]:
    return json.loads((folder / "config.json").read_text())["parts"]


@pytest.mark.parametrize("layout", ["separate", "fused"])
def test_what_is_loaded_gives_the_saved_logits(tmp_path: Path, base: str, layout: str) -> None:
    model = _model({"path": base}, lora={"rank": 4, "layout": layout})
    save_speech_lm(model, Tokenizer(), tmp_path / "saved", provenance={"run": "of a test"})
    loaded = load_speech_lm(tmp_path / "saved")
    assert torch.equal(_logits(loaded), _logits(model))
    assert not loaded.training
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert names == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "chat_template.jinja",
        "generation_config.json",
        "provenance.json",
        "checksums.json",
    }
    provenance = json.loads((tmp_path / "saved" / "provenance.json").read_text())
    assert provenance["run"] == "of a test"
    assert {"sonant", "torch", "saved_at"} <= provenance.keys()
    if layout == "fused":
        attention = loaded.llm.get_decoder().layers[0].self_attn
        assert attention.q_proj.lora_A["default"].weight is attention.v_proj.lora_A["default"].weight


def test_all_parts_included_the_folder_stands_alone(tmp_path: Path, base: str) -> None:
    model = _model({"path": base}, lora={"rank": 4})
    save_speech_lm(model, Tokenizer(), tmp_path / "saved", include="all")
    expected = _logits(model)
    shutil.rmtree(base)
    (tmp_path / "saved").rename(tmp_path / "moved")
    loaded = load_speech_lm(tmp_path / "moved")
    assert torch.equal(_logits(loaded), expected)
    save_speech_lm(loaded, Tokenizer(), tmp_path / "again")  # what came with a checkpoint stays with the next one
    shutil.rmtree(tmp_path / "moved")
    assert torch.equal(_logits(load_speech_lm(tmp_path / "again")), expected)


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_random_parts_are_held_since_they_come_from_nowhere_else(tmp_path: Path, family: str) -> None:
    model = _model({"architecture": architecture(family)})
    save_speech_lm(model, Tokenizer(), tmp_path / "saved")
    assert _parts(tmp_path / "saved") == ["adapter", "encoders.0", "llm"]
    assert torch.equal(_logits(load_speech_lm(tmp_path / "saved")), _logits(model))


def test_a_frozen_llm_is_named_and_a_trained_one_held_even_when_frozen_again(tmp_path: Path, base: str) -> None:
    model = _model({"path": base})
    FreezePlan({"adapter": GroupConfig(patterns=("adapter.*",), lr=1.0)}).apply(model)
    save_speech_lm(model, Tokenizer(), tmp_path / "one")
    assert _parts(tmp_path / "one") == ["adapter", "encoders.0"]
    FreezePlan({"all": GroupConfig(patterns=("*",), lr=1.0)}).apply(model)
    FreezePlan({"adapter": GroupConfig(patterns=("adapter.*",), lr=1.0)}).apply(model)
    with torch.no_grad():
        model.llm.get_input_embeddings().weight.add_(0.3)
    save_speech_lm(model, Tokenizer(), tmp_path / "two")
    assert torch.equal(_logits(load_speech_lm(tmp_path / "two")), _logits(model))


def test_merged_lora_is_saved_with_the_llm(tmp_path: Path, base: str) -> None:
    model = _model({"path": base}, lora={"rank": 4})
    merge_lora(model.llm)
    save_speech_lm(model, Tokenizer(), tmp_path / "saved")
    loaded = load_speech_lm(tmp_path / "saved")
    assert "lora" not in _parts(tmp_path / "saved")
    assert torch.equal(_logits(loaded), _logits(model))


def test_stage_two_starts_from_the_checkpoint_of_stage_one_with_equal_logits(tmp_path: Path, base: str) -> None:
    model = _model({"path": base}, lora={"rank": 4})
    save_speech_lm(model, Tokenizer(), tmp_path / "stage1")
    second = load_speech_lm(tmp_path / "stage1")
    add_prompt_lora(second, PromptLoraConfig())
    assert torch.equal(_logits(second), _logits(model))


@pytest.mark.parametrize("form", ["clip", "residual", "fixed"])
def test_a_prompt_adapter_and_its_form_are_kept(tmp_path: Path, base: str, form: str) -> None:
    model = _model({"path": base}, lora={"rank": 4})
    add_prompt_lora(model, PromptLoraConfig.model_validate({"form": form, "scale": 0.5, "granularity": "layer"}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("prompt_adapter"):
                parameter.normal_(std=0.5)
    save_speech_lm(model, Tokenizer(), tmp_path / "saved")
    loaded = load_speech_lm(tmp_path / "saved")
    assert ("prompt_adapter" in _parts(tmp_path / "saved")) == (form != "fixed")
    assert torch.equal(_logits(loaded), _logits(model))


def test_lora_of_a_fixed_scale_is_saved_merged(tmp_path: Path, base: str) -> None:
    model = _model({"path": base}, lora={"rank": 4})
    add_prompt_lora(model, PromptLoraConfig(form="fixed", scale=0.5))
    merge_lora(model.llm)
    save_speech_lm(model, Tokenizer(), tmp_path / "saved")
    assert torch.equal(_logits(load_speech_lm(tmp_path / "saved")), _logits(model))


def test_a_voice_and_what_it_measured_of_its_data_are_kept(tmp_path: Path, base: str) -> None:
    model = _model({"path": base})
    values = {"body": "own", "dim": 16, "num_heads": 2, "pointer": True, "normalise": True, "speaker_encoder": 0}
    add_speech_head(model, SpeechHeadConfig.model_validate(values))
    assert model.speech_head is not None
    model.speech_head.fit_normalisation([torch.randn(9, 128)])
    save_speech_lm(model, Tokenizer(), tmp_path / "m")
    assert "speech_head" in _parts(tmp_path / "m")
    loaded = load_speech_lm(tmp_path / "m")
    assert loaded.voice_spec == model.voice_spec
    assert loaded.speech_head is not None
    torch.testing.assert_close(loaded.speech_head.state_dict(), model.speech_head.state_dict(), rtol=0, atol=0)
    with pytest.raises(ModelError, match="has a speech head already"):
        add_speech_head(loaded, SpeechHeadConfig())


def test_a_voice_that_asks_a_missing_encoder_who_speaks_is_refused(base: str) -> None:
    with pytest.raises(ModelError, match="speaker_encoder is 1, but there are 1 encoders"):
        add_speech_head(_model({"path": base}), SpeechHeadConfig(speaker_encoder=1))


def test_ctc_pooling_round_trips_without_its_table(tmp_path: Path, base: str) -> None:
    model = _model({"path": base}, adapter="ctc_pooling")
    save_speech_lm(model, Tokenizer(), tmp_path / "saved")
    assert torch.equal(_logits(load_speech_lm(tmp_path / "saved")), _logits(model))


def test_a_gathered_state_can_be_saved_in_place_of_the_models_own(tmp_path: Path, base: str) -> None:
    model = _model({"path": base}, lora={"rank": 4, "layout": "fused"})
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}  # gathering undoes sharing
    expected = _logits(model)
    with torch.no_grad():
        model.adapter.projection.weight.zero_()
    save_speech_lm(model, Tokenizer(), tmp_path / "saved", state=state)
    assert torch.equal(_logits(load_speech_lm(tmp_path / "saved")), expected)


def test_saving_replaces_an_older_checkpoint_and_leaves_nothing_beside_it(tmp_path: Path, base: str) -> None:
    model = _model({"path": base})
    target = tmp_path / "saved"
    save_speech_lm(model, Tokenizer(), target)
    with torch.no_grad():
        model.adapter.projection.bias.add_(1.0)
    save_speech_lm(model, Tokenizer(), target)
    assert torch.equal(_logits(load_speech_lm(target)), _logits(model))
    assert {path.name for path in tmp_path.iterdir()} == {"saved", "base llm"}


def test_a_copy_is_verified_and_replaces_an_older_one(tmp_path: Path, base: str) -> None:
    model = _model({"path": base})
    save_speech_lm(model, Tokenizer(), tmp_path / "one")
    (tmp_path / "best").mkdir()
    copy_speech_lm(tmp_path / "one", tmp_path / "best")
    assert torch.equal(_logits(load_speech_lm(tmp_path / "best")), _logits(model))
    (tmp_path / "one" / "tokenizer.json").write_text("other")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: is damaged"):
        copy_speech_lm(tmp_path / "one", tmp_path / "best")
    assert torch.equal(_logits(load_speech_lm(tmp_path / "best")), _logits(model))


def test_a_failed_save_leaves_the_older_checkpoint_whole(tmp_path: Path, base: str) -> None:
    class Broken:
        def save(self, folder: Path) -> None:
            raise OSError("disk full")

    model = _model({"path": base})
    save_speech_lm(model, Tokenizer(), tmp_path / "saved")
    with pytest.raises(OSError, match="disk full"):
        save_speech_lm(model, Broken(), tmp_path / "saved")
    assert torch.equal(_logits(load_speech_lm(tmp_path / "saved")), _logits(model))
    assert {path.name for path in tmp_path.iterdir()} == {"saved", "base llm"}


def test_a_folder_that_holds_something_else_is_never_overwritten(tmp_path: Path, base: str) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        save_speech_lm(_model({"path": base}), Tokenizer(), tmp_path / "thesis")
    with pytest.raises(CheckpointError, match=r"no checksums\.json"):
        load_speech_lm(tmp_path / "thesis")


def test_a_model_made_by_hand_cannot_be_saved(tmp_path: Path, base: str) -> None:
    model = _model({"path": base})
    model.config = None
    with pytest.raises(CheckpointError, match="build_speech_lm"):
        save_speech_lm(model, Tokenizer(), tmp_path / "saved")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "llm/model.safetensors"])
def test_missing_and_damaged_files_are_named(tmp_path: Path, base: str, name: str) -> None:
    save_speech_lm(_model({"path": base}), Tokenizer(), tmp_path / "saved", include="all")
    path = tmp_path / "saved" / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=f"{name}: is damaged"):
        load_speech_lm(tmp_path / "saved")
    path.unlink()
    with pytest.raises(CheckpointError, match=f"{name}: is missing"):
        load_speech_lm(tmp_path / "saved")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "llm/pytorch_model.bin", "adapter.pt"])
def test_a_pickle_in_the_folder_is_refused_and_never_opened(tmp_path: Path, base: str, name: str) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return exec, ("raise SystemExit('code of the checkpoint was run')",)

    save_speech_lm(_model({"path": base}), Tokenizer(), tmp_path / "saved", include="all")
    (tmp_path / "saved" / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match=f"{name}: looks like a pickle"):
        load_speech_lm(tmp_path / "saved")


def test_another_version_is_refused_by_number(tmp_path: Path, base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sonant.models.checkpoint.VERSION", 2)
    save_speech_lm(_model({"path": base}), Tokenizer(), tmp_path / "saved")
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="version 2; this Sonant reads 'sonant-speech-lm' version 1"):
        load_speech_lm(tmp_path / "saved")


def test_weights_that_do_not_fit_the_configuration_are_named(tmp_path: Path, base: str) -> None:
    model = _model({"path": base})
    model.adapter.extra = nn.Linear(2, 2)
    save_speech_lm(model, Tokenizer(), tmp_path / "saved")
    with pytest.raises(CheckpointError, match=r"these differ: adapter\.extra\.bias, adapter\.extra\.weight"):
        load_speech_lm(tmp_path / "saved")

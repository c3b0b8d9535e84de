"""Parts: where they are found, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from sonant.errors import ModelError
from sonant.models.parts import (
    PartClass,
    architecture_of,
    load_part,
    quiet_transformers,
    read_part_config,
    resolve_part,
)

SETTINGS = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "subsampling_conv_channels": 4,
}
PART = PartClass(
    model_class=transformers.ParakeetEncoder,
    model_types=("parakeet_encoder", "parakeet_ctc"),
    layers_key="num_hidden_layers",
    fixed={"layerdrop": 0.0},
    nested_key="encoder_config",
    key_mapping={r"^encoder\.": ""},
)


def load(path: Path | None = None, *, num_layers: int | None = None, **settings: Any) -> Any:
    architecture = None if path else {**SETTINGS, **settings}
    return load_part(
        PART, path=str(path) if path else None, architecture=architecture, dtype="float32", num_layers=num_layers
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with quiet_transformers():
        load().save_pretrained(tmp_path)
    return tmp_path


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_hub_ids_and_folders_pass_through(tmp_path: Path) -> None:
    assert resolve_part("openai/whisper-tiny") == "openai/whisper-tiny"
    assert resolve_part(str(tmp_path)) == str(tmp_path)


def test_tiny_parts_are_found_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny" / "llm").mkdir(parents=True)
    (tmp_path / "tiny" / "encoder").mkdir()
    monkeypatch.setattr("importlib.resources.files", lambda package: tmp_path)
    assert resolve_part("tiny/llm") == str(tmp_path / "tiny" / "llm")
    with pytest.raises(ModelError, match=r"no tiny part is called 'tiny/lm'; there are: tiny/encoder, tiny/llm"):
        resolve_part("tiny/lm")


def test_without_any_tiny_part_the_error_says_how_to_make_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.resources.files", lambda package: tmp_path)
    with pytest.raises(ModelError, match="sonant world build"):
        resolve_part("tiny/llm")


def test_a_folder_gives_back_the_weights_that_were_saved(folder: Path) -> None:
    reference = transformers.ParakeetEncoder.from_pretrained(folder).state_dict()
    loaded = load(folder).state_dict()
    assert loaded.keys() == reference.keys()
    assert all(torch.equal(loaded[name], weight) for name, weight in reference.items())


def test_the_first_layers_can_be_loaded_alone(folder: Path) -> None:
    assert len(load(folder, num_layers=1).layers) == 1
    with pytest.raises(ModelError, match="num_layers=3: this part has 2 layers; give 1 to 2"):
        load(folder, num_layers=3)


def test_an_architecture_is_plain_json_and_builds_the_same_module(folder: Path) -> None:
    architecture = architecture_of(load(folder).config)
    assert json.loads(json.dumps(architecture)) == architecture
    again = load(**architecture)
    assert again.config.hidden_size == 16
    assert again.config.layerdrop == 0.0


def test_a_setting_that_does_not_exist_is_refused_with_its_nearest() -> None:
    with pytest.raises(ModelError, match="no setting 'hidden_sise'; did you mean 'hidden_size'"):
        load(hidden_sise=3)


def test_a_value_of_the_wrong_type_is_one_clear_error() -> None:
    with pytest.raises(ModelError, match=r"architecture: .*Field 'hidden_size' expected int"):
        load(hidden_size="wide")


def test_a_missing_folder_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no such folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load(tmp_path)


def test_an_unreachable_hub_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*arguments: Any, **options: Any) -> None:
        raise OSError("We couldn't connect to the hub\nto load the files")

    monkeypatch.setattr(transformers.PreTrainedConfig, "get_config_dict", offline)
    with pytest.raises(
        ModelError,
        match=r"owner/name: cannot read its config\.json \(We couldn't connect to the hub to load the files\)",
    ):
        read_part_config("owner/name")


def test_code_of_others_is_never_run(folder: Path) -> None:
    change_config(folder, auto_map={"AutoModel": "evil.Model"})
    with pytest.raises(ModelError, match="auto_map"):
        load(folder)


def test_a_model_of_another_kind_is_refused(folder: Path) -> None:
    change_config(folder, model_type="llama")
    with pytest.raises(ModelError, match="of type 'llama'; this kind reads parakeet_encoder or parakeet_ctc"):
        load(folder)


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(load().state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot load its safetensors"):
        load(folder)


def test_missing_weights_are_an_error_not_random_numbers(folder: Path) -> None:
    change_config(folder, num_hidden_layers=3)
    with pytest.raises(ModelError, match=r"lacks \d+ weights of ParakeetEncoder, such as layers\.2"):
        load(folder)


def test_weights_of_another_size_are_an_error(folder: Path) -> None:
    change_config(folder, intermediate_size=32)
    with pytest.raises(ModelError, match="cannot load its safetensors"):
        load(folder)


def test_settings_that_contradict_each_other_are_one_clear_error() -> None:
    with pytest.raises(ModelError, match="no such module can be built"):
        load(hidden_act="nope")

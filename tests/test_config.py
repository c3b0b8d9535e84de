from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from sonant.config import Config, load_config, merge, parse_override, save_config
from sonant.errors import ConfigError


class Small(Config):
    kind: Literal["small"] = "small"
    rank: int = 8


class Large(Config):
    kind: Literal["large"] = "large"
    width: float = 1.0


class Model(Config):
    adapter: Annotated[Small | Large, Field(discriminator="kind")] = Small()
    layers: list[Small] = Field(default=[Small(), Small(rank=4)])
    sources: dict[str, Large] = Field(default={})


class Recipe(Config):
    model: Model = Model()
    rate: float = 1e-4
    lora: Small | None = None


def test_later_files_and_overrides_win(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("rate: 1e-3\nmodel: {adapter: {kind: small, rank: 2}}\n")
    (tmp_path / "b.yaml").write_text("model: {adapter: {rank: 3}}\n")
    config = load_config(Recipe, [tmp_path / "a.yaml", tmp_path / "b.yaml"], overrides=["rate=0.5", "lora.rank=1"])
    assert config.rate == 0.5
    assert config.model.adapter == Small(rank=3)
    assert config.lora == Small(rank=1)


def test_yaml_reads_1e_3_as_a_number(tmp_path: Path) -> None:
    """PyYAML reads `1e-3` as text; the field's type makes a number of it."""
    (tmp_path / "a.yaml").write_text("rate: 1e-3\n")
    assert load_config(Recipe, [tmp_path / "a.yaml"]).rate == 0.001


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("modle.adapter=1", "unknown key 'modle' \\(did you mean 'model'\\?\\)"),
        ("lora.rnk=3", "unknown key 'lora.rnk' \\(did you mean 'rank'\\?\\)"),
        ("model.sources.a.widht=3", "did you mean 'width'"),
        ("rate=fast", "'rate': input should be a valid number.*got 'fast'"),
        ("model.adapter.kind=huge", "'model.adapter'"),
        ("model.layers.7.rank=1", "'layers' is a list of 2; its items are 0, 1"),
        ("rate", "write key=value"),
    ],
)
def test_a_mistake_is_told_with_its_key_value_and_a_likely_meaning(override: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("model: {layers: [{rank: 1}, {rank: 2}]}\n")
    with pytest.raises(ConfigError, match=message):
        load_config(Recipe, [tmp_path / "a.yaml"], overrides=[override])


def test_an_override_reaches_into_a_list() -> None:
    assert merge({"a": [{"x": 1, "y": 2}, 5]}, parse_override("a.0.x=3")) == {"a": [{"x": 3, "y": 2}, 5]}


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "a.yaml:1: not valid YAML"), ("- 1", "holds a list"), ("\xff", "a.yaml")]
)
def test_a_broken_file_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=message):
        load_config(Recipe, [tmp_path / "a.yaml"])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot read"):
        load_config(Recipe, [tmp_path / "none.yaml"])


def test_saved_settings_load_to_an_equal_object(tmp_path: Path) -> None:
    config = load_config(Recipe, [], overrides=["model.adapter={kind: large, width: 2}", "rate=1e-5"])
    save_config(config, tmp_path / "c.yaml")
    assert load_config(Recipe, [tmp_path / "c.yaml"]) == config


def test_a_path_takes_the_place_of_an_architecture_and_the_other_way_round() -> None:
    # Both stood there: the commands in the heads of the `faithful` presets were refused.
    made = {"llm": {"architecture": {"hidden_size": 8}, "dtype": "float32"}}
    assert merge(made, {"llm": {"path": "a"}}) == {"llm": {"path": "a", "dtype": "float32"}}
    assert merge({"llm": {"path": "a"}}, made) == made
    assert merge(made, {"llm": {"architecture": {"layers": 2}}})["llm"]["architecture"] == {
        "hidden_size": 8,
        "layers": 2,
    }
    assert merge(made, {"llm": {"path": None}})["llm"] == {**made["llm"], "path": None}


def test_a_mapping_of_another_kind_takes_the_place_of_the_one_before() -> None:
    """Its keys stayed: one's own adapter, laid over a preset, was refused for a key that only the preset's has."""
    preset = {"model": {"adapter": {"kind": "small", "rank": 2}}, "rate": 1}
    mine = {"model": {"adapter": {"kind": "large", "width": 3}}}
    assert merge(preset, mine) == {**mine, "rate": 1}
    assert merge(preset, {"model": {"adapter": {"kind": "small"}}}) == preset
    config = load_config(Recipe, [], overrides=["model.adapter={kind: small, rank: 3}", "model.adapter.kind=large"])
    assert config.model.adapter == Large()

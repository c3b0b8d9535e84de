import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SONANT_KEY", raising=False)


def test_show_prints_the_settings_in_the_order_of_their_weight(sonant: Run, model: Path, tmp_path: Path) -> None:
    config = tmp_path / "serve.yaml"
    config.write_text("port: 1\nmax_n: 2\nmax_rows: 3\n")
    shown = sonant("serve", model, "max_n=4", "wordings.speech=say:", "--config", config, "--port", 5, "--show")
    settings = yaml.safe_load(shown.out)
    assert (settings["port"], settings["max_n"], settings["max_rows"]) == (5, 4, 3)
    assert settings["wordings"]["speech"] == "say:"
    assert settings["host"] == "127.0.0.1"


def test_the_key_comes_from_a_file_or_the_environment_and_is_not_shown(
    sonant: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_file = tmp_path / "key.txt"
    key_file.write_text("sesame\n")
    for arguments in (("--key-file", key_file), ()):
        shown = sonant("serve", model, "--host", "0.0.0.0", *arguments, "--show")
        assert "sesame" not in shown.out
        assert yaml.safe_load(shown.out)["key"]
        monkeypatch.setenv("SONANT_KEY", "sesame")


def test_other_machines_are_not_served_without_a_key(sonant: Run, model: Path, tmp_path: Path) -> None:
    assert "no key is set" in sonant("serve", model, "--host", "0.0.0.0").complaint
    (tmp_path / "key.txt").write_text("\n")
    assert "the key is empty" in sonant("serve", model, "--key-file", tmp_path / "key.txt").complaint
    shown = sonant("serve", model, "--host", "0.0.0.0", "allow_open=true", "--show")
    assert yaml.safe_load(shown.out)["allow_open"]


def test_wordings_of_the_training_are_the_servers(sonant: Run, tmp_path: Path) -> None:
    (tmp_path / "provenance.json").write_text(json.dumps({"wordings": {"transcription": "repeat:", "speech": "say:"}}))
    shown = yaml.safe_load(sonant("serve", tmp_path, "wordings.speech=read:", "--show").out)
    assert (shown["wordings"]["transcription"], shown["wordings"]["speech"]) == ("repeat:", "read:")


def test_a_mistake_is_one_line(sonant: Run, tmp_path: Path) -> None:
    assert "did you mean 'max_rows'" in sonant("serve", tmp_path, "max_row=3").complaint
    assert "none.txt" in sonant("serve", tmp_path, "--key-file", tmp_path / "none.txt").complaint
    assert str(tmp_path) in sonant("serve", tmp_path / "none").complaint

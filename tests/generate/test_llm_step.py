"""An LLM over a cache says what it says at once: for every family, alone and beside others, with LoRA and without."""

import gc
import weakref
from typing import Any

import pytest
import torch
from small_speech_lm import move_lora, small_llm
from torch import Tensor

from sonant.generate.kv_cache import KVCache
from sonant.generate.llm_step import CachedLLM, LeanLLM, WholeLLM, cached_llm, sees_everything
from sonant.models.llm import final_hidden
from sonant.models.lora import LoraConfig, add_lora, lora_disabled, scaled_lora, wait_for_scale
from sonant.models.packing import Pack

LEAN = ["llama", "mistral", "qwen2", "qwen3"]
WHOLE = ["gemma", "gemma2", "gemma3_text", "granite", "cohere"]
BIAS: dict[str, Any] = {"attention_bias": True, "mlp_bias": True}


def llm_of(family: str, *, lora: bool = False, **changes: Any) -> Any:
    window = {"sliding_window": None} if family == "mistral" else {}
    llm = small_llm(family, **window, **changes)
    if lora:
        add_lora(llm, LoraConfig(rank=4))
        move_lora(llm)
    return llm


@torch.no_grad()
def read_in_parts(read: CachedLLM, embeds: Tensor, *sizes: int) -> Tensor:
    """(B, L, D) of what was read a few columns at a time."""
    cache, parts, start = KVCache(embeds.device, embeds.dtype), [], 0
    for size in sizes:
        cache.open(size, rows=len(embeds))
        positions = torch.arange(start, start + size).expand(len(embeds), -1)
        parts.append(read(embeds[:, start : start + size], positions, cache))
        start += size
    return torch.cat(parts, dim=1)


def inputs(llm: Any, *, rows: int = 3, length: int = 12) -> Tensor:
    return torch.randn(rows, length, llm.config.hidden_size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("lora", [False, True], ids=["plain", "LoRA"])
@pytest.mark.parametrize("family", LEAN + WHOLE)
def test_column_by_column_it_is_what_it_is_at_once(family: str, lora: bool) -> None:
    llm = llm_of(family, lora=lora)
    read, embeds = cached_llm(llm, lora=lora), inputs(llm)
    assert type(read) is (LeanLLM if family in LEAN else WholeLLM)
    with torch.no_grad():
        expected = final_hidden(llm, embeds)
    for way in (read, WholeLLM(llm)):
        torch.testing.assert_close(read_in_parts(way, embeds, 5, 1, 1, 1, 4), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("changes", [BIAS, {"num_key_value_heads": 4}, {"num_key_value_heads": 1}], ids=str)
def test_biases_and_any_number_of_key_heads_are_read(changes: dict[str, Any]) -> None:
    llm = llm_of("llama", **changes)
    for name, parameter in llm.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    embeds = inputs(llm)
    found = read_in_parts(cached_llm(llm, lora=True), embeds, 5, 1, 6)
    torch.testing.assert_close(found, final_hidden(llm, embeds).detach(), atol=1e-5, rtol=1e-4)


def test_without_lora_the_base_llm_reads() -> None:
    llm = llm_of("llama", lora=True)
    embeds = inputs(llm)
    with lora_disabled(llm), torch.no_grad():
        expected = final_hidden(llm, embeds)
    torch.testing.assert_close(
        read_in_parts(cached_llm(llm, lora=False), embeds, 11, 1), expected, atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("read_by", [LeanLLM, WholeLLM])
@torch.no_grad()
def test_what_is_hidden_from_a_row_changes_nothing_for_it(read_by: Any) -> None:
    """Row 0 has holes where row 1 has read something: padding of its prompt, then a guess that was wrong."""
    llm = llm_of("qwen3")
    read = LeanLLM(llm, lora=True) if read_by is LeanLLM else WholeLLM(llm)
    embeds, cache = inputs(llm, rows=2, length=9), KVCache(torch.device("cpu"), torch.float32)
    cache.open(5, rows=2)
    first = read(embeds[:, :5], torch.arange(5).expand(2, -1), cache, Pack.of(torch.tensor([3, 5]), 5))
    cache.hide(torch.arange(5) < torch.tensor([[3], [5]]))
    after = torch.tensor([[3], [5]])
    cache.open(2)
    second = read(embeds[:, 5:7], after + torch.arange(2), cache)
    cache.hide(torch.tensor([[True, False], [True, True]]))
    cache.open(1)
    third = read(embeds[:, 7:8], after + torch.tensor([[1], [2]]), cache)
    for row, places in enumerate([[0, 1, 2, 5, 7], [0, 1, 2, 3, 4, 5, 6, 7]]):
        alone = final_hidden(llm, embeds[row : row + 1, places])[0]
        read_in_all = torch.cat([first[row], second[row], third[row]])
        torch.testing.assert_close(read_in_all[places], alone, atol=1e-5, rtol=1e-4)


def test_what_is_not_known_for_certain_is_left_to_the_llm_itself() -> None:
    assert isinstance(cached_llm(small_llm("mistral", sliding_window=8), lora=True), WholeLLM)
    assert not sees_everything(small_llm("mistral", sliding_window=8))
    assert not sees_everything(small_llm("gemma3_text"))
    hooked = llm_of("llama")
    hooked.get_decoder().layers[0].mlp.register_forward_hook(lambda module, inputs, output: output * 2)
    assert isinstance(cached_llm(hooked, lora=True), WholeLLM)
    scaled = llm_of("llama", lora=True)
    shape = wait_for_scale(scaled)
    read, embeds = cached_llm(scaled, lora=True), inputs(scaled)
    with scaled_lora(scaled, torch.rand(3, shape.num_layers, shape.dim)), torch.no_grad():
        expected = final_hidden(scaled, embeds)
        torch.testing.assert_close(read_in_parts(read, embeds, 6, 1, 5), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.base_layer.weight.add_(0.1),
        lambda layer: layer.base_layer.weight.data.add_(0.1),
        lambda layer: setattr(layer.base_layer, "weight", torch.nn.Parameter(layer.base_layer.weight + 0.1)),
        lambda layer: setattr(layer.base_layer.weight, "data", layer.base_layer.weight + 0.1),
        lambda layer: layer.lora_B["default"].weight.add_(0.1),
        lambda layer: layer.scaling.update(default=3.0),
    ],
    ids=["in place", "untold", "a new parameter", "new data", "LoRA", "its scaling"],
)
@torch.no_grad()
def test_copies_of_weights_serve_again_until_the_weights_change(change: Any) -> None:
    llm = llm_of("llama", lora=True)
    embeds = inputs(llm)
    first, second = cached_llm(llm, lora=True), cached_llm(llm, lora=True)
    assert isinstance(first, LeanLLM)
    assert isinstance(second, LeanLLM)
    assert first.layers[0].qkv.copy is second.layers[0].qkv.copy is not None
    change(llm.get_decoder().layers[0].self_attn.k_proj)
    found = read_in_parts(cached_llm(llm, lora=True), embeds, 11, 1)
    torch.testing.assert_close(found, final_hidden(llm, embeds), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found, read_in_parts(first, embeds, 11, 1))


def test_after_a_step_of_fused_adamw_copies_are_made_anew() -> None:
    """It changes weights without counting their versions up: what is validated must be what was trained."""
    llm = llm_of("llama", lora=True)
    weight, embeds = llm.get_decoder().layers[0].self_attn.k_proj.lora_B["default"].weight, inputs(llm)
    cached_llm(llm, lora=True)
    weight.grad = torch.ones_like(weight)
    torch.optim.AdamW([weight], lr=0.1, fused=True).step()
    found = read_in_parts(cached_llm(llm, lora=True), embeds, 11, 1)
    torch.testing.assert_close(found, final_hidden(llm, embeds).detach(), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_large_llm_is_not_copied_and_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = llm_of("qwen2", lora=True)
    embeds = inputs(llm)
    copied = read_in_parts(cached_llm(llm, lora=True), embeds, 6, 1, 5)
    monkeypatch.setattr("sonant.generate.llm_step._MOST_COPIED", 0)
    large = cached_llm(llm, lora=True)
    assert isinstance(large, LeanLLM)
    assert large.layers[0].qkv.copy is None
    torch.testing.assert_close(read_in_parts(large, embeds, 6, 1, 5), copied, atol=1e-5, rtol=1e-4)


def test_copies_go_with_their_llm() -> None:
    llm = llm_of("llama")
    copy = weakref.ref(cached_llm(llm, lora=True).layers[0].qkv.copy)  # type: ignore[attr-defined]
    del llm
    gc.collect()
    assert copy() is None


def test_half_precision_is_read_by_the_llm_itself_and_stays_near_what_it_reads_at_once() -> None:
    llm = llm_of("llama", lora=True).to(torch.bfloat16)
    for name, parameter in llm.named_parameters():
        if "lora" in name:
            parameter.data = parameter.data.float()
    embeds, read = inputs(llm).bfloat16(), cached_llm(llm, lora=True)
    assert isinstance(read, WholeLLM)
    with torch.no_grad():
        whole = final_hidden(llm, embeds)
    found = read_in_parts(read, embeds, 6, 1, 5)
    assert found.dtype == torch.bfloat16
    assert float((found - whole).abs().max()) < 0.05 * float(whole.abs().max())

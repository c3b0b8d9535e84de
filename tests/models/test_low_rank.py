"""The faster LoRA layer gives what peft's own gives, and gradients that finite differences confirm."""

from typing import Any

import pytest
import torch
from peft.tuners import lora
from small_speech_lm import move_lora, small_llm
from torch import Tensor, nn

from sonant.models.lora import LoraConfig, add_lora, lora_disabled, lora_layers
from sonant.models.low_rank import LowRankLinear, _LowRank


def layer(*, bias: bool = True, dropout: float = 0.0, alpha: float = 6.0) -> tuple[LowRankLinear, Any]:
    """Returns our layer and peft's with the same weights."""
    both = []
    for use in (LowRankLinear, lora.Linear):
        torch.manual_seed(3)
        parent = nn.Sequential(nn.Linear(12, 20, bias=bias))
        add_lora(parent, LoraConfig(rank=4, alpha=alpha, dropout=dropout, targets=("0",)))
        move_lora(parent)
        parent[0].__class__ = use
        both.append(parent[0].eval())
    return both[0], both[1]


def results(module: Any, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    module.zero_grad()
    out = module(x)
    out.square().sum().backward()
    return [out.detach(), x.grad, *(p.grad.clone() for p in module.parameters() if p.grad is not None)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 12), (5, 12), (2, 3, 12)])
def test_outputs_and_gradients_are_those_of_peft(bias: bool, shape: tuple[int, ...]) -> None:
    ours, theirs = layer(bias=bias)
    x = torch.randn(shape)
    for found, expected in zip(results(ours, x), results(theirs, x), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_finite_differences_also_of_a_base_that_trains() -> None:
    shapes = [(3, 4), (5, 4), (5,), (2, 4), (5, 2)]
    parts = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(lambda *values: _LowRank.apply(*values, 1.5), parts)


def test_dropout_draws_as_peft_does() -> None:
    ours, theirs = layer(dropout=0.5)
    x = torch.randn(6, 12)
    found = []
    for module in (ours.train(), theirs.train()):
        torch.manual_seed(7)
        found.append(module(x))
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(found[0], ours.eval()(x))


def test_a_hook_that_changes_nothing_changes_no_bit() -> None:
    ours, _ = layer(alpha=5.0)  # 5 / 4 is no power of two: the order of products shows
    x = torch.randn(9, 12)
    plain = ours(x)
    ours.lora_B["default"].register_forward_hook(lambda module, inputs, output: output * 1.0)
    assert torch.equal(ours(x), plain)


def test_a_base_in_bfloat16_keeps_its_type_and_autocast_its_own() -> None:
    ours, theirs = layer()
    x = torch.randn(6, 12)
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(x).dtype == theirs(x).dtype == torch.bfloat16
    for module in (ours, theirs):
        module.base_layer.bfloat16()
    torch.testing.assert_close(ours(x.bfloat16()), theirs(x.bfloat16()), atol=2e-2, rtol=2e-2)
    assert ours(x.bfloat16()).dtype == torch.bfloat16


def test_every_lora_layer_of_a_language_model_is_ours_and_can_be_switched_off() -> None:
    llm = small_llm()
    token_ids = torch.arange(6)[None]
    before = llm(token_ids).logits
    add_lora(llm, LoraConfig(rank=4))
    move_lora(llm)
    assert {type(module) for module in lora_layers(llm)} == {LowRankLinear}
    assert not torch.allclose(llm(token_ids).logits, before)
    with lora_disabled(llm):
        assert torch.equal(llm(token_ids).logits, before)

"""Quantised LLMs: they compute with the rounded weights, LoRA learns beside them, and nothing else is done to them."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pydantic
import pytest
import torch
from small_speech_lm import move_lora, small_llm, small_speech_lm
from tiny_models import TOKENIZER, WAVLM, tiny_speech_lm
from torch import Tensor, nn

from sonant.chat.messages import Conversation, user
from sonant.errors import CheckpointError, ModelError
from sonant.generate.assistant import Assistant
from sonant.generate.llm_step import WholeLLM, cached_llm
from sonant.generate.sampling import GenerationConfig
from sonant.models import quantized
from sonant.models.build import SpeechLMConfig, build_speech_lm
from sonant.models.checkpoint import load_speech_lm, save_speech_lm
from sonant.models.freeze import FreezePlan, GroupConfig
from sonant.models.llm import LLMConfig, final_hidden, load_llm, token_embeddings
from sonant.models.lora import LoraConfig, add_lora, lora_layers, merge_lora
from sonant.models.packing import reads_packs
from sonant.models.quantized import quantized_bytes

needs_bitsandbytes = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes is an extra: pip install 'sonant[quantized]'"
)
TOKEN_IDS = torch.arange(40).view(4, 10)
HOWS = ["int8", "nf4"]


@pytest.fixture
def base(tmp_path: Path) -> str:
    small_llm(hidden_size=256, head_dim=64, intermediate_size=128).save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def _logits(llm: nn.Module) -> Tensor:
    return llm(input_ids=TOKEN_IDS, use_cache=False).logits


def _read_by_bitsandbytes(layer: Any) -> Tensor:
    """The weight (out, in) that a quantised layer stands for."""
    import bitsandbytes.functional as F

    weight = layer.weight
    if state := getattr(weight, "quant_state", None):
        return F.dequantize_4bit(weight.data, state)
    scale = layer.state.SCB if weight.SCB is None else weight.SCB
    return F.int8_vectorwise_dequant(weight.data, scale)


def _dequantized(llm: Any) -> Any:
    """A plain copy of a quantised `llm`, whose linear layers hold what the rounded weights stand for."""
    plain = load_llm(LLMConfig(path=llm.config._name_or_path))
    rounded = {n: m for n, m in llm.named_modules() if isinstance(m, nn.Linear) and type(m) is not nn.Linear}
    assert len(rounded) == 14, "all linear layers of two layers"
    with torch.no_grad():
        for name, layer in rounded.items():
            weight = plain.get_submodule(name).weight
            before = weight.clone()
            weight.copy_(_read_by_bitsandbytes(layer))
            assert 0 < (weight - before).norm() / before.norm() < 0.2
    return plain


def _with_lora(llm: Any) -> Any:
    torch.manual_seed(0)
    add_lora(llm, LoraConfig(rank=4))
    torch.manual_seed(1)
    move_lora(llm)
    return llm


def _told_quantized(llm: Any) -> Any:
    """`llm`, as who asks whether it is quantised finds it."""
    llm.is_quantized = True
    return llm


def test_without_bitsandbytes_the_extra_is_named(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'sonant\[quantized\]'"):
        load_llm(LLMConfig(path=base, quantize="nf4"))


def test_random_weights_are_not_rounded() -> None:
    with pytest.raises(pydantic.ValidationError, match="give path, or leave quantize out"):
        LLMConfig(architecture={"model_type": "llama"}, quantize="nf4")


def test_eight_bits_follow_the_model_to_another_device() -> None:
    """bitsandbytes takes them out of the weight at the first product; `.to` of the model did not find them there."""

    class State:
        CB: Tensor | None = None
        SCB: Tensor | None = None

    class Rounded(nn.Linear):
        state = State()

        def forward(self, x: Tensor) -> Tensor:
            if self.state.CB is not None:
                assert self.state.SCB is not None
                assert self.state.CB.device == self.state.SCB.device == x.device
            return x

    llm: Any = nn.Sequential(Rounded(2, 2))
    quantized.settle(llm)
    llm(torch.ones(2))  # nothing to bring yet
    llm[0].state.CB, llm[0].state.SCB = torch.ones(2, 2, dtype=torch.int8), torch.ones(2)
    assert llm.to("meta")(torch.ones(2, device="meta")).is_meta
    assert llm[0].state.CB.is_meta
    assert not any(parameter.requires_grad for parameter in llm.parameters())


def test_what_is_quantized_already_is_not_rounded_again(base: str) -> None:
    file = Path(base) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(ModelError, match="is quantised already"):
        load_llm(LLMConfig(path=base, quantize="int8"))


def test_lora_is_not_merged_into_rounded_weights() -> None:
    with pytest.raises(ModelError, match="LoRA cannot be merged: this LLM is quantised"):
        merge_lora(_told_quantized(_with_lora(small_llm())))


def test_a_plan_that_would_train_rounded_weights_is_refused_and_one_for_lora_is_not() -> None:
    model = small_speech_lm(lora=LoraConfig(rank=4))
    _told_quantized(model.llm)
    lora = GroupConfig(patterns=("llm.*lora_*",), lr=1.0)
    assert FreezePlan({"lora": lora}).apply(model)[0]["params"]
    with pytest.raises(ModelError, match=r"group 'all' cannot train .llm.*: this LLM is quantised"):
        FreezePlan({"lora": lora, "all": GroupConfig(patterns=("*",), lr=1.0)}).apply(model)


def test_a_checkpoint_that_would_hold_rounded_weights_is_refused(tmp_path: Path) -> None:
    model = tiny_speech_lm()  # random weights are held, since they come from nowhere else
    _told_quantized(model.llm)
    with pytest.raises(CheckpointError, match="kept by the path it came from"):
        save_speech_lm(model, TOKENIZER, tmp_path / "saved")
    assert not list(tmp_path.iterdir())


@needs_bitsandbytes
@pytest.mark.parametrize("how", HOWS)
@torch.no_grad()
def test_it_computes_with_what_the_rounded_weights_stand_for(base: str, how: Any) -> None:
    llm = load_llm(LLMConfig(path=base, quantize=how))
    plain, answering = _dequantized(llm), _logits(llm)
    training, expected = _logits(llm.train()), _logits(plain)
    most = float(expected.abs().max())
    assert (training - expected).abs().max() < 1e-5 * most
    # On a CPU, int8 rounds inputs only where nothing is trained.
    assert (answering - expected).abs().max() < (0.02 if how == "int8" else 1e-5) * most
    assert (expected - _logits(load_llm(LLMConfig(path=base)))).abs().max() > 1e-3 * most
    assert not any(parameter.requires_grad for parameter in llm.parameters())
    head = llm.get_output_embeddings()
    assert type(head) is nn.Linear
    bytes_of = quantized_bytes(plain, how)
    for name, layer in llm.named_modules():
        if isinstance(layer, nn.Linear) and layer is not head:
            state = getattr(layer.weight, "quant_state", None)
            scales = [] if state is None else [state.absmax, state.state2.absmax]
            assert bytes_of[f"{name}.weight"] == pytest.approx(sum(x.nbytes for x in [layer.weight, *scales]), abs=4)


@needs_bitsandbytes
@pytest.mark.parametrize("how", HOWS)
def test_lora_learns_as_beside_the_weights_so_read_which_stay_as_they_are(base: str, how: Any) -> None:
    llm = load_llm(LLMConfig(path=base, quantize=how))
    plain = _with_lora(_dequantized(llm)).train()
    kept = [layer.base_layer.weight.clone() for layer in lora_layers(_with_lora(llm).train())]
    for each in (llm, plain):
        nn.functional.cross_entropy(_logits(each)[:, :-1].flatten(0, 1), TOKEN_IDS[:, 1:].flatten()).backward()
    expected = dict(plain.named_parameters())
    learnt = {name: p.grad for name, p in llm.named_parameters() if p.requires_grad}
    assert len(learnt) == 2 * len(lora_layers(llm)) == 28
    for name, gradient in learnt.items():
        assert gradient is not None
        assert (gradient - expected[name].grad).abs().max() < 1e-3 * expected[name].grad.abs().max() > 0, name
    torch.optim.AdamW([p for p in llm.parameters() if p.requires_grad], lr=0.1).step()
    now = [layer.base_layer.weight for layer in lora_layers(llm)]
    assert len(now) == len(kept) == 14
    assert all(torch.equal(a, b) for a, b in zip(kept, now, strict=True))


@needs_bitsandbytes
@pytest.mark.parametrize("how", HOWS)
@torch.no_grad()
def test_it_is_read_by_its_own_forward_and_packed_only_as_exactly_as_alone(base: str, how: Any) -> None:
    llm = load_llm(LLMConfig(path=base, quantize=how))
    assert isinstance(cached_llm(llm, lora=False), WholeLLM)
    assert isinstance(cached_llm(_with_lora(llm), lora=True), WholeLLM)
    assert reads_packs(llm)
    rows, lengths = token_embeddings(llm, TOKEN_IDS), [10, 7, 1, 9]
    packed = final_hidden(llm, rows, torch.tensor(lengths))
    for row, length, found in zip(rows, lengths, packed, strict=True):
        torch.testing.assert_close(found[:length], final_hidden(llm, row[None, :length])[0], atol=1e-4, rtol=1e-4)


@needs_bitsandbytes
@pytest.mark.parametrize("how", HOWS)
def test_a_checkpoint_names_the_llm_and_says_the_same(tmp_path: Path, how: Any) -> None:
    tiny_speech_lm(llm={"hidden_size": 64, "intermediate_size": 64}, lora=None).llm.save_pretrained(tmp_path / "base")
    adapter = {"kind": "stack_mlp", "stack": 32}
    llm = {"path": str(tmp_path / "base"), "quantize": how}
    values = {"encoders": [WAVLM], "adapter": adapter, "llm": llm, "lora": {"rank": 2}}
    model = build_speech_lm(SpeechLMConfig.model_validate(values))
    move_lora(model)
    FreezePlan({"all": GroupConfig(patterns=("adapter.*", "*lora_*"), lr=1.0)}).apply(model)
    save_speech_lm(model, TOKENIZER, tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["parts"] == ["adapter", "encoders.0", "lora"]
    loaded = load_speech_lm(tmp_path / "saved")
    questions = [Conversation((user(text),)) for text in ("7 times 6?", "and what is it in words?")]
    config = GenerationConfig(max_new_tokens=12)
    said, again = (
        [reply.token_ids for reply in Assistant(each, TOKENIZER).replies(questions, config=config)]
        for each in (model.eval(), loaded)
    )
    assert said == again
    assert len(said[0]) > 1
    with pytest.raises(CheckpointError, match="kept by the path it came from"):
        save_speech_lm(model, TOKENIZER, tmp_path / "whole", include="all")

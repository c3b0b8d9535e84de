"""LoRA that grows: nothing changes at first, the new directions learn, and a checkpoint knows their number."""

from pathlib import Path

import pytest
import torch
from small_speech_lm import architecture, make_batch, move_lora

from sonant.chat.tokenizer import ChatTokenizer
from sonant.errors import ModelError
from sonant.models.build import SpeechLMConfig, build_speech_lm
from sonant.models.checkpoint import load_speech_lm, save_speech_lm
from sonant.models.lora import lora_layers
from sonant.models.lora_rank import widen_lora
from sonant.models.parts import resolve_part
from sonant.models.speech_lm import SpeechLM

TEXT = make_batch([(9, ()), (6, ())])


def model_with(lora: dict[str, object] | None) -> SpeechLM:
    torch.manual_seed(0)
    encoder = {
        "kind": "tiny",
        "architecture": {"dim": 32, "num_layers": 1, "num_heads": 2, "letter_layer": 1, "vocab_size": 50},
    }
    values = {"encoders": [encoder], "adapter": {"kind": "stack_mlp"}, "llm": {"architecture": architecture()}}
    model = build_speech_lm(SpeechLMConfig.model_validate(values | {"lora": lora}))
    move_lora(model)
    return model


def logits(model: SpeechLM) -> torch.Tensor:
    with torch.no_grad():
        return model.logits(model(TEXT).hidden)


def test_lora_of_a_higher_rank_computes_what_it_computed_before() -> None:
    model = model_with({"rank": 4, "alpha": 8})
    before = logits(model)
    widen_lora(model, 3)
    torch.testing.assert_close(logits(model), before)
    assert {tuple(layer.lora_A["default"].weight.shape) for layer in lora_layers(model.llm)} == {(7, 64), (7, 96)}
    assert isinstance(model.config, SpeechLMConfig)
    assert model.config.lora is not None
    assert (model.config.lora.rank, model.config.lora.alpha) == (7, 14.0)


def test_the_new_directions_learn_as_lora_does_its_second_matrix_first() -> None:
    model = model_with({"rank": 4, "alpha": 8})
    widen_lora(model, 3)
    model.logits(model(TEXT).hidden).square().sum().backward()
    layer = lora_layers(model.llm)[0]
    assert layer.lora_B["default"].weight.grad[:, 4:].abs().max() > 0
    assert layer.lora_A["default"].weight.grad[4:].abs().max() == 0
    assert layer.lora_A["default"].weight.grad[:4].abs().max() > 0


def test_a_checkpoint_keeps_the_rank(tmp_path: Path) -> None:
    model = model_with({"rank": 4, "alpha": 8})
    widen_lora(model, 3)
    save_speech_lm(model, ChatTokenizer.from_folder(resolve_part("tiny/llm")), tmp_path / "model")
    torch.testing.assert_close(logits(load_speech_lm(tmp_path / "model")), logits(model))


@pytest.mark.parametrize(("lora", "reason"), [(None, "no LoRA"), ({"layout": "fused"}, "share one A")])
def test_lora_that_cannot_grow_is_told(lora: dict[str, object] | None, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        widen_lora(model_with(lora), 3)

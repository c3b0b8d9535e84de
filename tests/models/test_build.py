"""One configuration makes one model."""

from typing import Any

import pydantic
import pytest
import torch
from small_speech_lm import architecture
from tiny_models import WHISPER
from torch import nn

from sonant.config import validate
from sonant.errors import ConfigError
from sonant.models import build
from sonant.models.build import SpeechLMConfig, build_speech_lm
from sonant.models.embedding_table import pad_vector
from sonant.models.lora import lora_layers


def _config(**changes: Any) -> SpeechLMConfig:
    values = {
        "encoders": [{"kind": "whisper", "architecture": WHISPER}],
        "adapter": {"kind": "stack_mlp", "stack": 2},
        "llm": {"architecture": architecture()},
    }
    return validate(SpeechLMConfig, values | changes, where="test")


def test_the_same_seed_builds_the_same_model_in_eval_mode() -> None:
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(build_speech_lm(_config(lora={"rank": 4})))
    one, other = (model.state_dict() for model in models)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not any(module.training for module in models[0].modules())
    assert len(lora_layers(models[0])) == 14


def test_lora_freezes_the_llm_and_nothing_else() -> None:
    model = build_speech_lm(_config(lora={"rank": 4}))
    frozen = {name.split(".")[0] for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert "llm" in frozen
    assert "adapter" not in frozen


@pytest.mark.parametrize(("family", "scale"), [("llama", 1.0), ("gemma", 8.0)])
def test_ctc_pooling_speaks_in_embeddings_as_the_llm_scales_them(family: str, scale: float) -> None:
    model = build_speech_lm(_config(adapter={"kind": "ctc_pooling"}, llm={"architecture": architecture(family)}))
    torch.testing.assert_close(model.adapter.table, model.llm.get_input_embeddings().weight.detach() * scale)
    assert not any("table" in name for name in model.state_dict())


@pytest.fixture
def own_ctc_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives every encoder a CTC head of its own."""
    load = build.load_encoder

    def with_head(config: Any) -> Any:
        encoder = load(config)
        encoder.ctc_head = nn.Linear(32, 51)
        return encoder

    monkeypatch.setattr(build, "load_encoder", with_head)


@pytest.mark.usefixtures("own_ctc_head")
@pytest.mark.parametrize("num_encoders", [1, 2])
def test_ctc_pooling_starts_from_the_first_encoders_own_ctc_head(num_encoders: int) -> None:
    whisper = {"kind": "whisper", "architecture": WHISPER}
    model = build_speech_lm(_config(adapter={"kind": "ctc_pooling"}, encoders=[whisper] * num_encoders))
    assert torch.equal(model.adapter.ctc_head.weight, model.encoders[0].ctc_head.weight)
    assert model.adapter.ctc_head.weight is not model.encoders[0].ctc_head.weight


@pytest.mark.usefixtures("own_ctc_head")
def test_a_ctc_head_is_not_borrowed_through_a_trunk() -> None:
    trunk = {"blocks": [{"num_layers": 0}]}
    for changes in ({"trunk": trunk}, {"head": "distance", "soft_embedding": False}):
        model = build_speech_lm(_config(adapter={"kind": "ctc_pooling", **changes}))
        assert model.adapter.needs_table
        assert model.adapter.table.shape == (50, 64)
        weights = dict(model.adapter.named_parameters()).get("ctc_head.weight")
        assert weights is None or not torch.equal(weights, model.encoders[0].ctc_head.weight)


@pytest.mark.parametrize(("changes", "pad"), [({"pad_id": 7}, 7), ({}, None)])
def test_the_projector_of_slots_knows_words_and_the_pad(changes: dict[str, Any], pad: int | None) -> None:
    block = {"num_layers": 1, "num_heads": 2, "ffn_dim": 16}
    adapter = {"kind": "conv_transformer", "blocks": [block], "keep_pads": 1, **changes}
    model = build_speech_lm(_config(adapter=adapter))
    table = model.llm.get_input_embeddings().weight.detach()
    assert torch.equal(model.adapter.known, torch.cat([table, pad_vector(table, pad)[None]]))
    plain = build_speech_lm(_config(adapter=adapter | {"keep_pads": None}))
    assert plain.adapter.known is None


def test_mistakes_in_the_configuration_are_named() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'lora.ranks' \(did you mean 'rank'\?\)"):
        _config(lora={"ranks": 4})
    with pytest.raises(ConfigError, match="'encoders'"):
        _config(encoders=[])
    with pytest.raises(pydantic.ValidationError):
        _config().lora = None  # type: ignore[misc]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_adapter_shares_the_embeddings_of_the_llm_wherever_both_go(dtype: torch.dtype) -> None:
    """A model on a GPU held them twice, and the second did not learn with the first."""
    model: Any = build_speech_lm(_config(adapter={"kind": "ctc_pooling", "head": "distance"}))
    weight = model.llm.get_input_embeddings().weight
    assert model.adapter.table.data_ptr() == weight.data_ptr()
    before, weight = model.adapter.table.clone(), model.to(dtype).llm.get_input_embeddings().weight
    assert model.adapter.table.data_ptr() == weight.data_ptr()
    assert torch.equal(model.adapter.table, before.to(dtype))
    assert not model.adapter.table.requires_grad

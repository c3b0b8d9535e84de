"""The freeze plan: first match wins, the unmatched is frozen, a pattern that does nothing is an error."""

import pytest
from small_encoders import ARCHITECTURES
from small_speech_lm import small_speech_lm
from torch import nn

from sonant.errors import ModelError
from sonant.models.encoders.base import EncoderConfig
from sonant.models.encoders.load import load_encoder
from sonant.models.freeze import FreezePlan, FreezeRow, GroupConfig
from sonant.models.lora import LoraConfig
from sonant.train.optim import name_groups


def _plan(**groups: tuple[list[str], float]) -> FreezePlan:
    return FreezePlan({name: GroupConfig(patterns=tuple(p), lr=lr) for name, (p, lr) in groups.items()})


def test_groups_train_at_their_rates_and_the_rest_is_frozen() -> None:
    model = small_speech_lm(lora=LoraConfig(rank=4))
    plan = _plan(slow=(["encoders.*"], 1e-5), fast=(["adapter.*", "*lora_*"], 1e-4))
    groups = plan.apply(model)
    assert [(g["name"], g["lr"]) for g in groups] == [("slow", 1e-5), ("fast", 1e-4)]
    chosen = {id(p) for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        expected = name.startswith(("encoders.", "adapter.")) or "lora_" in name
        assert parameter.requires_grad == (id(parameter) in chosen) == expected, name
    assert model.own_parts == {"encoders.0", "adapter", "lora"}


def test_the_first_match_wins_and_rate_zero_freezes_an_exception() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    groups = _plan(fixed=(["0.bias"], 0.0), first=(["0.*"], 1.0), rest=(["*"], 2.0)).apply(model)
    assert [[tuple(p.shape) for p in g["params"]] for g in groups] == [[(3, 2)], [(4, 3), (4,)]]
    assert not model[0].bias.requires_grad


def test_the_table_counts_tensors_and_parameters() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    table = _plan(first=(["0.*"], 0.5)).table(model)
    assert table == [FreezeRow("first", 2, 9, 0.5), FreezeRow("frozen", 2, 16, 0.0)]


def test_a_shared_parameter_is_counted_and_trained_once() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    plan = _plan(all=(["*"], 1.0))
    assert len(plan.apply(model)[0]["params"]) == 1
    assert plan.table(model)[0] == FreezeRow("all", 1, 4, 1.0)


def test_a_pattern_that_matches_nothing_is_an_error_with_close_names() -> None:
    model = small_speech_lm()
    with pytest.raises(ModelError, match=r"'adaptor\.\*' of group 'fast' matches no parameter; close names: .*adapter"):
        _plan(fast=(["adaptor.*"], 1e-4)).apply(model)
    with pytest.raises(ModelError, match=r"parts are adapter, encoders, llm"):
        _plan(fast=(["*lora_*"], 1e-4)).table(model)


def test_a_pattern_that_only_matches_what_is_taken_is_an_error() -> None:
    with pytest.raises(ModelError, match="earlier patterns took, such as 'adapter"):
        _plan(one=(["*"], 1.0), two=(["adapter.*"], 1.0)).apply(small_speech_lm())


def test_a_group_that_says_no_weight_decay_has_that_of_the_run() -> None:
    # `train.weight_decay` was never heard: each group said 0.0 unless it said otherwise.
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    plan = {"own": GroupConfig(patterns=("0.*",), lr=1.0, weight_decay=0.0), "none": GroupConfig(patterns=("*",), lr=1)}
    groups = FreezePlan(plan).apply(model)
    assert [group.weight_decay for group in name_groups(model, groups, weight_decay=0.1)] == [0.0, 0.1]


def test_a_table_of_sinusoids_is_trained_by_no_pattern() -> None:
    whisper = load_encoder(EncoderConfig(kind="whisper", architecture=ARCHITECTURES["whisper"]))
    assert isinstance(whisper, nn.Module)
    model = nn.ModuleDict({"encoder": whisper})
    _plan(all=(["encoder.*"], 1e-4)).apply(model)
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert [name.rpartition("model.")[2] for name in frozen] == ["embed_positions.weight"]

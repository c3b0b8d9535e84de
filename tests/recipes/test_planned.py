"""A recipe's stages as shapes: the same model, loss and batches as the real ones, without their numbers."""

import json
from pathlib import Path
from typing import Any

import pydantic
import pytest

from sonant.cli.train import RECIPES, load_recipe, preset_path
from sonant.config import load_config
from sonant.errors import ModelError, TrainingError
from sonant.recipes.planned import Planned, planned
from sonant.recipes.typical import Row
from sonant.train.cost import most_allocated, step_cost
from sonant.train.dry_run import GRADIENTS, dry_step
from sonant.train.fit import BATCH, Devices, Fit, Step, fit_step
from sonant.train.machine import Machine

MACHINE = Machine("a toy", flops_per_s=1e12, bf16_flops_per_s=2e12, bytes_per_s=1e11)
ROW = Row(clip_s=2.0, text_tokens=24, target_tokens=8)
LLM = {
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 64,
    "tie_word_embeddings": True,
}


def settings(recipe: str, *overrides: str) -> Any:
    return load_config(load_recipe(recipe)[0], [preset_path(recipe, "tiny")], overrides=list(overrides))


def small(*overrides: str, llm: Any = None) -> Any:
    """Tiny encoder, stacked frames, an LLM of two layers with LoRA: what it does does not hang on what it hears."""
    config = settings("voicetextblender", "kl_weight=0", *overrides)
    values = config.model_dump(mode="json")
    adapter = {"kind": "stack_mlp", "stack": 2, "hidden_dim": 32}
    values["model"] |= {"adapter": adapter, "llm": llm or {"architecture": LLM}}
    return type(config).model_validate(values)


def step_of(stage: Planned, *, micro_batches: int = 1) -> Step:
    return Step(stage.model, stage.loss, stage.batch(ROW, 3), stage.positions(ROW), micro_batches, stage.train)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_has_its_stages_and_fills_their_batches(recipe: str) -> None:
    stages = planned(settings(recipe))
    assert [stage.name for stage in stages] in (["train"], ["stage1", "stage2"])
    for stage in stages:
        assert all(p.requires_grad is False or p.dtype.is_floating_point for p in stage.model.parameters())
        rows = stage.num_rows(Row())
        most = stage.plan.token_budget // stage.positions(Row())
        assert rows == min(most, stage.plan.max_rows or most) >= 1
        assert stage.batch(Row(), rows).num_rows == rows


def test_a_stage_that_is_not_run_is_not_planned() -> None:
    assert [stage.name for stage in planned(settings("wavllm", "begin=runs/one/model"))] == ["stage2"]


def test_the_step_that_is_planned_is_the_one_that_is_trained() -> None:
    dry, real = planned(small())[0], planned(small(), real=True)[0]
    shapes = {name: (p.shape, p.dtype, p.requires_grad) for name, p in dry.model.named_parameters()}
    assert shapes == {name: (p.shape, p.dtype, p.requires_grad) for name, p in real.model.named_parameters()}
    step = dry_step(dry.model, dry.loss, [dry.batch(ROW, 3)])
    batch = real.batch(ROW, 3)
    assert sum(step.flops.values()) == step_cost(real.model, real.loss, batch, repeats=1).flops
    held = most_allocated(lambda: real.loss(real.model, batch).total.backward())
    assert step.peak_bytes == pytest.approx(held, rel=0.02)


def test_sharding_divides_what_trains_and_gathers_layers() -> None:
    def fit(count: int, *more: str) -> Fit:
        stage = planned(small("train.parallel=fsdp2", *more))[0]
        return fit_step(step_of(stage, micro_batches=8 // count), Devices(MACHINE, count))

    alone, among = fit(1), fit(8)
    assert alone.audio_s == among.audio_s == 8 * 3 * 2.0
    assert among.step_s < alone.step_s / 4
    whole, shared = ({part.part: part for part in each.parts} for each in (alone, among))
    assert shared["lora"].optimizer_bytes == whole["lora"].optimizer_bytes / 8 > 0
    averaged = {part.part: part for part in fit(1, "train.average_last=0.5").parts}
    assert averaged["lora"].optimizer_bytes == whole["lora"].optimizer_bytes * 3 / 2
    assert shared[GRADIENTS].held_bytes == pytest.approx(whole[GRADIENTS].held_bytes / 8, abs=1)
    assert shared[BATCH].held_bytes == whole[BATCH].held_bytes > 0
    assert alone.gathered_bytes == 0 < among.gathered_bytes


@pytest.mark.parametrize(("how", "bits"), [("int8", 8), ("nf4", 4.127)])
def test_a_quantized_llm_weighs_what_its_linear_layers_are_rounded_to(how: str, bits: float, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLM))
    plain: dict[str, Any] = {"path": str(tmp_path)}

    def fit(*overrides: str, llm: Any, count: int = 1) -> Fit:
        return fit_step(step_of(planned(small("save=trained", *overrides, llm=llm))[0]), Devices(MACHINE, count))

    rounded = plain | {"quantize": how}
    before, after = ({part.part: part for part in fit(llm=llm).parts} for llm in (plain, rounded))
    linear = 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32)
    saved = before["llm"].weight_bytes - after["llm"].weight_bytes
    assert saved == pytest.approx(linear * (32 - bits) / 8, rel=1e-3)
    assert before["llm"].parameters == after["llm"].parameters
    assert before["lora"] == after["lora"]
    with pytest.raises(TrainingError, match="cannot shard a quantised LLM"):
        fit("train.parallel=fsdp2", llm=rounded, count=8)
    with pytest.raises(pydantic.ValidationError, match="use save=trained"):
        small("save=all", llm=rounded)


def test_an_llm_of_unknown_shape_is_told() -> None:
    with pytest.raises(ModelError, match="nobody/llm: its shape is not known here"):
        planned(settings("voicetextblender", "model.llm.path=nobody/llm"))

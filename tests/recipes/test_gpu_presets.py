import itertools
from pathlib import Path
from typing import Any

import pytest

import sonant.recipes
from sonant.cli.train import RECIPES, load_recipe, preset_path
from sonant.config import load_config
from sonant.train.distributed import check_world_size

PRESETS = Path(sonant.recipes.__file__).parent / "presets"
BASES = [
    (recipe, path.stem)
    for recipe in RECIPES
    for path in sorted((PRESETS / recipe).glob("*.yaml"))
    if not path.stem.startswith("gpus")
]


def plans_of(settings: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        part["data"]["plan"] for part in (settings, *settings.values()) if isinstance(part, dict) and "data" in part
    ]


@pytest.mark.parametrize(("recipe", "base"), BASES)
def test_every_preset_can_be_trained_on_one_eight_and_sixty_four_gpus(recipe: str, base: str) -> None:
    cls, _ = load_recipe(recipe)
    names = ["tiny", base] if (recipe, base) == ("spectron", "tiny_faithful") else [base]  # itself a layer
    alone = load_config(cls, [preset_path(recipe, name) for name in names]).model_dump()
    for gpus in (1, 8, 64):
        layers = [preset_path(recipe, name) for name in (*names, f"gpus{gpus}")]
        settings = load_config(cls, layers).model_dump()
        train = settings["train"]
        assert (train["precision"], train["activation_checkpointing"]) == ("bf16", "layers")
        assert train["parallel"] == ("fsdp2" if gpus > 1 else "auto")
        before, plans = plans_of(alone), plans_of(settings)
        assert len(plans) == len(before) == (2 if "stage1" in settings else 1)
        for old, new in zip(before, plans, strict=True):
            check_world_size(gpus, micro_batches=new["micro_batches"])
            assert old["micro_batches"] <= new["micro_batches"] < old["micro_batches"] + gpus
            new |= {key: old[key] for key in ("micro_batches", "share_among")}
        train |= {key: alone["train"][key] for key in ("precision", "activation_checkpointing", "parallel")}
        assert settings == alone  # and nothing else


def test_there_are_presets_for_every_recipe() -> None:
    assert {recipe for recipe, _ in BASES} == set(RECIPES)
    for recipe, gpus in itertools.product(RECIPES, (1, 8, 64)):
        assert preset_path(recipe, f"gpus{gpus}").exists()

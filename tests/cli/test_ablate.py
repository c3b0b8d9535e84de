import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Run = Callable[..., Any]
GRID = {"manifests": ["test/qa.jsonl"], "arms": {"joint": [], "deaf": ["model.lora.rank=2"]}}


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(GRID, sort_keys=False))
    return tmp_path / "grid.yaml"


def finish(folder: Path, *, right: int) -> None:
    """What a trained and measured run leaves: ten spoken questions, `right` of them answered."""
    items = [
        {"id": str(i), "task": "qa", "reference": "x", "scores": {"exact_match": {"system": [float(i < right), 1.0]}}}
        for i in range(10)
    ]
    score = {"value": 10.0 * right, "low": 0.0, "high": 100.0, "n": 10, "signature": ""}
    result = {"n": 10, "has_audio": True, "headline": "exact_match", "higher_is_better": True, "normalizer": "basic"}
    result |= {"metrics": {"exact_match": {"system": score}}, "differences": {}}
    folder.mkdir(parents=True)
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (folder / "results.json").write_text(json.dumps({"qa": result}))


def test_finished_runs_are_only_compared(
    sonant: Run, grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sonant.evaluate.report.figures.FIGURES", {})  # drawing takes most of a page's time
    out = tmp_path / "out"
    finish(out / "joint-seed0", right=5)
    finish(out / "deaf-seed0", right=1)
    done = sonant("ablate", grid, "train.steps=3", "--out", out)
    assert done.status == 0
    assert "2 runs, 2 of them finished" in done.out
    assert "| deaf | **-40.0 [" in (out / "ablation.md").read_text()
    assert yaml.safe_load((out / "deaf-seed0" / "config.yaml").read_text())["train"]["steps"] == 3


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--seeds", "one"], "--seeds 'one': write whole numbers with commas, as 0,1,2"),
        (["--only", "deaf,blind"], "--only: no arm 'blind' in this grid; arms are joint, deaf"),
        (
            ["data.root=nowhere"],
            "nowhere/test/qa.jsonl: no such manifest; make it (sonant world make) or set data.root",
        ),
        (["train.stepz=3"], "unknown key 'train.stepz' (did you mean 'steps'?)"),
    ],
)
def test_a_wrong_grid_is_told_in_one_line(
    sonant: Run, grid: Path, tmp_path: Path, arguments: list[str], told: str
) -> None:
    assert told in sonant("ablate", grid, *arguments, "--out", tmp_path / "out").complaint


def test_a_grid_that_is_not_shipped_is_told_with_those_that_are(sonant: Run) -> None:
    assert "no preset 'huge'" in sonant("ablate", "huge").complaint

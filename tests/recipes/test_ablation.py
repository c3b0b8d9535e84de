"""The ablation runner: folders, what is skipped and what goes on, and the table against a bootstrap by hand."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.cli.train import preset_path
from sonant.config import load_config
from sonant.data.manifest import write
from sonant.errors import ConfigError, TrainingError
from sonant.evaluate.findings import TEXT, markdown
from sonant.recipes.ablation import Cell, Grid, make_cells, run_cells, summarize, write_findings
from sonant.synth.tts import SpeechRequest, load_synthesizer, speak

ARMS = {"joint": (), "louder": ("groups.adapter.lr=1e-2",)}
GRID = Grid(common=("train.steps=7",), manifests=("test/qa.jsonl",), arms=ARMS)
RIGHT = {"joint": (1, 0, 1, 0, 0, 0), "louder": (1, 1, 1, 1, 0, 0)}  # of six spoken questions


def cells_in(out: Path, *, seeds: tuple[int, ...] = (0,), settings: tuple[str, ...] = ()) -> list[Cell]:
    return make_cells(GRID, preset_path("voicetextblender", "tiny"), out=out, seeds=seeds, settings=settings)


def scripted(cell: Cell) -> None:
    """What training and measuring would leave; the second seed gets one answer more right."""
    marks = list(RIGHT[cell.arm])
    marks[5] = cell.seed
    items = [
        {"id": str(i), "task": "qa", "reference": "x", "scores": {"exact_match": {"system": [m, 1]}}}
        for i, m in enumerate(marks)
    ]
    items += [
        {
            "id": f"t{i}",
            "task": "text",
            "reference": "x",
            "scores": {"exact_match": {"after": [i, 1], "before": [1, 1]}},
        }
        for i in (0, 1)
    ]
    (cell.folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    score = {"value": 50.0, "low": 40.0, "high": 60.0, "n": 6, "signature": ""}
    results = {
        task: {"has_audio": audio, "headline": "exact_match", "higher_is_better": True, "n": n,
               "metrics": {"exact_match": {"system" if audio else "after": score}},
               "normalizer": "basic", "differences": {}}
        for task, audio, n in (("qa", True, 6), ("text", False, 2))
    }  # fmt: skip
    (cell.folder / "results.json").write_text(json.dumps(results))


def broken(cell: Cell) -> None:
    if cell.arm == "louder":
        raise TrainingError("the disk is full")
    scripted(cell)


def test_every_arm_and_seed_has_a_folder_with_its_settings(tmp_path: Path) -> None:
    cells = cells_in(tmp_path, seeds=(0, 4), settings=("kl_weight=3",))
    assert [cell.folder.name for cell in cells] == ["joint-seed0", "louder-seed0", "joint-seed4", "louder-seed4"]
    last = cells[-1].config
    assert (last.train.seed, last.data.plan.seed, last.train.steps, last.kl_weight) == (4, 4, 7, 3)
    assert last.groups["adapter"].lr == 1e-2
    assert last.train.resume


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    cells_in(tmp_path)
    with pytest.raises(ConfigError, match=r"joint-seed0/config\.yaml: this run has other settings"):
        cells_in(tmp_path, settings=("kl_weight=3",))


def test_a_grid_that_measures_on_other_rows_is_refused(tmp_path: Path) -> None:
    # Arms that were finished kept their six rows, and one of a hundred was compared with them as if paired.
    scripted(cells_in(tmp_path)[0])
    preset = preset_path("voicetextblender", "tiny")
    for changes in ({"limit": 6}, {"manifests": ("other/qa.jsonl",)}):
        with pytest.raises(ConfigError, match=r"joint-seed0/measured_on\.json: this run was measured on other rows"):
            make_cells(GRID.model_copy(update=changes), preset, out=tmp_path, seeds=(0,))
    assert cells_in(tmp_path)[0].finished


def test_what_is_finished_is_not_run_again_and_a_failure_does_not_stop_the_others(tmp_path: Path) -> None:
    cells = cells_in(tmp_path, seeds=(0, 1))
    scripted(cells[0])
    ended: list[str] = []
    with pytest.raises(TrainingError, match=r"2 of 3 runs failed: .*louder-seed.: the disk is full"):
        run_cells(cells, work=broken, done=lambda cell: ended.append(cell.folder.name))
    assert sorted(ended) == ["joint-seed1", "louder-seed0", "louder-seed1"]
    assert [cell.finished for cell in cells] == [True, False, True, False]


def test_the_means_over_seeds_and_the_paired_differences_are_those_of_a_bootstrap_by_hand(tmp_path: Path) -> None:
    cells = cells_in(tmp_path, seeds=(0, 1))
    for cell in cells:
        scripted(cell)
    found = summarize(cells)["louder"]["qa exact_match"]
    assert found.by_seed == pytest.approx((400 / 6, 500 / 6))
    assert found.mean.value == pytest.approx(75)
    assert found.change is not None
    assert found.change.value == pytest.approx(100 / 3)
    gain = np.array([0, 1, 0, 1, 0, 0])
    rng = np.random.default_rng(7)
    draws = 100 * np.array([rng.choice(gain, 6).mean() for _ in range(4000)])
    assert (found.change.low, found.change.high) == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=1e-6)
    assert summarize(cells)["joint"][TEXT].mean.value == -50


def test_an_arm_that_lacks_a_seed_is_left_out_and_without_the_base_there_is_no_table(tmp_path: Path) -> None:
    cells = cells_in(tmp_path, seeds=(0, 1))
    for cell in cells[:3]:
        scripted(cell)
    assert list(summarize(cells)) == ["joint"]
    with pytest.raises(TrainingError, match="joint, to which the others are compared, has not finished"):
        summarize([replace(cell, folder=tmp_path / cell.arm) for cell in cells])


def test_the_tables_the_plain_values_and_the_page_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sonant.evaluate.report.figures.FIGURES", {})  # drawing takes most of a page's time
    cells = cells_in(tmp_path, seeds=(0, 1))
    for cell in cells:
        scripted(cell)
    findings = summarize(cells)
    write_findings(findings, cells, out=tmp_path)
    text = (tmp_path / "ablation.md").read_text()
    assert text == markdown(findings)
    assert text.splitlines()[0] == f"| arm | qa exact_match | {TEXT} |"
    assert "| joint | 41.7 (33.3–50.0) | -50.0 (-50.0–-50.0) |" in text
    assert "| louder | +33.3 [+0.0, +66.7] | +0.0 [+0.0, +0.0] |" in text
    plain = json.loads((tmp_path / "ablation.json").read_text())
    assert plain["louder"]["qa exact_match"]["change"]["value"] == pytest.approx(100 / 3)
    page = (tmp_path / "report.html").read_text()
    assert "joint-seed0" in page
    assert "louder-seed0" in page


@pytest.mark.parametrize("name", ["tiny", "tiny_fast"])
def test_every_arm_of_a_shipped_grid_is_a_setting_of_its_own(name: str) -> None:
    grid = load_config(Grid, [preset_path("voicetextblender/ablations", name)])
    cells = [load_settings(overrides, common=grid.common) for overrides in grid.arms.values()]
    assert len(set(cells)) == len(grid.arms) >= 12


def load_settings(overrides: tuple[str, ...], *, common: tuple[str, ...]) -> str:
    from sonant.recipes.voicetextblender import VoiceTextBlender, in_arm

    config = load_config(VoiceTextBlender, [preset_path("voicetextblender", "tiny")], overrides=[*common, *overrides])
    return in_arm(config).model_copy(update={"arm": "joint"}).model_dump_json()


@pytest.mark.recipe
def test_two_arms_are_really_trained_and_measured_at_once(tmp_path: Path) -> None:
    texts = random.Random(0).sample(["what colour is the dog", "the owl eats meat", "where does the fox live"], 3)
    clips = speak(load_synthesizer("espeak"), [SpeechRequest(t, "en+f3") for t in texts], folder=tmp_path / "clips")
    heard = [
        Conversation(
            (user("repeat:", AudioPart(path=str(clip), transcript=text)), assistant(text)), id=text, task="asr"
        )
        for clip, text in zip(clips, texts, strict=True)
    ]
    written = [Conversation((user(f"repeat: {t}"), assistant(t)), id=t, task="text_repeat") for t in texts]
    write(tmp_path / "asr.jsonl", heard)
    write(tmp_path / "text.jsonl", written)
    common = (
        f"data.root={tmp_path}",
        "data.speech={asr: {manifest: asr.jsonl}}",
        *(f"data.speech.{task}=null" for task in ("translation", "spoken_qa", "mixed_modal", "multi_turn")),
        "data.text.text_only.manifest=text.jsonl",
        *("data.dev=[]", "train.metric=null", "train.validate_every=0", "train.steps=3"),
    )
    arms = {"joint": (), "speech_only": ("arm=speech_only",)}
    grid = Grid(common=common, manifests=("asr.jsonl", "text.jsonl"), arms=arms)
    cells = make_cells(grid, preset_path("voicetextblender", "tiny"), out=tmp_path / "out", seeds=(0,))
    run_cells(cells, jobs=2)
    findings = summarize(cells)
    assert set(findings["speech_only"]) == {"asr wer", TEXT}
    assert findings["joint"]["asr wer"].mean.value < 100
    again = [cell.folder / "results.json" for cell in cells]
    before = [path.stat().st_mtime_ns for path in again]
    run_cells(cells, jobs=2)
    assert [path.stat().st_mtime_ns for path in again] == before

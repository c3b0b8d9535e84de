import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stub_tool import COMET, LM_EVAL, install

from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.data.manifest import write

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SONANT_TOOLS", str(tmp_path / "tools"))


def make_run(folder: Path, *, system: str) -> Path:
    """A run of one spoken translation."""
    folder.mkdir()
    score = {"value": 0.0, "low": 0.0, "high": 0.0, "n": 1}
    how = {"has_audio": True, "headline": "exact_match", "higher_is_better": True, "normalizer": "basic"}
    metrics = {name: {"system": score} for name in ("exact_match", "chrf")}
    (folder / "results.json").write_text(json.dumps({"st": {**how, "metrics": metrics}}))
    clips = [{"path": "a.wav", "transcript": "a red hat"}]
    item = {"id": "1", "task": "st", "reference": "ein hut", "system": system, "cascade": "ein", "clips": clips}
    (folder / "items.jsonl").write_text(json.dumps(item) + "\n")
    return folder


def test_two_runs_are_compared(sonant: Run, tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", system="ein"), make_run(tmp_path / "b", system="ein Hut")
    outcome = sonant("evaluate", "--compare", a, b, "--out", tmp_path / "out")
    assert outcome.status == 0
    assert re.search(r"st\s.*exact_match.*\+100\.0 \[\+100\.0, \+100\.0\].*B is better", outcome.out)
    assert json.loads((tmp_path / "out" / "compare.json").read_text())["tasks"]["st"]["num_rows"] == 1
    assert "b against a" in (tmp_path / "out" / "compare.html").read_text()


def test_rows_of_one_speaker_are_drawn_together_where_it_is_asked(sonant: Run, tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", system="ein"), make_run(tmp_path / "b", system="ein Hut")
    for run in (a, b):
        item = json.loads((run / "items.jsonl").read_text())
        rows = [json.dumps(item | {"id": who, "speaker": who}) + "\n" for who in ("ann", "bob")]
        (run / "items.jsonl").write_text("".join(rows))
    outcome = sonant("evaluate", "--compare", a, b, "--together", "speaker", "--out", tmp_path / "out")
    assert outcome.status == 0
    assert "drawn by speaker" in outcome.out
    assert json.loads((tmp_path / "out" / "compare.json").read_text())["together"] == "speaker"
    assert "all of one speaker together" in (tmp_path / "out" / "compare.html").read_text()


def test_together_without_two_runs_is_refused(sonant: Run, tmp_path: Path) -> None:
    outcome = sonant("evaluate", tmp_path, "asr.jsonl", "--together", "speaker")
    assert outcome.status != 0
    assert "--together speaker says how two runs are compared; give --compare A B as well" in outcome.err


def test_a_run_is_scored_by_comet(sonant: Run, tmp_path: Path) -> None:
    install("comet", COMET)
    (tmp_path / "model.ckpt").write_text("")
    run = make_run(tmp_path / "a", system="ein hut")
    outcome = sonant("evaluate", run, "--with", "comet", "--checkpoint", tmp_path / "model.ckpt")
    assert outcome.status == 0
    assert re.search(r"st\s.*100\.0 ±0\.0.*50\.0 ±0\.0.*\+50\.0", outcome.out)
    assert "--checkpoint FILE" in sonant("evaluate", run, "--with", "comet").complaint


def test_text_skill_before_and_after_is_measured_by_lm_eval(sonant: Run, model: Path, tmp_path: Path) -> None:
    install("lm-eval", LM_EVAL)
    spoken = Conversation((user(AudioPart("a.wav")), assistant("x")), id="2")
    write(tmp_path / "skill.jsonl", [Conversation((user("a"), assistant("a")), id="1"), spoken])
    outcome = sonant("evaluate", model, tmp_path / "skill.jsonl", "--with", "lm-eval", "--out", tmp_path / "out")
    assert outcome.status == 0
    assert re.search(r"skill\s.*exact_match.*1\.0000.*1\.0000.*\+0\.0", outcome.out)
    assert "1 rows left out" in outcome.out
    told = json.loads((tmp_path / "out" / "lm-eval" / "after.json").read_text())
    assert not Path(told["model_args"]["pretrained"]).exists()  # the merged copy is gone


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--with", "bleurt"], "known are comet and lm-eval"),
        (["--with", "lm-eval"], "lm-eval is not set up; run 'sonant evaluate --with lm-eval --setup'"),
    ],
)
def test_what_cannot_be_done_is_one_line(sonant: Run, arguments: list[str], message: str) -> None:
    assert message in sonant("evaluate", *arguments).complaint


def test_lm_eval_needs_tasks(sonant: Run, tmp_path: Path) -> None:
    install("lm-eval", LM_EVAL)
    assert "and tasks" in sonant("evaluate", tmp_path, "--with", "lm-eval").complaint

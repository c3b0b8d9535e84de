import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sonant.chat.messages import Conversation, assistant, user
from sonant.data.manifest import write
from sonant.evaluate.normalize import basic

Run = Callable[..., Any]


def manifest(path: Path, pairs: dict[str, str]) -> Path:
    rows = [Conversation((user(q), assistant(a)), id=q, task="text_only") for q, a in pairs.items()]
    write(path, rows)
    return path


@pytest.fixture
def kept(tmp_path: Path, answers: dict[str, tuple[str, str]]) -> Path:
    """What the trained model answers is right."""
    return manifest(tmp_path / "kept.jsonl", {q: a for q, (a, _) in answers.items() if basic(a)})


@pytest.fixture
def lost(tmp_path: Path, answers: dict[str, tuple[str, str]]) -> Path:
    """What the LLM answered before its training is right, and another thing than it says now."""
    return manifest(tmp_path / "lost.jsonl", {q: b for q, (a, b) in answers.items() if basic(b) not in ("", basic(a))})


def test_scores_are_printed_and_written(sonant: Run, model: Path, kept: Path, tmp_path: Path) -> None:
    outcome = sonant("evaluate", model, kept, "--out", tmp_path / "out", "--recognizer", "")
    assert outcome.status == 0
    assert "text_only" in outcome.out
    scores = json.loads((tmp_path / "out" / "results.json").read_text())["text_only"]["metrics"]["exact_match"]
    assert scores["after"]["value"] == 100.0
    assert len((tmp_path / "out" / "items.jsonl").read_text().splitlines()) == len(kept.read_text().splitlines())


def test_max_forgetting_passes_where_nothing_was_lost(sonant: Run, model: Path, kept: Path, tmp_path: Path) -> None:
    options = ("--out", tmp_path / "out", "--recognizer", "", "--max-forgetting", "0")
    outcome = sonant("evaluate", model, kept, *options)
    assert outcome.status == 0
    assert "forgetting passed" in outcome.out


def test_max_forgetting_sets_status_1_where_text_skill_was_lost(
    sonant: Run, model: Path, lost: Path, tmp_path: Path
) -> None:
    options = ("--out", tmp_path / "out", "--recognizer", "")
    outcome = sonant("evaluate", model, lost, *options, "--max-forgetting", "99.5")
    assert outcome.status == 1
    assert "forgetting FAILED: worst is text_only, 100.0" in outcome.out
    assert sonant("evaluate", model, lost, *options, "--max-forgetting", "100").status == 0


def test_limit_takes_the_first_rows_of_a_task(sonant: Run, model: Path, kept: Path, tmp_path: Path) -> None:
    sonant("evaluate", model, kept, "--out", tmp_path / "out", "--recognizer", "", "--limit", "1")
    assert len((tmp_path / "out" / "items.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("not json\n", "not JSON"),
        ('{"messages": [{"role": "king", "content": "a"}]}\n', "messages[0].role: is 'king'"),
        ('{"messages": [{"role": "user", "content": "a"}]}\n', "has no reference"),
        ("", "holds no rows"),
        (None, "cannot read this manifest (Is a directory)"),
    ],
)
def test_an_unreadable_manifest_is_named(
    sonant: Run, model: Path, tmp_path: Path, content: str | None, told: str
) -> None:
    path = tmp_path / "test.jsonl"
    if content is None:
        path.mkdir()
    else:
        path.write_text(content)
    complaint = sonant("evaluate", model, path, "--out", tmp_path / "out", "--recognizer", "").complaint
    assert told in complaint
    assert str(path) in complaint


def test_a_missing_manifest_or_recogniser_is_named(sonant: Run, model: Path, kept: Path, tmp_path: Path) -> None:
    options = ("--out", tmp_path / "out")
    assert "none.jsonl" in sonant("evaluate", model, tmp_path / "none.jsonl", *options, "--recognizer", "").complaint
    assert "/none" in sonant("evaluate", model, kept, *options, "--recognizer", tmp_path / "none").complaint


def test_a_file_where_results_should_go_is_told(sonant: Run, model: Path, kept: Path) -> None:
    assert sonant("evaluate", model, kept, "--out", kept, "--recognizer", "").complaint.startswith(
        "sonant: File exists"
    )


def test_forgetting_cannot_be_told_without_rows_of_text(sonant: Run) -> None:
    from sonant.cli.evaluate import check_forgetting
    from sonant.errors import EvaluationError

    with pytest.raises(EvaluationError, match="--max-forgetting needs rows without audio"):
        check_forgetting({}, max_forgetting=1.0)


def test_a_report_is_written_into_the_first_run(sonant: Run, model: Path, kept: Path, tmp_path: Path) -> None:
    sonant("evaluate", model, kept, "--out", tmp_path / "out", "--recognizer", "")
    assert sonant("report", tmp_path / "out").out == f"written: {tmp_path / 'out' / 'report.html'}\n"
    assert "text_only" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("name", ["results.json", "items.jsonl", "log.jsonl"])
def test_a_report_of_something_else_is_refused_in_one_line(sonant: Run, tmp_path: Path, name: str) -> None:
    assert "neither results.json nor log.jsonl" in sonant("report", tmp_path).complaint
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 1.0, "task_loss": {}}\n')
    (tmp_path / name).write_text("{ cut")
    complaint = sonant("report", tmp_path).complaint
    assert str(tmp_path / name) in complaint

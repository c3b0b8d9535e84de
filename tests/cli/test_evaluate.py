import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sonant.chat.messages import Conversation, assistant, user
from sonant.data.manifest import write
from sonant.evaluate.normalize import basic

Run = Callable[..., Any]
SHORT = ("--recognizer", "", "--max-new-tokens", "16")  # as the answers of the fixture


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
    outcome = sonant("evaluate", model, kept, "--out", tmp_path / "out", *SHORT)
    assert outcome.status == 0
    assert "text_only" in outcome.out
    scores = json.loads((tmp_path / "out" / "results.json").read_text())["text_only"]["metrics"]["exact_match"]
    assert scores["after"]["value"] == 100.0
    assert len((tmp_path / "out" / "items.jsonl").read_text().splitlines()) == len(kept.read_text().splitlines())


def test_started_again_the_same_is_written(sonant: Run, model: Path, kept: Path, tmp_path: Path) -> None:
    written = []
    for _ in range(2):
        assert sonant("evaluate", model, kept, "--out", tmp_path / "out", *SHORT).status == 0
        written.append((tmp_path / "out" / "items.jsonl").read_text())
        pins = json.loads((tmp_path / "out" / "pins.json").read_text())
    assert written[0] == written[1]
    assert len(list((tmp_path / "out" / "answers").glob("*.json"))) == 2  # after, before
    assert set(pins["run"]) == {"sonant", "model", "generation"}


def test_a_suite_is_read_from_below_the_root(sonant: Run, model: Path, kept: Path, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(f"sets: {{a: {{manifest: {kept.name}, task: text_only}}, b: {{manifest: none}}}}")
    options = ("--suite", tmp_path / "my.yaml", "--root", kept.parent, "--out", tmp_path / "out", *SHORT)
    assert "set 'b' cannot be read" in sonant("evaluate", model, *options).complaint
    outcome = sonant("evaluate", model, *options, "--skip-missing")
    assert "my/a" in outcome.out
    assert "left out: b: " in outcome.out
    assert json.loads((tmp_path / "out" / "pins.json").read_text())["run"]["suite"]["name"] == "my"


def test_suites_are_listed_with_their_layout(sonant: Run) -> None:
    said = sonant("evaluate", "--suite", "list").out
    assert "ROOT/LibriSpeech/test-clean" in said
    assert "openbookqa" in said


def test_without_a_model_or_anything_to_ask_the_remedy_is_told(sonant: Run, model: Path) -> None:
    assert "give MODEL and MANIFESTS" in sonant("evaluate").complaint
    assert "give MODEL and MANIFESTS" in sonant("evaluate", model).complaint
    assert "no suite 'none'" in sonant("evaluate", model, "--suite", "none").complaint


def test_what_wording_costs_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    from sonant.chat.messages import AudioPart
    from sonant.cli.evaluate_tables import print_results
    from sonant.evaluate.marks import mark
    from sonant.evaluate.robustness import paraphrases
    from sonant.evaluate.run import score_task
    from sonant.evaluate.tasks import task_named
    from sonant.evaluate.wordings import Wording

    rows = [Conversation((user(AudioPart("a.wav")), assistant("red")), id="1")]
    how = task_named("spoken_qa")
    said = {("test", 1): "red", ("test", 2): "blue", ("train", 1): "red"}
    marks = {Wording(split, n, "?"): mark(rows, {"system": [a]}, how) for (split, n), a in said.items()}  # type: ignore[arg-type]
    result = replace(score_task("qa", rows, {"system": ["red"]}), paraphrases=paraphrases(marks, how))
    print_results({"qa": result})
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "+50.0" in line]
    cells = [cell.split(" ")[1] for cell in line.split("│")[2:8]]
    assert cells == ["exact_match", "2", "50.0", "0.0", "-50.0", "100.0"]


def test_max_forgetting_passes_where_nothing_was_lost(sonant: Run, model: Path, kept: Path, tmp_path: Path) -> None:
    options = ("--out", tmp_path / "out", *SHORT, "--max-forgetting", "0")
    outcome = sonant("evaluate", model, kept, *options)
    assert outcome.status == 0
    assert "forgetting passed" in outcome.out


def test_max_forgetting_sets_status_1_where_text_skill_was_lost(
    sonant: Run, model: Path, lost: Path, tmp_path: Path
) -> None:
    options = ("--out", tmp_path / "out", *SHORT)
    outcome = sonant("evaluate", model, lost, *options, "--max-forgetting", "99.5")
    assert outcome.status == 1
    assert "forgetting FAILED: worst is text_only, 100.0" in outcome.out
    assert sonant("evaluate", model, lost, *options, "--max-forgetting", "100").status == 0


def test_limit_takes_the_first_rows_of_a_task(sonant: Run, model: Path, kept: Path, tmp_path: Path) -> None:
    sonant("evaluate", model, kept, "--out", tmp_path / "out", *SHORT, "--limit", "1")
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
    complaint = sonant("evaluate", model, path, "--out", tmp_path / "out", *SHORT).complaint
    assert told in complaint
    assert str(path) in complaint


def test_a_missing_manifest_or_recogniser_is_named(sonant: Run, model: Path, kept: Path, tmp_path: Path) -> None:
    options = ("--out", tmp_path / "out")
    assert "none.jsonl" in sonant("evaluate", model, tmp_path / "none.jsonl", *options, *SHORT).complaint
    assert "/none" in sonant("evaluate", model, kept, *options, "--recognizer", tmp_path / "none").complaint


def test_a_file_where_results_should_go_is_told(sonant: Run, model: Path, kept: Path) -> None:
    assert sonant("evaluate", model, kept, "--out", kept, *SHORT).complaint.startswith("sonant: File exists")


def test_forgetting_cannot_be_told_without_rows_of_text(sonant: Run) -> None:
    from sonant.cli.evaluate import check_forgetting
    from sonant.errors import EvaluationError

    with pytest.raises(EvaluationError, match="--max-forgetting needs rows without audio"):
        check_forgetting({}, max_forgetting=1.0)


def test_a_report_is_written_into_the_first_run(
    sonant: Run, model: Path, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sonant.evaluate.report.figures.FIGURES", {})  # drawing takes most of a page's time
    sonant("evaluate", model, kept, "--out", tmp_path / "out", *SHORT)
    assert sonant("report", tmp_path / "out").out == f"written: {tmp_path / 'out' / 'report.html'}\n"
    assert "text_only" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("name", ["results.json", "items.jsonl", "log.jsonl"])
def test_a_report_of_something_else_is_refused_in_one_line(sonant: Run, tmp_path: Path, name: str) -> None:
    assert "neither results.json nor log.jsonl" in sonant("report", tmp_path).complaint
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 1.0, "task_loss": {}}\n')
    (tmp_path / name).write_text("{ cut")
    complaint = sonant("report", tmp_path).complaint
    assert str(tmp_path / name) in complaint

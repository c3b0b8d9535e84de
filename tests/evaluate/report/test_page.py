import json
import re
from pathlib import Path
from typing import Any

import pytest

from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.errors import EvaluationError
from sonant.evaluate.judge import Verdict, load_rubric, summarize
from sonant.evaluate.report.figures import FIGURES
from sonant.evaluate.report.page import write_report
from sonant.evaluate.run import score_task, write_results
from sonant.evaluate.run_folder import read_run

HOSTILE = '$\\frac{$ --> <b><script>alert("1")</script><img src="//evil.example" onerror=a(2)>'
CLIP = AudioPart(path="a.wav", transcript="blue")


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that look at text alone: drawing takes most of a page's time."""
    monkeypatch.setattr("sonant.evaluate.report.figures.FIGURES", {})


def make_run(folder: Path, *, task: str = "spoken_qa", answer: str = "red", note: str = "A note.") -> Path:
    """A run of one spoken and one written task, with two steps of log."""
    folder.mkdir()
    spoken = [Conversation((user(CLIP), assistant("blue")), id=f"s{i}", task=task) for i in range(4)]
    written = [Conversation((user("red"), assistant("red")), id=f"t{i}", task="text_only") for i in range(4)]
    heard = {"system": ["blue"] * 3 + [answer], "cascade": ["blue"] * 2 + [answer] * 2, "text_oracle": ["blue"] * 4}
    text = {"after": ["red", "red", "blue", "red"], "before": ["red"] * 4}
    results = {task: score_task(task, spoken, heard), "text_only": score_task("text_only", written, text)}
    write_results(results, folder / "results.json")
    items = [
        {"id": row.id, "task": row.task, "reference": row.reference} | {arm: a[i] for arm, a in arms.items()}
        for rows, arms in ((spoken, heard), (written, text))
        for i, row in enumerate(rows)
    ]
    write_lines(folder / "items.jsonl", items)
    losses = [{"step": s, "loss": 1.0 / s, "task_loss": {task: 1.0 / s}, "shares": {task: 1.0}} for s in (1, 2)]
    write_lines(folder / "log.jsonl", [*losses, {"step": 2, "scores": {"composite": 50.0}}])
    (folder / "report_notes.txt").write_text(note + "\n")
    return folder


def write_lines(path: Path, values: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run and its report, pictures included."""
    run = make_run(tmp_path_factory.mktemp("drawn") / "run")
    return run, write_report([run], out=run.with_name("report.html")).read_text()


def test_the_report_loads_nothing_and_runs_nothing(drawn: tuple[Path, str]) -> None:
    html = drawn[1]
    assert "<svg" in html
    assert not re.findall(r"<(script|link|iframe|object|embed|img|base)\b", html, re.IGNORECASE)
    targets = re.findall(r"\b(?:src|href|action)\s*=\s*[\"']?([^\"'>]*)|url\(\s*[\"']?([^)]*)", html, re.IGNORECASE)
    assert all("".join(target).startswith("#") for target in targets)
    assert not re.findall(r"@import|<[^>]*\son\w+\s*=", html, re.IGNORECASE)


@pytest.mark.usefixtures("no_pictures")
def test_every_task_stands_in_it_beside_cascade_and_oracle(tmp_path: Path) -> None:
    html = write_report([make_run(tmp_path / "run")], out=tmp_path / "deep" / "report.html").read_text()
    rows = re.findall(r"<tr>(?:<td.*?)</tr>", html, re.DOTALL)
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in rows]
    spoken, differing = [row for row in cells if row[0] == "spoken_qa"]
    assert spoken[1:3] == ["4", "exact_match"]
    assert [cell.split()[0] for cell in spoken[3:]] == ["75.0", "50.0", "100.0", "+25.0"]
    assert differing == ["spoken_qa", "4", "1", "1", "0", "0"]
    text, _ = [row for row in cells if row[0] == "text_only"]
    assert [cell.split()[0] for cell in text[3:]] == ["100.0", "75.0", "-25.0"]
    assert "A note." in html


@pytest.mark.usefixtures("no_pictures")
def test_two_runs_are_compared(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "joint"), make_run(tmp_path / "speech_only", answer="green")]
    html = write_report(runs, out=tmp_path / "report.html").read_text()
    assert "<title>Sonant: joint, speech_only</title>" in html
    assert [html.count(f"<h2>{name}: scores</h2>") for name in ("joint", "speech_only")] == [1, 1]
    assert html.count("A note.") == 1


@pytest.mark.usefixtures("no_pictures")
def test_two_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    # In the pictures one of them hid the other.
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    runs = [make_run(tmp_path / "a" / "eval"), make_run(tmp_path / "b" / "eval", answer="green")]
    html = write_report(runs, out=tmp_path / "report.html").read_text()
    assert [html.count(f"<h2>{run}: scores</h2>") for run in runs] == [1, 1]


def test_what_a_model_or_a_manifest_says_stays_text_and_a_task_may_have_any_name(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", task=HOSTILE, answer=HOSTILE, note=HOSTILE)
    html = write_report([run], out=tmp_path / "report.html").read_text()
    assert "&lt;script&gt;" in html
    assert not re.findall(r"<script|<img|<b>", html)


def test_steps_without_a_finite_loss_are_left_out_of_the_curve(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with (run / "log.jsonl").open("a") as file:
        file.write('{"step": 3, "loss": null, "task_loss": {"spoken_qa": null, "asr": null}, "shares": {}}\n')
    assert "Loss per task" in write_report([run], out=tmp_path / "report.html").read_text()


def test_a_run_with_a_log_alone_shows_its_losses(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for name in ("results.json", "items.jsonl", "report_notes.txt"):
        (run / name).unlink()
    html = write_report([run], out=tmp_path / "report.html").read_text()
    assert "Loss per task" in html
    assert "Headline score" not in html


def score(value: float) -> dict[str, Any]:
    return {"value": value, "low": value - 1, "high": value + 1, "n": 4, "signature": ""}


def change_results(run: Path, **changes: Any) -> None:
    """Adds to what results.json says of spoken_qa, and copies the set under new names."""
    path = run / "results.json"
    results = json.loads(path.read_text())
    results |= {name: {**results["spoken_qa"], **change} for name, change in changes.items()}
    path.write_text(json.dumps(results))


def test_a_benchmark_read_aloud_is_drawn_against_how_much_of_it_is_spoken(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    spoken = {"exact_match": {"system": score(80), "cascade": score(70), "text_oracle": score(91)}}
    written = {"exact_match": {"after": score(90), "before": score(91)}}
    change_results(
        run,
        gsm_0={"series": {"of": "gsm", "share": 0}, "has_audio": False, "metrics": written, "differences": {}},
        gsm_100={"series": {"of": "gsm", "share": 100}, "metrics": spoken, "differences": {}},
    )
    (drawn,) = [axes for axes in drawn_axes(run) if axes.get_title() == "gsm"]
    lines = {c.get_label(): [tuple(map(float, p)) for p in c.lines[0].get_xydata()] for c in drawn.containers}
    assert lines == {
        "run: system": [(0, 90), (100, 80)],
        "run: cascade": [(0, 91), (100, 70)],
        "run: text oracle": [(0, 91), (100, 91)],
    }


def drawn_axes(run: Path) -> list[Any]:
    from matplotlib.figure import Figure

    figure = Figure()
    assert FIGURES[next(caption for caption in FIGURES if "read aloud" in caption)](figure, [read_run(run)])
    return figure.axes


def test_every_wording_is_drawn_and_the_worst_is_in_the_table(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    held_out = {"wordings": ["a", "b"], "scores": {"exact_match": {"system": [score(90), score(60)]}}}
    held_out |= {"mean": {"exact_match": {"system": score(75)}}, "worst": {"exact_match": {"system": score(60)}}}
    found = {"test": held_out, "train": None, "seen_minus_unseen": {}}
    change_results(run, spoken_qa={"paraphrases": found})
    html = write_report([run], out=tmp_path / "report.html").read_text()
    assert "Each dot is one wording" in html
    row = "".join(html.partition("Asked in other words")[2].partition("</table>")[0].split("<tr>")[2:])
    cells = re.findall(r"<td>(.*?)</td>", row)
    assert cells == ["spoken_qa", "exact_match", "2", "75.0 [74.0, 76.0]", "60.0 [59.0, 61.0]", "–", "–", "–"]


@pytest.mark.usefixtures("no_pictures")
def test_verdicts_that_failed_stand_beside_the_score(tmp_path: Path) -> None:
    rubric = load_rubric("grade")
    few = summarize([Verdict(4.0)] * 39 + [Verdict(None, failure="unparsable")], rubric=rubric)
    many = summarize([Verdict(4.0), Verdict(None, failure="late")], rubric=rubric)
    run = make_run(tmp_path / "run")
    change_results(run, spoken_qa={"judged": {"": {"system": few.to_json()}, "test 1": {"cascade": many.to_json()}}})
    html = write_report([run], out=tmp_path / "report.html").read_text()
    assert "<li>spoken_qa · system: 39 judged, 1 failed; 1 x unparsable</li>" in html
    assert (
        "<li>spoken_qa · test 1 · cascade: 1 judged, 1 failed; 1 x late; no score, as more than 5% failed</li>" in html
    )


def test_the_same_runs_make_the_same_report(drawn: tuple[Path, str], tmp_path: Path) -> None:
    assert write_report([drawn[0]], out=tmp_path / "again.html").read_text() == drawn[1]


def test_a_folder_that_is_no_run_or_a_cut_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"neither results\.json nor log\.jsonl"):
        read_run(tmp_path)
    run = make_run(tmp_path / "run")
    (run / "items.jsonl").write_text('{"id": ')
    with pytest.raises(EvaluationError, match=r"items\.jsonl"):
        read_run(run)

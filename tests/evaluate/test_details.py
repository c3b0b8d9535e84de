"""What stands beside scores: baselines, likelihoods, kinds of instruction, own wordings, chains of thought."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.errors import EvaluationError
from sonant.evaluate.arms import Examinee
from sonant.evaluate.compare import compare
from sonant.evaluate.metrics.text import BLEU, EXACT, WER
from sonant.evaluate.report.page import write_report
from sonant.evaluate.run import EvalSet, TaskResult, run_sets, score_task, write_results
from sonant.evaluate.tasks import Task, task_named
from sonant.generate.assistant import Reply

CLIP = AudioPart(path="a.wav", transcript="blue")


class Ears:
    """Answers "heard" to audio and "read" to text; the base LLM says "base"."""

    def replies(self, prompts: Sequence[Conversation], *, lora: bool, **_: Any) -> list[Reply]:
        said = ["base" if not lora else "heard" if p.audio_parts else f"read {p.messages[-1].text}" for p in prompts]
        return [Reply(text, (), True) for text in said]


def spoken(reference: str, id: str, **extra: Any) -> Conversation:
    return Conversation((user("say:", CLIP), assistant(reference)), id=id, extra=extra)


def items(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]


def run(rows: Sequence[Conversation], how: Task, folder: Path, **options: Any) -> TaskResult:
    each = EvalSet("set", tuple(rows), how, **options)
    return run_sets([each], Examinee(Ears()), folder)["set"]  # type: ignore[arg-type]


def test_baselines_are_the_trained_model_without_audio_and_with_the_transcript(tmp_path: Path) -> None:
    result = run([spoken("heard", "1")], Task((EXACT,)), tmp_path, baselines=True)
    (item,) = items(tmp_path)
    assert [item[arm] for arm in ("system", "no_audio", "transcript", "text_oracle")] == [
        "heard", "read say:", "read say: blue", "base",
    ]  # fmt: skip
    assert result.differences["system minus no_audio"].value == 100.0
    assert result.differences["system minus transcript"].value == 100.0


def test_baselines_are_asked_only_where_they_are_wanted(tmp_path: Path) -> None:
    rows = [spoken("heard", "1")]
    assert "no_audio" not in run(rows, Task((EXACT,)), tmp_path).scores["exact_match"]
    each = EvalSet("set", tuple(rows), Task((EXACT,)))
    found = run_sets([each], Examinee(Ears(), baselines=True), tmp_path)["set"]  # type: ignore[arg-type]
    assert "no_audio" in found.scores["exact_match"]
    written = EvalSet("text", (Conversation((user("a"), assistant("b")), id="1"),), Task((EXACT,)), baselines=True)
    assert run_sets([written], Examinee(Ears()), tmp_path)["text"].scores["exact_match"].keys() == {"after", "before"}  # type: ignore[arg-type]


PAIRS = [
    spoken(said, str(i), pair=pair)
    for i, (said, pair) in enumerate(zip(("yes", "yes", "no", "no"), "aabb", strict=True))
]


@pytest.fixture
def likely(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Likelihoods that put one of two same pairs below one of the others; the base LLM cannot tell."""
    asked: list[str] = []

    def choice_scores(model: object, prompts: Sequence[Conversation], choices: Any, *, lora: bool, **_: Any) -> Any:
        asked.append("lora" if lora else "base")
        yes = [-1.0, -3.0, -2.0, -4.0] if lora else [-1.0] * 4
        return np.array([[score, -2.5] for score in yes])

    monkeypatch.setattr("sonant.evaluate.arms.choice_scores", choice_scores)
    return asked


def test_choices_give_an_equal_error_rate_for_every_arm_with_a_model(tmp_path: Path, likely: list[str]) -> None:
    result = run(PAIRS, task_named("verification"), tmp_path, baselines=True)
    assert {arm: score.value for arm, score in result.scores["eer"].items()} == {
        "system": 50.0, "text_oracle": 50.0, "no_audio": 50.0, "transcript": 50.0,
    }  # fmt: skip
    assert result.scores["choice_accuracy"]["system"].value == 50.0  # yes, no, yes, no
    assert result.scores["order_consistency"]["system"].value == 100.0
    assert (result.higher["eer"], result.higher["choice_accuracy"]) == (False, True)
    assert items(tmp_path)[1]["choices"]["system"] == [-3.0, -2.5]
    assert result.pins["choices"] == ("yes", "no")
    assert likely == ["lora", "base", "lora", "lora"]


def test_likelihoods_are_kept_as_answers_are(tmp_path: Path, likely: list[str]) -> None:
    each = EvalSet("set", tuple(PAIRS), task_named("verification"))
    for _ in range(2):
        run_sets([each], Examinee(Ears(), pins={"model": "1"}), tmp_path)  # type: ignore[arg-type]
    assert len(likely) == 2


def test_two_runs_are_compared_by_their_equal_error_rates(tmp_path: Path, likely: list[str]) -> None:
    for name in ("a", "b"):
        run(PAIRS, task_named("verification"), tmp_path / name)
    found = compare(tmp_path / "a", tmp_path / "b").tasks["set"].differences["eer"]
    assert (found.a.value, found.change.value, found.higher_is_better) == (50.0, 0.0, False)


def combined(reply_wording: str, id: str) -> Conversation:
    told = [
        {"kind": "transcription", "intro": "words", "reference": "blue"},
        {"kind": "label", "intro": "sound", "reference": "sad", "labels": ["sad", "calm"]},
    ]
    return spoken("words blue sound sad", id, instructions=told, wording=reply_wording)


def test_kinds_of_instruction_are_counted_apart_and_items_show_every_part(tmp_path: Path) -> None:
    rows = [combined("test 1", "1"), combined("test 2", "2")]
    said = {"system": ["words: blue. sound: calm", "sound: sad"]}
    parts = score_task("combined", rows, said).details.to_json()["parts"]
    assert parts == {
        "transcription": {"system": {"n": 2, "followed": 50.0, "right": 50.0}},
        "label": {"system": {"n": 2, "followed": 100.0, "right": 50.0}},
    }
    run(rows, task_named("combined"), tmp_path)
    assert items(tmp_path)[0]["parts"]["system"] == [
        {"kind": "transcription", "followed": False, "right": False},
        {"kind": "label", "followed": False, "right": False},
    ]


def test_rows_that_bring_their_own_wording_are_scored_by_groups(tmp_path: Path) -> None:
    """By hand: wordings are followed in 1 of 1, 1 of 2 and 0 of 1 rows: mean 50, worst 0."""
    rows = [combined(f"test {n}", str(i)) for i, n in enumerate((1, 2, 2, 3))]
    good, bad = "words: blue. sound: sad", "blue"
    found = score_task("combined", rows, {"system": [good, good, bad, bad]}).paraphrases
    assert found
    test = found.test
    assert test.wordings == ("test 1", "test 2", "test 3")
    by_wording = test.scores["instruction_following"]["system"]
    assert [(score.value, score.n) for score in by_wording] == [(100.0, 1), (50.0, 2), (0.0, 1)]
    values = [each["instruction_following"]["system"].value for each in (test.mean, test.worst, test.worst_minus_mean)]
    assert values == [50.0, 0.0, -50.0]
    assert score_task("combined", rows[:1], {"system": [good]}).paraphrases is None


def test_rows_of_one_wording_alone_say_nothing_of_robustness() -> None:
    rows = [
        combined("test 1", "1"),
        replace(combined("test 2", "2"), extra=combined("", "2").extra | {"wording": None}),
    ]
    assert score_task("combined", rows, {"system": ["a", "b"]}).paraphrases is None


def chain(form: str, pair: str) -> Conversation:
    return spoken("x", f"{pair} {form}", form=form, pair=pair, final="blau")


def test_a_chain_of_thought_is_compared_with_the_direct_question_on_the_same_recording() -> None:
    """By hand: chains end right in 2 of 2, direct answers in 1 of 2; what stands before the last line is not scored."""
    rows = [
        chain("chain_of_thought", "p1"),
        chain("direct", "p1"),
        chain("direct", "p2"),
        chain("chain_of_thought", "p2"),
    ]
    said = ["blue\nblau", "blau", "rot", "rot\nblau"]
    how = Task((task_named("combined_chained").metrics[2],))
    found = score_task("chained", rows, {"system": said}, how=how).details.forms["final_exact"]["system"]
    assert (found.num_pairs, found.chain_of_thought.value, found.direct.value, found.change.value) == (
        2,
        100.0,
        50.0,
        50.0,
    )
    apart = score_task("chained", [rows[0], rows[2]], {"system": said[:2]}, how=how)
    assert apart.details.forms == {}  # two recordings


def test_rows_that_do_not_fit_their_metrics_are_refused_before_anybody_is_asked(tmp_path: Path) -> None:
    class Nobody:
        def replies(self, *_: Any, **__: Any) -> list[Reply]:
            raise AssertionError("was asked")

    for task, told in (("combined", "'1': 'instructions' lists 0"), ("verification", "none of the choices yes, no")):
        each = EvalSet("set", (spoken("blue", "1"),), task_named(task))
        with pytest.raises(EvaluationError, match=told):
            run_sets([each], Examinee(Nobody()), tmp_path)  # type: ignore[arg-type]


def test_run_away_replies_are_logged_for_every_arm(tmp_path: Path) -> None:
    result = score_task("asr", [spoken("blue sky", "1")], {"system": ["sky sky sky sky"], "cascade": ["blue sky"]})
    logged = result.to_json()["degeneration"]
    assert logged["system"] == {"repetition": 100.0, "empty": 0.0, "over_one": 100.0, "length_ratio": 200.0}
    assert logged["cascade"]["repetition"] == 0.0
    plain = score_task("qa", [spoken("blue", "1")], {"system": [""]}, how=Task((BLEU, EXACT))).to_json()
    assert plain["degeneration"]["system"] == {
        "repetition": 0.0,
        "empty": 100.0,
        "over_one": None,
        "length_ratio": None,
    }


def everything() -> dict[str, TaskResult]:
    rows = [combined(f"test {n}", str(n)) for n in (1, 2)]
    said = {"system": ["words: blue. sound: calm", "sad sad sad sad"], "no_audio": ["", ""]}
    manners = [spoken(label, label) for label in ("sad", "calm", "<b>")]
    chains = [chain("chain_of_thought", "p1"), chain("direct", "p1")]
    how = Task((task_named("combined_chained").metrics[2], WER))
    return {
        "combined": score_task("combined", rows, said),
        "manner": score_task("manner", manners, {"system": ["sad", "no idea", "<b>"]}),
        "chained": score_task("chained", chains, {"system": ["a\nblau", "b"]}, how=how),
    }


def test_the_report_shows_all_of_it_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sonant.evaluate.report.figures.FIGURES", {})
    write_results(everything(), tmp_path / "results.json")
    html = write_report([tmp_path], out=tmp_path / "report.html").read_text()
    for heading in ("Baselines", "By kind of instruction", "Chain of thought against direct", "Replies that run away"):
        assert heading in html
    assert "manner: what system takes for what" in html
    assert "<tr><td>combined</td><td>label</td><td>system</td><td>2</td><td>50.0</td><td>0.0</td></tr>" in html
    assert "<th>(invalid)</th>" in html
    assert "<b>" not in html


def test_the_command_line_shows_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    from sonant.cli.evaluate_tables import print_results

    print_results(everything())
    out = capsys.readouterr().out
    for title in (
        "Baselines",
        "by kind of instruction",
        "Chain of thought",
        "manner: what is taken for what",
        "run away",
    ):
        assert title in out
    assert [cell.strip() for cell in next(line for line in out.splitlines() if "│ label" in line).split("│")[1:-1]] == [
        "combined", "label", "2", "50.0", "0.0",
    ]  # fmt: skip

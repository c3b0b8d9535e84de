import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from sonant.errors import EvaluationError
from sonant.evaluate.compare import compare, p_value, preferences
from sonant.evaluate.judge import Judge
from sonant.evaluate.metrics.score import ratio
from sonant.evaluate.metrics.text import BLEU
from sonant.generate.chat_model import ChatAnswer, ChatRequest

Item = dict[str, Any]


def make_run(
    folder: Path, items: Sequence[Item], *, metrics: Sequence[str] = ("exact_match",), audio: bool = True, **how: Any
) -> Path:
    """A run folder as `sonant evaluate` leaves it."""
    folder.mkdir()
    shown = {
        "has_audio": audio,
        "headline": metrics[0],
        "normalizer": "basic",
        "metrics": {m: {"system" if audio else "after": {}} for m in metrics},
    }
    results = {item["task"]: {**shown, **how} for item in items}
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    return folder


def scored(right: Sequence[float], *, arm: str = "system", task: str = "qa", **more: Any) -> list[Item]:
    """Items that are right or wrong as told."""
    return [
        {"id": f"{i}", "task": task, "reference": "yes", arm: "yes" if r else "no"}
        | {"scores": {"exact_match": {arm: [r, 1]}}, **more}
        for i, r in enumerate(right)
    ]


def test_a_run_against_itself_shows_no_difference(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", scored([1, 0, 1]))
    (found,) = compare(run, run).tasks.values()
    difference = found.differences["exact_match"]
    assert (difference.change.value, difference.change.low, difference.change.high, difference.p) == (0, 0, 0, 1)
    assert difference.verdict == "not told apart"


def test_the_pairs_decide_and_not_the_spread_of_the_items() -> None:
    """40 items of very different length; B makes one error fewer in each: apart, though the intervals overlap."""
    sizes = np.arange(10, 50)
    a = np.stack([np.where(sizes % 2, 6, 1), sizes], axis=1).astype(float)
    b = a - [1, 0]
    one, two = ratio(a), ratio(b)
    assert two.score.high > one.score.low
    change = (two - one).score
    assert change.value == pytest.approx(-100 * 40 / sizes.sum())
    assert change.high < 0
    assert p_value(two - one) == pytest.approx(2 / 1001)


def test_p_is_that_of_the_exact_bootstrap() -> None:
    """With 5 items all 5^5 draws can be counted."""
    changes = np.array([1, 1, 1, 0, -1])
    draws = [sum(draw) for draw in itertools.product(changes, repeat=5)]
    exact = 2 * min(np.mean([d <= 0 for d in draws]), np.mean([d >= 0 for d in draws]))
    before = np.stack([np.array([0, 0, 0, 1, 1]), np.ones(5)], axis=1)
    after = before + np.stack([changes, np.zeros(5)], axis=1)
    assert p_value(ratio(after) - ratio(before)) == pytest.approx(exact, abs=0.06)


def test_rows_that_stand_or_fall_together_tell_less(tmp_path: Path) -> None:
    """WavLLM was said to be better than a fixed scale: by rows, of which a hundred were asked in one order."""
    speakers = ["ann"] * 60 + ["bob"] * 20 + ["eva"] * 20
    told = [[1] * 100, [1] * 60 + [0] * 20 + [1] * 20]
    runs = []
    for name, right in zip("ba", told, strict=True):
        items = [item | {"speaker": who} for item, who in zip(scored(right), speakers, strict=True)]
        runs.append(make_run(tmp_path / name, items))
    b, a = runs
    by_row, by_speaker = (compare(a, b, together=key).tasks["qa"] for key in ("", "speaker"))
    one, other = by_row.differences["exact_match"], by_speaker.differences["exact_match"]
    assert (one.verdict, other.verdict) == ("better", "not told apart")
    assert one.change.value == other.change.value == 20
    assert other.change.low == 0  # eight draws of 27 leave bob out
    assert other.p == pytest.approx(2 * 8 / 27, abs=0.06)
    assert (one.change.n, other.change.n) == (100, 3)
    assert (by_row.is_grouped, by_speaker.is_grouped) == (False, True)
    assert compare(a, b, together="speaker").to_json()["together"] == "speaker"


def test_a_group_of_a_row_each_is_drawn_as_rows_are(tmp_path: Path) -> None:
    counts = np.array([[1.0, 3.0], [0.0, 2.0], [2.0, 2.0]])
    assert np.array_equal(ratio(counts).resampled, ratio(counts, np.arange(3)).resampled)
    said = {"0": "a b c d e", "1": "a b d e c"}
    items = [{"id": i, "task": "t", "speaker": i, "reference": "a b c d e", "system": said[i]} for i in said]
    run = make_run(tmp_path / "a", items, metrics=("bleu",))
    by_row, by_speaker = (compare(run, run, together=key).tasks["t"] for key in ("", "speaker"))
    assert by_row.differences == by_speaker.differences


def test_both_runs_have_the_same_draws_though_one_is_older_than_speakers_in_items(tmp_path: Path) -> None:
    """Rows of the one were drawn and speakers of the other: a run differed from itself."""
    items = scored([1, 1, 0, 1, 0, 0])
    known = [item | {"speaker": f"s{i % 3}"} for i, item in enumerate(items)]
    old, new = make_run(tmp_path / "old", items), make_run(tmp_path / "new", known)
    for a, b in ((old, new), (new, old)):
        found = compare(a, b, together="speaker").tasks["qa"]
        change = found.differences["exact_match"].change
        assert (found.is_grouped, change.n, change.low, change.high) == (True, 3, 0, 0)


def test_rows_without_what_is_drawn_together_are_told(tmp_path: Path) -> None:
    spoken = [item | {"speaker": f"s{i % 2}"} for i, item in enumerate(scored([1, 0, 1]))]
    run = make_run(tmp_path / "a", [*spoken, *scored([1, 0], task="text")])
    assert compare(run, run, together="speaker").left_out() == [
        "text: by speaker: no row has one, or all the same; rows are drawn one by one"
    ]
    with pytest.raises(
        EvaluationError, match=r"no task of .* has rows of two 'voice'; items.jsonl names what rows have"
    ):
        compare(run, run, together="voice")
    mixed = make_run(tmp_path / "b", [*spoken, {**scored([1])[0], "id": "odd"}])
    with pytest.raises(EvaluationError, match=r"qa: 1 of 4 rows have no 'speaker' \(such as 'odd'\)"):
        compare(mixed, mixed, together="speaker")


def test_better_means_lower_for_an_error_rate(tmp_path: Path) -> None:
    def run(name: str, errors: int) -> Path:
        scores = {"wer": {"system": [errors, 4]}}
        items = [
            {"id": f"{i}", "task": "asr", "reference": "a b c d", "system": "", "scores": scores} for i in range(9)
        ]
        return make_run(tmp_path / name, items, metrics=["wer"])

    difference = compare(run("a", 2), run("b", 1)).tasks["asr"].differences["wer"]
    assert (difference.change.value, difference.verdict) == (-25.0, "better")


def test_items_of_one_run_alone_are_counted_and_left_out(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", scored([1, 1, 0]) + scored([1], task="only a"))
    b = make_run(tmp_path / "b", [{**item, "id": str(int(item["id"]) + 1)} for item in scored([1, 1, 1])])
    found = compare(a, b)
    assert (found.tasks["qa"].num_rows, found.tasks["qa"].only_a, found.tasks["qa"].only_b) == (2, ("0",), ("3",))
    assert found.tasks["qa"].differences["exact_match"].a.value == 50.0
    assert (found.tasks_only_a, found.tasks_only_b) == (("only a",), ())
    assert json.loads(json.dumps(found.to_json()))["tasks"]["qa"]["differences"]["exact_match"]["verdict"]


def test_text_tasks_are_compared_after_training(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / name, scored(r, arm="after"), audio=False) for name, r in (("a", [1, 1]), ("b", [0, 0]))
    ]
    found = compare(*runs).tasks["qa"]
    assert (found.arm, found.differences["exact_match"].change.value) == ("after", -100.0)


def test_a_metric_of_either_run_alone_is_listed(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / name, scored([1]), metrics=["exact_match", alone])
        for name, alone in (("a", "cer"), ("b", "f1"))
    ]
    lines = compare(*runs).left_out()
    assert lines == ["qa: cer has no score in one run", "qa: f1 has no score in one run"]


def test_what_is_heard_in_one_run_and_read_in_the_other_is_refused(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", scored([1]))
    b = make_run(tmp_path / "b", scored([1], arm="after"), audio=False)
    with pytest.raises(EvaluationError, match="qa: is heard in one run and read in the other"):
        compare(a, b)


def test_wordings_of_two_prompt_banks_are_no_pairs(tmp_path: Path) -> None:
    """Both call their first held-out wording "test 1", and that is all they share."""
    runs = [
        make_run(tmp_path / name, scored([1], wording="test 1", prompt=prompt))
        for name, prompt in (("a", "say: [clip 1]"), ("b", "write: [clip 1]"))
    ]
    with pytest.raises(EvaluationError, match=r"'say: \[clip 1\]' in A, 'write: \[clip 1\]' in B as 'test 1'"):
        compare(*runs)


def test_all_wordings_of_a_row_are_drawn_together_and_seen_ones_do_not_count(tmp_path: Path) -> None:
    def run(name: str, by_wording: Mapping[str, Sequence[float]]) -> Path:
        items = [item for wording, right in by_wording.items() for item in scored(right, wording=wording)]
        return make_run(tmp_path / name, items)

    a = run("a", {"train 0": [0, 0, 0, 0], "test 0": [0, 0, 1, 1], "test 1": [0, 0, 1, 1]})
    b = run("b", {"train 0": [1, 1, 1, 1], "test 0": [0, 1, 1, 1], "test 1": [0, 1, 1, 1]})
    found = compare(a, b).tasks["qa"]
    difference = found.differences["exact_match"]
    assert (found.num_rows, difference.change.value) == (4, 25.0)
    assert difference.a.n == 4
    assert difference.change.low == 0.0  # one row of four: a bootstrap of 8 items would be narrower


def test_what_a_judge_failed_on_in_either_run_is_left_out_of_the_pair(tmp_path: Path) -> None:
    def run(name: str, grades: Sequence[int]) -> Path:
        items = [
            {"id": f"{i}", "task": "qa", "reference": "x", "system": "y"}
            | {"scores": {"judge": {"system": [g, 5 * bool(g)]}, "judge_failed": {"system": [int(not g), 1]}}}
            for i, g in enumerate(grades)
        ]
        return make_run(tmp_path / name, items, metrics=["judge", "judge_failed"])

    differences = compare(run("a", [5, 0, 3]), run("b", [4, 5, 3])).tasks["qa"].differences
    assert list(differences) == ["judge"]
    assert differences["judge"].num_unjudged == 1
    assert differences["judge"].change.value == pytest.approx(100 * (7 / 10 - 8 / 10))


def test_bleu_is_computed_from_the_answers(tmp_path: Path) -> None:
    references = ["the cat sat on the mat", "a dog ran in the park", "birds sing in the early morning"]
    a = ["the cat sat on a mat", "a dog ran", "birds sing in the early morning"]
    items = [{"id": r, "task": "translation", "reference": r, "system": h} for r, h in zip(references, a, strict=True)]
    one = make_run(tmp_path / "a", items, metrics=["bleu"])
    two = make_run(tmp_path / "b", [{**item, "system": item["reference"].upper()} for item in items], metrics=["bleu"])
    difference = compare(one, two).tasks["translation"].differences["bleu"]
    assert difference.b.value == pytest.approx(100.0)  # normalised on both sides
    assert difference.a == BLEU.score(a, references)


def test_bleu_of_several_target_languages_is_that_of_the_results(tmp_path: Path) -> None:
    # The tokenizer of the first row's language was taken for all of them: 63.1 beside 66.9 in results.json.
    references = ["猫在睡觉", "今天天气很好", "die katze schläft auf dem sofa", "das wetter ist heute schön"]
    answers = ["猫在睡", "今天天气好", "die katze schläft auf dem bett", "das wetter ist heute gut"]
    items = [
        {"id": r, "task": "translation", "reference": r, "system": h, "target_language": language}
        for r, h, language in zip(references, answers, ["zh", "zh", "de", "de"], strict=True)
    ]
    a, b = (make_run(tmp_path / name, items, metrics=["bleu"]) for name in "ab")
    assert compare(a, b).tasks["translation"].differences["bleu"].a == BLEU.score(answers, references)


def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", scored([1, 0]))
    with pytest.raises(EvaluationError, match="share no item"):
        compare(a, make_run(tmp_path / "b", scored([1], task="other")))
    with pytest.raises(EvaluationError, match="has the reference 'yes' in A, 'no' in B"):
        compare(a, make_run(tmp_path / "c", scored([1, 0], reference="no")))
    with pytest.raises(EvaluationError, match="the normalizer of A is basic, that of B none"):
        compare(a, make_run(tmp_path / "d", scored([1, 0]), normalizer="none"))
    pinned = [make_run(tmp_path / judge, scored([1]), pins={"judge": {"model": judge}}) for judge in ("x", "y")]
    with pytest.raises(EvaluationError, match=r"the judge of A is \{'model': 'x'\}, that of B"):
        compare(*pinned)
    with pytest.raises(EvaluationError, match="two items '0'"):
        compare(a, make_run(tmp_path / "e", scored([1]) * 2))


def test_a_judge_is_asked_in_both_orders_which_answers_it_prefers(tmp_path: Path) -> None:
    class Prefers:
        """Likes long answers."""

        name = "m"
        asked: ClassVar[list[Item]] = []

        def complete(self, requests: Sequence[ChatRequest], **_: Any) -> list[ChatAnswer]:
            self.asked += [json.loads(request.messages[-1].text) for request in requests]
            better = ["first" if len(each["first"]) > len(each["second"]) else "second" for each in self.asked]
            return [ChatAnswer(json.dumps({"reason": "", "better": who})) for who in better]

    more = {"prompt": "say: [clip 1]", "clips": [{"path": "a.wav", "transcript": "yes"}]}
    found = compare(*(make_run(tmp_path / n, scored(r, **more)) for n, r in (("a", [1, 0, 0]), ("b", [1, 1, 0]))))
    judged = preferences(found, Judge(Prefers(), rubric="pairwise"))["qa"]
    assert [each["first"] for each in Prefers.asked] == ["yes", "no"]
    assert Prefers.asked[0]["prompt"] == "say: yes"
    assert judged.score is not None
    assert (judged.score.value, judged.num_judged) == (pytest.approx(100 * (1 + 0.5 + 0.5) / 3), 3)


def test_ties_that_were_not_asked_do_not_hide_verdicts_that_failed(tmp_path: Path) -> None:
    class Mute:
        name = "m"

        def complete(self, requests: Sequence[ChatRequest], **_: Any) -> list[ChatAnswer]:
            return [ChatAnswer("", failure="late") for _ in requests]

    found = compare(make_run(tmp_path / "a", scored([1] * 40)), make_run(tmp_path / "b", scored([0] + [1] * 39)))
    judged = preferences(found, Judge(Mute(), rubric="pairwise"))["qa"]
    assert (judged.score, judged.num_judged, judged.failures) == (None, 39, {"late": 1})

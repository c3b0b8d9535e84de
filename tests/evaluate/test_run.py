import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.data.manifest import write as write_manifest
from sonant.data.prompts import PromptBank
from sonant.errors import ConfigError, EvaluationError
from sonant.evaluate.arms import Examinee
from sonant.evaluate.metrics.score import Score
from sonant.evaluate.metrics.text import EXACT
from sonant.evaluate.run import EvalSet, evaluate, forgetting, group_by_task, run_sets, score_task, sets_of
from sonant.evaluate.tasks import Task, task_named
from sonant.evaluate.wordings import Wording, reworded, wordings_of
from sonant.generate.assistant import Reply
from sonant.generate.chat_model import ChatAnswer, ChatRequest


class Parrot:
    """Answers with what it is told, shouting "heard" where it finds audio; with LoRA on it adds what `lora` says."""

    def __init__(self, lora: str = "") -> None:
        self.lora = lora
        self.asked = 0

    def replies(self, prompts: Sequence[Conversation], *, lora: bool, progress: Any, **_: Any) -> list[Reply]:
        progress(len(prompts))
        self.asked += len(prompts)
        return [Reply(text=self.answer(p, lora=lora), token_ids=(), finished=True) for p in prompts]

    def answer(self, prompt: Conversation, *, lora: bool) -> str:
        return "heard" if prompt.audio_parts else prompt.messages[-1].text + self.lora * lora


class Fussy(Parrot):
    """Hears what is said only if it is asked politely; the base LLM always does."""

    def answer(self, prompt: Conversation, *, lora: bool) -> str:
        said = prompt.audio_parts[0].transcript if prompt.audio_parts else prompt.messages[-1].text.split()[-1]
        return said or "" if not lora or "please" in prompt.messages[-1].text else "what?"


class Deaf:
    def transcribe(self, clips: Sequence[AudioPart], *, progress: object = None) -> list[str]:
        return ["misheard" for _ in clips]


CLIP = AudioPart(path="a.wav", transcript="blue")
WORDINGS = (Wording("test", 1, "say please:"), Wording("test", 2, "say:"), Wording("train", 1, "please:"))


def rows() -> list[Conversation]:
    spoken = Conversation((user(CLIP), assistant("blue")), id="s1", task="spoken_qa")
    written = Conversation((user("red"), assistant("red")), id="t1", task="text_only")
    return [spoken, written]


def examinee(parrot: Parrot, **pins: str) -> Examinee:
    return Examinee(parrot, pins=pins)  # type: ignore[arg-type]


def read_items(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]


def test_a_spoken_row_is_answered_by_system_cascade_and_text_oracle(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.jsonl", rows())
    results = evaluate(Parrot(), [tmp_path / "m.jsonl"], tmp_path / "out", recognizer=Deaf())  # type: ignore[arg-type]
    scores = results["spoken_qa"].scores["exact_match"]
    assert {arm: s.value for arm, s in scores.items()} == {"system": 0.0, "cascade": 0.0, "text_oracle": 100.0}
    assert read_items(tmp_path / "out")[0] == {
        "id": "s1", "task": "spoken_qa", "prompt": "[clip 1]", "reference": "blue",
        "clips": [{"path": "../a.wav", "offset_s": 0.0, "duration_s": None, "transcript": "blue"}],
        "system": "heard", "cascade": "misheard", "text_oracle": "blue",
        "scores": {"exact_match": {"system": [0.0, 1.0], "cascade": [0.0, 1.0], "text_oracle": [1.0, 1.0]}},
    }  # fmt: skip
    assert json.loads((tmp_path / "out" / "results.json").read_text())["spoken_qa"]["n"] == 1


def test_a_row_without_audio_is_answered_with_and_without_lora(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.jsonl", rows())
    results = evaluate(Parrot(lora="?x"), [tmp_path / "m.jsonl"], tmp_path / "out")  # type: ignore[arg-type]
    assert results["text_only"].differences["after minus before"].value == -100.0
    assert forgetting(results)["text_only"].value == 100.0


def test_forgetting_of_an_error_rate_is_its_rise() -> None:
    row = Conversation((user("a b"), assistant("a b")), id="1", task="asr")
    result = score_task("asr", [row], {"after": ["a x"], "before": ["a b"]})
    assert forgetting({"asr": result})["asr"].value == 50.0


def test_nothing_lost_is_not_minus_nothing() -> None:
    result = score_task("text_only", [rows()[1]], {"after": ["red"], "before": ["red"]})
    assert str(forgetting({"text_only": result})["text_only"]) == "0.0 [0.0, 0.0]"


def test_any_alias_is_right() -> None:
    row = Conversation((user(CLIP), assistant("blue")), id="1", extra={"aliases": ["navy", "azure"]})
    assert score_task("spoken_qa", [row], {"system": ["Navy."]}).scores["exact_match"]["system"].value == 100.0


def test_mean_and_worst_over_unseen_wordings_and_the_gap_to_seen_ones(tmp_path: Path) -> None:
    """By hand: of two unseen wordings the model obeys one (100 and 0: mean 50), the one seen wording it obeys (100)."""
    spoken = EvalSet("qa", (rows()[0],) * 2, Task((EXACT,)), wordings=WORDINGS)
    result = run_sets([spoken], examinee(Fussy()), tmp_path)["qa"]
    assert result.scores["exact_match"]["system"].value == 50.0
    assert result.scores["exact_match"]["text_oracle"].value == 100.0
    found = result.paraphrases
    assert found
    assert [score.value for score in found.test.scores["exact_match"]["system"]] == [100.0, 0.0]
    assert found.test.worst["exact_match"]["system"].value == 0.0
    assert found.seen_minus_unseen["exact_match"]["system"].value == 50.0
    assert result.differences == {}  # there is no cascade


def test_every_wording_of_a_row_is_an_item_and_only_the_model_is_asked_in_seen_ones(tmp_path: Path) -> None:
    run_sets([EvalSet("qa", (rows()[0],), Task((EXACT,)), wordings=WORDINGS)], examinee(Parrot()), tmp_path)
    items = read_items(tmp_path)
    assert [(i["wording"], i["prompt"]) for i in items] == [
        ("test 1", "say please: [clip 1]"), ("test 2", "say: [clip 1]"), ("train 1", "please: [clip 1]"),
    ]  # fmt: skip
    assert ["text_oracle" in item for item in items] == [True, True, False]


def test_a_wording_is_filled_from_the_row() -> None:
    row = replace(rows()[0], extra={"target_language": "German"})
    prompt = reworded(row, Wording("test", 1, "In {target_language}: {audio} please."))
    assert [getattr(part, "text", "") for part in prompt.messages[-1].parts] == ["In German: ", "", " please."]
    with pytest.raises(ConfigError, match="question"):
        reworded(row, Wording("test", 1, "{question}"))


def test_only_a_turn_of_one_recording_is_reworded() -> None:
    with pytest.raises(EvaluationError, match="'t1': its last turn holds 0 recordings"):
        reworded(rows()[1], WORDINGS[0])


def test_wordings_are_the_first_of_each_split() -> None:
    bank = PromptBank("b", {"train": ("a", "b"), "dev": ("c",), "test": ("d", "e", "f")}, "")
    assert [wording.name for wording in wordings_of(bank, num=2)] == ["test 1", "test 2", "train 1", "train 2"]


def test_started_again_nothing_is_asked_twice(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.jsonl", rows())
    sets = sets_of([tmp_path / "m.jsonl"])
    parrot = Parrot()
    first = run_sets(sets, examinee(parrot, model="1"), tmp_path / "out")
    assert parrot.asked == 4
    again = run_sets(sets, examinee(parrot, model="1"), tmp_path / "out")
    assert parrot.asked == 4
    assert {t: r.to_json() for t, r in again.items()} == {t: r.to_json() for t, r in first.items()}
    run_sets(sets, examinee(parrot, model="2"), tmp_path / "out")
    assert parrot.asked == 8


def test_an_evaluation_that_is_broken_off_has_kept_all_but_the_last_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tired(Parrot):
        def replies(self, prompts: Sequence[Conversation], **how: Any) -> list[Reply]:
            if self.asked >= 4:
                raise KeyboardInterrupt
            return super().replies(prompts, **how)

    monkeypatch.setattr("sonant.evaluate.arms.BLOCK", 2)
    written = [Conversation((user(f"red {i}"), assistant("red")), id=f"t{i}", task="text_only") for i in range(6)]
    write_manifest(tmp_path / "m.jsonl", written)
    sets = sets_of([tmp_path / "m.jsonl"])
    with pytest.raises(KeyboardInterrupt):
        run_sets(sets, examinee(Tired(), model="1"), tmp_path / "out")
    told: list[tuple[str, int, int]] = []
    parrot = Parrot()
    run_sets(sets, examinee(parrot, model="1"), tmp_path / "out", progress=lambda *each: told.append(each))
    assert parrot.asked == 2 + 6  # the last block of one arm, and the other arm
    assert [done for arm, done, total in told] == [2, 4, 6] * 2


def test_another_recording_under_the_same_name_is_asked_about_again(tmp_path: Path) -> None:
    clip = tmp_path / "a.wav"
    row = Conversation((user(AudioPart(path=str(clip))), assistant("blue")), id="1")
    parrot = Parrot()
    for content in ("one", "two"):  # of the same size and time, as a copy that keeps times leaves them
        clip.write_text(content)
        os.utime(clip, (1, 1))
        run_sets([EvalSet("qa", (row,), Task((EXACT,)))], examinee(parrot, model="1"), tmp_path / "out")
    assert parrot.asked == 2
    run_sets([EvalSet("qa", (row,), Task((EXACT,)))], examinee(parrot, model="1"), tmp_path / "out")
    assert parrot.asked == 2


def test_other_sound_in_the_same_rows_is_pinned(tmp_path: Path) -> None:
    clip = tmp_path / "a.wav"
    row = Conversation((user(AudioPart(path=str(clip))), assistant("blue")), id="1")
    pins = []
    for content in ("one", "two"):
        clip.write_text(content)
        pins.append(score_task("spoken_qa", [row], {"system": ["blue"]}).pins)
    assert pins[0]["rows_sha256"] == pins[1]["rows_sha256"]
    assert pins[0]["recordings_sha256"] != pins[1]["recordings_sha256"]


def test_manifests_of_one_name_are_both_pinned(tmp_path: Path) -> None:
    for split in ("dev", "test"):
        write_manifest(tmp_path / split / "m.jsonl", rows())
    sets = sets_of([tmp_path / "dev" / "m.jsonl", tmp_path / "test" / "m.jsonl"])
    assert sets[0].pins["manifests"].keys() == {"dev/m.jsonl", "test/m.jsonl"}


def test_clips_of_a_run_are_found_through_a_link_to_its_folder(tmp_path: Path) -> None:
    """On clusters runs/ is often a symbolic link to another disk, where ../.. leads elsewhere."""
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "runs").symlink_to(tmp_path / "far" / "away")
    clip = tmp_path / "a.wav"
    clip.write_text("one")
    row = Conversation((user(AudioPart(path=str(clip))), assistant("blue")), id="1")
    run_sets([EvalSet("qa", (row,), Task((EXACT,)))], examinee(Parrot()), tmp_path / "runs" / "a")
    (item,) = read_items(tmp_path / "runs" / "a")
    assert (tmp_path / "runs" / "a" / item["clips"][0]["path"]).is_file()


def test_answers_in_a_damaged_file_are_asked_for_again(tmp_path: Path) -> None:
    parrot = Parrot()
    for _ in range(2):
        run_sets([EvalSet("qa", (rows()[1],), Task((EXACT,)))], examinee(parrot, model="1"), tmp_path / "out")
        for kept in (tmp_path / "out" / "answers").glob("*.json"):
            kept.write_text(kept.read_text()[:9])
    assert parrot.asked == 4


def test_pins_change_with_a_byte_of_the_manifest(tmp_path: Path) -> None:
    pins = []
    for text in ("red", "rod"):
        write_manifest(tmp_path / "m.jsonl", [Conversation((user("red"), assistant(text)), id="1", task="text_only")])
        run_sets(sets_of([tmp_path / "m.jsonl"]), examinee(Parrot()), tmp_path / "out", pins={"model": "parrot"})
        pins.append(json.loads((tmp_path / "out" / "pins.json").read_text()))
    assert pins[0] != pins[1]
    assert pins[0]["run"] == {"model": "parrot"}
    assert pins[0]["sets"]["text_only"]["normalizer"] == {"name": "basic", "version": "2"}
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["text_only"]["pins"] == pins[1]["sets"]["text_only"]


def test_a_revoiced_set_is_scored_as_what_it_was_and_says_its_share(tmp_path: Path) -> None:
    row = Conversation((user(CLIP), assistant("four")), id="1", task="asr_spoken_25")
    revoiced = {"task": "asr", "share": 25, "spoken": 1, "sentences": 4}
    write_manifest(tmp_path / "m.jsonl", [replace(row, extra={"revoiced": revoiced})])
    results = run_sets(sets_of([tmp_path / "m.jsonl"]), examinee(Parrot()), tmp_path / "out")
    assert results["asr_spoken_25"].headline == "wer"
    assert results["asr_spoken_25"].to_json()["series"] == {"of": "asr", "share": 25}
    assert read_items(tmp_path / "out")[0]["share"] == 25


class Strict:
    """A judge that finds short answers good, and says nothing of sense about long ones."""

    name = "strict"

    def complete(self, requests: Sequence[ChatRequest], *, progress: Any = None) -> list[ChatAnswer]:
        asked = [json.loads(request.messages[-1].text) for request in requests]
        return [ChatAnswer('{"reason": "", "score": 4}' if len(a["answer"]) < 9 else "hm") for a in asked]


def test_a_judge_gives_points_and_its_failures_are_counted(tmp_path: Path) -> None:
    said = ["short"] * 30 + ["much too long"]
    chats = tuple(Conversation((user(text),), id=str(i), task="chat") for i, text in enumerate(said))
    each = EvalSet("chat", chats, task_named("chat"))
    with pytest.raises(EvaluationError, match="--judge"):
        run_sets([each], examinee(Parrot()), tmp_path)
    result = run_sets([each], examinee(Parrot()), tmp_path, judge_model=Strict())["chat"]
    assert result.headline == "judge"
    assert result.scores["judge"]["after"].value == pytest.approx(80.0)
    assert result.scores["judge_failed"]["after"].value == pytest.approx(100 / 31)
    assert read_items(tmp_path)[30]["scores"]["judge"] == {"after": [0.0, 0.0], "before": [0.0, 0.0]}
    assert result.pins["judge"]["model"] == "strict"


def test_where_a_judge_fails_too_often_there_is_no_score(tmp_path: Path) -> None:
    each = EvalSet("chat", (Conversation((user("much too long"),), id="1"),), task_named("chat"))
    result = run_sets([each], examinee(Parrot()), tmp_path, judge_model=Strict())["chat"]
    assert result.scores["judge"] == {}
    assert result.judged[""]["after"]["failures"] == {"unparsable": 1}


def test_rows_are_grouped_by_task_and_limited(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.jsonl", rows() + rows())
    groups = group_by_task([tmp_path / "m.jsonl"], limit=1)
    assert {task: len(found) for task, found in groups.items()} == {"spoken_qa": 1, "text_only": 1}


def test_a_row_without_a_reference_is_refused(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.jsonl", [Conversation((user("a"),), id="lonely")])
    with pytest.raises(EvaluationError, match=r"'lonely' has no reference"):
        group_by_task([tmp_path / "m.jsonl"])


def test_a_score_prints_with_its_interval() -> None:
    assert str(Score(4.04, 2.0, 6.06, 10)) == "4.0 [2.0, 6.1]"


def test_a_set_that_nothing_scores_is_refused_before_anybody_is_asked(tmp_path: Path) -> None:
    parrot = Parrot()
    with pytest.raises(EvaluationError, match="nothing scores it; give it metrics"):
        run_sets([EvalSet("qa", (rows()[1],), Task(metrics=()))], examinee(parrot), tmp_path)
    assert parrot.asked == 0

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.data.manifest import write as write_manifest
from sonant.errors import EvaluationError
from sonant.evaluate.metrics.score import Score
from sonant.evaluate.run import evaluate, forgetting, group_by_task, score_task, with_text
from sonant.generate.assistant import Reply


class Parrot:
    """Answers with what it is told, shouting "heard" where it finds audio; with LoRA on it adds what `lora` says."""

    def __init__(self, lora: str = "") -> None:
        self.lora = lora

    def replies(self, prompts: Sequence[Conversation], *, lora: bool, progress: Any, **_: Any) -> list[Reply]:
        progress(len(prompts))
        texts = ["heard" if p.audio_parts else p.messages[-1].text + self.lora * lora for p in prompts]
        return [Reply(text=text, token_ids=(), finished=True) for text in texts]


class Deaf:
    def transcribe(self, clips: Sequence[AudioPart]) -> list[str]:
        return ["misheard" for _ in clips]


CLIP = AudioPart(path="a.wav", transcript="blue")


def rows() -> list[Conversation]:
    spoken = Conversation((user(CLIP), assistant("blue")), id="s1", task="spoken_qa")
    written = Conversation((user("red"), assistant("red")), id="t1", task="text_only")
    return [spoken, written]


def test_a_spoken_row_is_answered_by_system_cascade_and_text_oracle(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.jsonl", rows())
    results = evaluate(Parrot(), [tmp_path / "m.jsonl"], tmp_path / "out", recognizer=Deaf())  # type: ignore[arg-type]
    scores = results["spoken_qa"].scores["exact_match"]
    assert {arm: s.value for arm, s in scores.items()} == {"system": 0.0, "cascade": 0.0, "text_oracle": 100.0}
    items = [json.loads(line) for line in (tmp_path / "out" / "items.jsonl").read_text().splitlines()]
    assert items[0] == {
        "id": "s1", "task": "spoken_qa", "reference": "blue",
        "system": "heard", "cascade": "misheard", "text_oracle": "blue",
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


def test_audio_is_replaced_by_text_where_it_stood() -> None:
    prompt = Conversation((user("say:", CLIP, "now"), assistant("ok"), user(CLIP)))
    (written,) = with_text([prompt], ["one", "two"])
    assert [m.text for m in written.messages] == ["say: one now", "ok", "two"]
    assert not written.audio_parts


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

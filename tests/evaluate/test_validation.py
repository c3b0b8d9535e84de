from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.data.manifest import write
from sonant.data.training_set import DataConfig
from sonant.evaluate.validation import FOLLOWING, validator
from sonant.generate.assistant import Assistant, Reply


class Scripted:
    """Repeats half of what it is asked."""

    def replies(self, prompts: Sequence[Conversation], **_: Any) -> list[Reply]:
        words = [prompt.messages[-1].text.split() for prompt in prompts]
        return [Reply(" ".join(said[: len(said) // 2]), (), True) for said in words]


def test_the_composite_counts_an_error_rate_as_what_is_left_of_a_hundred(tmp_path: Path) -> None:
    rows = [
        Conversation((user("a b c d"), assistant("a b c d")), id="1", task="asr"),
        Conversation((user("red red"), assistant("red")), id="2", task="spoken_qa"),
        Conversation((user("no no"), assistant("yes")), id="3", task="spoken_qa"),
    ]
    write(tmp_path / "dev.jsonl", rows)
    data = DataConfig.model_validate({"root": str(tmp_path), "speech": {}, "dev": ["dev.jsonl"]})
    validate = validator(data, cast(Assistant, Scripted()))
    assert validate is not None
    scores = validate(10)
    assert scores == {"asr wer": 50.0, "spoken_qa exact_match": 50.0, "composite": 50.0}


def test_what_training_on_asr_alone_costs_is_scored_before_how_good_an_answer_is(tmp_path: Path) -> None:
    heard = AudioPart("a.wav", transcript="the cat sleeps on the table")
    said = {
        "translation": ("das haus ist sehr groß und schön", {"target_language": "de"}),
        "spoken_qa": ("anna has it", {}),
    }
    rows = [
        Conversation((user(heard), assistant(answer)), id=task, task=task, language="en", extra=extra)
        for task, (answer, extra) in said.items()
    ]
    write(tmp_path / "dev.jsonl", rows)
    data = DataConfig.model_validate({"root": str(tmp_path), "speech": {}, "dev": ["dev.jsonl"]})
    answers = {"transcribes": "the cat sleeps on the table", "follows": "das haus ist groß und schön"}
    composite = {}
    for manner, answer in answers.items():
        assistant_ = SimpleNamespace(replies=lambda prompts, text=answer, **_: [Reply(text, (), True) for _ in prompts])
        validate = validator(data, cast(Assistant, assistant_), how=FOLLOWING)
        assert validate is not None
        scores = validate(1)
        assert scores["translation right_language"] == scores["spoken_qa answered_not_transcribed"]
        composite[manner] = scores["composite"]
    assert composite["transcribes"] < 10 < 50 < composite["follows"]


def test_without_dev_rows_nothing_is_validated() -> None:
    assert validator(DataConfig(speech={}), cast(Assistant, Scripted())) is None

import json
from pathlib import Path

import numpy as np
import pytest

from sonant.audio.io import load
from sonant.chat.messages import Conversation, assistant, user
from sonant.errors import ManifestError
from sonant.parity.questions import made_clip, made_questions, manifest_questions


def test_made_questions_are_the_same_every_time_and_others_with_another_seed() -> None:
    assert made_questions() == made_questions()
    assert made_questions() != made_questions(seed=1)


def test_made_questions_hold_text_alone_two_clips_in_a_turn_a_second_turn_and_more_than_ten_seconds() -> None:
    questions = made_questions()
    heard = [[len(load(part.source, sample_rate_hz=16_000)) / 16_000 for part in q.heard_parts] for q in questions]
    assert heard == [[0.4], [], [1.5], [0.8, 1.5], [3.1, 0.4], [12.0]]
    assert [len(question.messages) for question in questions] == [1, 1, 1, 1, 3, 1]
    assert len({question.id for question in questions}) == len(questions)


def test_a_made_clip_is_loud_enough_to_be_heard_and_never_clips() -> None:
    samples = load(made_clip(1.0, seed=3).source, sample_rate_hz=16_000)
    assert 0.4 < np.abs(samples).max() <= 0.5
    assert np.sqrt(np.mean(samples**2)) > 0.02


def test_rows_of_a_manifest_are_asked_without_their_answers_and_by_names_of_their_own(tmp_path: Path) -> None:
    manifest = tmp_path / "rows.jsonl"
    names = ["a", "", "a", "b"]
    rows = [Conversation((user(text), assistant("said")), id=name) for text, name in zip("wxyz", names, strict=True)]
    manifest.write_text("".join(json.dumps(row.to_json()) + "\n" for row in rows))
    asked = manifest_questions(manifest, num_rows=3)
    assert [question.messages[-1].text for question in asked] == ["w", "x", "y"]
    assert [question.id for question in asked] == ["a (row 1)", "row 2", "a (row 3)"]
    assert len(manifest_questions(manifest)) == 4


def test_a_manifest_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"none\.jsonl"):
        manifest_questions(tmp_path / "none.jsonl")

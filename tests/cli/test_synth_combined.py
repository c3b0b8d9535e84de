from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.data.manifest import Manifest, write

Run = Callable[..., Any]


@pytest.fixture
def sources(tmp_path: Path) -> tuple[Path, Path]:
    clips = [AudioPart(str(tmp_path / f"{i}.wav"), transcript=f"hello {i}") for i in range(12)]
    answers = {"asr": "hello", "emotion": "sad", "translation": "hallo"}
    heard = [
        Conversation((user(clip), assistant(text)), id=f"{task}-{i}", task=task, extra={"target_language": "de"})
        for i, clip in enumerate(clips)
        for task, text in answers.items()
    ]
    write(tmp_path / "in" / "heard.jsonl", heard)
    write(tmp_path / "in" / "asked.jsonl", [Conversation((user("2 + 2?"), assistant("4")), id="q", task="question")])
    return tmp_path / "in" / "heard.jsonl", tmp_path / "in" / "asked.jsonl"


def test_manifests_become_combined_rows_with_a_table_of_places(
    sonant: Run, sources: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "test" / "combined.jsonl"
    done = sonant("synth", "combined", *sources, "--out", out, "--split", "test")
    assert done.status == 0
    assert "part 1" in done.out
    assert "combinations" in done.out
    assert done.out.splitlines()[-1] == f"{out}: 12 rows"
    made = list(Manifest(out))
    assert {each.task for each in made} == {"combined"}
    assert {Path(str(each.audio_parts[0].path)).name for each in made} == {f"{i}.wav" for i in range(12)}
    again = out.read_bytes()
    assert sonant("synth", "combined", *sources, "--out", out, "--split", "test").status == 0
    assert out.read_bytes() == again


def test_chained_rows_come_in_pairs(sonant: Run, sources: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "chained.jsonl"
    assert sonant("synth", "combined", *sources, "--out", out, "--kind", "chained", "--split", "test").status == 0
    assert [each.extra["form"] for each in Manifest(out)] == ["chain_of_thought", "direct"] * 12


def test_mistakes_are_told_in_one_line(sonant: Run, sources: tuple[Path, Path], tmp_path: Path) -> None:
    heard, asked = sources
    out = tmp_path / "out.jsonl"
    assert "no row with a recording" in sonant("synth", "combined", asked, "--out", out).complaint
    held_out = sonant("synth", "combined", heard, "--out", out, "--combinations", "held-out")
    assert "training has no unseen combinations" in held_out.complaint
    both = sonant("synth", "combined", heard, "--out", out, "--kind", "chained", "--combinations", "seen")
    assert "--combinations is for --kind independent" in both.complaint
    assert "no preset 'worst'" in sonant("synth", "combined", heard, "--out", out, "--preset", "worst").complaint
    assert not out.exists()

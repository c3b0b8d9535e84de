import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sonant.cli.synth_mixed_modal import MIXED_MODAL_EPILOG
from sonant.cli.synth_tts import EPILOG
from sonant.data.manifest import Manifest
from sonant.synth.espeak import EspeakSynthesizer
from sonant.synth.tts import SpeechRequest

pytest.importorskip("espeakng_loader")
Run = Callable[..., Any]
PAGE = Path(__file__).parent.parent.parent / "docs" / "building.md"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    (tmp_path / "texts.txt").write_text("the dog runs\n\nanna sees nine cats\n")
    return tmp_path / "texts.txt"


def test_tts_speaks_a_file_of_sentences_and_counts_what_it_dropped(sonant: Run, texts: Path, tmp_path: Path) -> None:
    done = sonant("synth", "tts", texts, tmp_path / "out", "--language", "en", "--rates", 0.9, 1.1, "--workers", 1)
    assert done.status == 0
    assert "1 dropped: no text" in done.out
    assert "2 rows from 3, 1 dropped" in done.out
    rows = Manifest(tmp_path / "out" / "rows.jsonl")
    assert [row.reference for row in rows] == ["the dog runs", "anna sees nine cats"]
    assert json.loads((tmp_path / "out" / "build.json").read_text())["settings"]["rates"] == [0.9, 1.1]


def test_tts_writes_when_words_begin_where_it_is_asked_to_and_counts_where_it_cannot_tell(
    sonant: Run, texts: Path, tmp_path: Path
) -> None:
    texts.write_text("the dog runs\nanna sees 9 cats & dogs\n")
    command = ("synth", "tts", texts, tmp_path / "out", "--language", "en", "--workers", 1, "--words")
    done = sonant(*command)
    assert "1 rows without word marks" in done.out
    marked, unmarked = (row.audio_parts[0].extra for row in Manifest(tmp_path / "out" / "rows.jsonl"))
    assert [word for word, _ in marked["words"]] == ["the", "dog", "runs"]
    assert "words" not in unmarked
    assert json.loads((tmp_path / "out" / "build.json").read_text())["settings"]["marks"] is True


def test_continuations_cut_what_tts_has_spoken(sonant: Run, texts: Path, tmp_path: Path) -> None:
    texts.write_text("The dog runs home. Anna sees the cats of the town.\nthe dog\n")
    spoken, out = tmp_path / "spoken", tmp_path / "out"
    sonant("synth", "tts", texts, spoken, "--language", "en", "--workers", 1, "--words", "--voices", "en=en-us+m3")
    done = sonant("synth", "continuations", spoken / "rows.jsonl", out, "--boundary", " | ", "--cut", "marks")
    assert "1 dropped: shorter than 1.5 s" in done.out
    (row,) = Manifest(out / "rows.jsonl")
    heard, said = row.reference.split(" | ")
    assert f"{heard} {said}" == "The dog runs home. Anna sees the cats of the town."
    assert row.spoken
    assert row.spoken.transcript == said
    assert row.spoken.path == row.heard_parts[0].path


def test_parts_are_joined_by_the_last_and_merge_waits_for_it(sonant: Run, texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ("synth", "tts", texts, out, "--language", "en", "--shard-rows", 2, "--workers", 1, "--part")
    first = sonant(*command, "0/2")
    assert first.status == 0
    assert (
        f"1 of 2 shards are not made yet; the last part to finish joins them, and so does: sonant synth merge {out}"
        in (" ".join(first.out.split("\n")))
    )
    assert "1 of 2 shards are missing (1 ...)" in sonant("synth", "merge", out).complaint
    assert "2 rows from 3" in sonant(*command, "1/2").out
    (out / "rows.jsonl").unlink()
    assert "2 rows from 3" in sonant("synth", "merge", out).out
    assert len(Manifest(out / "rows.jsonl")) == 2


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--part", "2/2"], "--part '2/2': write i/n"),
        (["--engine", "parrot"], "no engine 'parrot'"),
        (["--text", "sentence"], "there is no 'sentence', only text"),
        (["--answer", "anser"], "no row has a text under 'anser'"),  # it dropped every row and was content
        (["--rates", "1.2", "0.8"], "rates 1.2 0.8: write the lowest first"),
        (["--voices", "en=en+nobody"], "no voice 'en+nobody'"),
        (["--prompts", "nonsense"], "no prompt bank 'nonsense'"),
        (["--engine", "flite", "--voices", "en=slt", "--pitches", "1.5", "1.6"], "flite"),
        (["--rates", "9", "9"], "rate 0.25 to 4"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[-1],
)
def test_a_mistake_is_one_line(sonant: Run, texts: Path, tmp_path: Path, options: list[str], complaint: str) -> None:
    outcome = sonant("synth", "tts", texts, tmp_path / "out", "--language", "en", "--workers", 1, *options)
    assert complaint in outcome.complaint


def test_a_mistake_may_be_corrected_in_the_same_folder_but_another_job_may_not(
    sonant: Run, texts: Path, tmp_path: Path
) -> None:
    command = ("synth", "tts", texts, tmp_path / "out", "--language", "en", "--workers", 1, "--voices")
    assert "no voice" in sonant(*command, "en=en+nobody").complaint
    assert sonant(*command, "en=en+f3").status == 0
    assert "this folder holds another job (other voices)" in sonant(*command, "en=en+f2").complaint
    assert sonant(*command, "en=en+f3").status == 0


def test_a_part_that_fails_leaves_the_note_of_the_job_to_the_other_parts(
    sonant: Run, texts: Path, tmp_path: Path
) -> None:
    # It removed build.json while others were at their first shard; then another job could begin in the same folder.
    command = ("synth", "tts", texts, tmp_path / "out", "--language", "en", "--shard-rows", 1, "--voices")
    assert "no voice" in sonant(*command, "en=en+nobody", "--part", "0/2").complaint
    assert "another job (other voices)" in sonant(*command, "en=en+f3", "--part", "1/2").complaint


def test_the_voices_of_help_and_page_can_be_had() -> None:
    # They named en-gb, which espeak knows as a language but not as a voice.
    named = re.findall(r"--voices (?:en|de)=([-+\w,]+\b)(?!\.)", EPILOG + MIXED_MODAL_EPILOG + PAGE.read_text())
    voices = sorted({voice for names in named for voice in names.split(",")} - {"af_heart", "amy"})
    assert len(voices) >= 4
    list(EspeakSynthesizer().synthesize([SpeechRequest("yes", voice) for voice in voices]))


@pytest.mark.recipe
def test_the_slurm_script_of_the_page_builds_all_whichever_task_ends_last(tmp_path: Path) -> None:
    (script,) = re.findall(r"```text\n(#!/bin/bash\n.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "array.sh").write_text(script.replace("--language en", "--language en --shard-rows 1 --workers 1"))
    (tmp_path / "texts.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n{"text": "three"}\n')
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    tasks = [
        subprocess.Popen(
            ["bash", "array.sh"],
            cwd=tmp_path,
            env=environment | {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_COUNT": "2"},
            stdout=subprocess.DEVNULL,
        )
        for task in range(2)
    ]
    assert [task.wait(60) for task in tasks] == [0, 0]
    assert [row.reference for row in Manifest(tmp_path / "runs" / "spoken" / "rows.jsonl")] == ["one", "two", "three"]

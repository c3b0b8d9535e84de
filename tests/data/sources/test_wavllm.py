import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sonant.chat.messages import AudioPart, TextPart
from sonant.data.importer import import_corpus
from sonant.data.manifest import clip_duration_s
from sonant.errors import ConfigError, ManifestError


@pytest.fixture
def table(tmp_path: Path, tone: Callable[..., Path]) -> Path:
    tone(tmp_path / "audio/sqa.wav", 0.5)
    with zipfile.ZipFile(tmp_path / "stored.zip", "w") as archive:  # stored, as fairseq reads it
        archive.write(tmp_path / "audio/sqa.wav", "sqa.wav")
        offset = archive.infolist()[0].header_offset + 30 + len("sqa.wav")
        length = archive.infolist()[0].file_size
    (tmp_path / "SQA.tsv").write_text(
        "id\taudio\tn_frames\tprompt\ttgt_text\twith_speech\n"
        "0\taudio/sqa.wav\t111111\tWhat next? A. Run; B. </SPEECH> rest.\tA\tTrue\n"
        "1\taudio/sqa.wav\t182574\t\tThe integral .\tTrue\n"
        f"2\tstored.zip:{offset}:{length}\t111111\tWho?\tAnn\tTrue\n"
        "3\t\t0\tCapital of France?\tParis\tFalse\n"
    )
    return tmp_path / "SQA.tsv"


def test_the_recording_comes_before_the_prompt_which_may_be_empty(table: Path, imported: Callable[..., Any]) -> None:
    found = imported("wavllm", table, options={"task": "spoken_qa"})
    first, spoken, zipped, text_only = found.rows
    clip, prompt = first.messages[0].parts
    assert isinstance(clip, AudioPart)
    assert prompt == TextPart("What next? A. Run; B. </SPEECH> rest.")
    assert (first.id, first.task, first.reference, clip.duration_s) == ("SQA-0", "spoken_qa", "A", None)
    assert [type(part) for part in spoken.messages[0].parts] == [AudioPart]
    assert Path(zipped.audio_parts[0].path).read_bytes() == (table.parent / "audio/sqa.wav").read_bytes()
    assert not text_only.audio_parts


def test_frames_cut_a_part_and_bad_rows_are_dropped(table: Path, imported: Callable[..., Any]) -> None:
    table.write_text(
        "id\taudio\tprompt\ttgt_text\tstart_frame\tend_frame\n"
        "0\taudio/sqa.wav\t\tyes\t1600\t4800\n"
        "1\taudio/sqa.wav\t\tyes\t4800\t1600\n"
        "2\tstored.zip:9\t\tyes\t\t\n"
        "3\tstored.zip:0:99999999\t\tyes\t\t\n"
        "4\tstored.zip:0:40\t\tyes\t\t\n"
        "5\taudio/sqa.wav\t\t\t\t\n"
        "6\t\t\tyes\t\t\n"
    )
    found = imported("wavllm", table)
    assert [(part.offset_s, part.duration_s) for row in found.rows for part in row.audio_parts] == [(0.1, 0.2)]
    assert found.reasons == [
        ("SQA.tsv:3", "not a valid clip"),
        ("SQA.tsv:4", "recording cannot be read"),
        ("SQA.tsv:5", "recording cannot be read"),
        ("SQA.tsv:6", "not wav, flac, ogg or mp3"),
        ("SQA.tsv:7", "no answer"),
        ("SQA.tsv:8", "no recording"),
    ]


def test_a_table_of_other_columns_and_a_rate_that_is_none_are_refused(table: Path, tmp_path: Path) -> None:
    table.write_text("id\taudio\ttext\n0\ta.wav\tx\n")
    with pytest.raises(ConfigError, match="wavllm: sample_rate_hz is '16 kHz'; give samples a second"):
        import_corpus("wavllm", table, tmp_path / "o.jsonl", options={"sample_rate_hz": "16 kHz"})
    with pytest.raises(ManifestError, match="has no column 'prompt'; its columns are id, audio, text"):
        import_corpus("wavllm", table, tmp_path / "o.jsonl")


def test_lengths_are_those_of_the_recordings_and_what_is_left_out_is_counted_and_listed(
    table: Path, imported: Callable[..., Any]
) -> None:
    """Published tables say 111111 frames (6.9 s) of a clip of half a second, and rows of over 40 s vanished."""
    with table.open("a") as file:
        file.write("4\tstored.zip:9\t111111\tWho?\tAnn\tTrue\n5\taudio/sqa.wav\t111111\tWho?\t\tTrue\n")
    found = imported("wavllm", table)
    assert [clip_duration_s(part) for row in found.rows for part in row.audio_parts] == [0.5, 0.5, 0.5]
    assert found.reasons == [("SQA.tsv:6", "recording cannot be read"), ("SQA.tsv:7", "no answer")]


def test_absolute_paths_of_table_and_recording_work_wherever_the_table_lies(
    table: Path, tmp_path: Path, imported: Callable[..., Any]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    recording = (tmp_path / "audio/sqa.wav").absolute()
    moved = tmp_path / "elsewhere" / "any name.tsv"
    moved.write_text(f"id\taudio\tprompt\ttgt_text\n0\t{recording}\tWho?\tAnn\n")
    (row,) = imported("wavllm", moved.absolute()).rows
    assert Path(row.audio_parts[0].path).samefile(recording)

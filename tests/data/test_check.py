import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from sonant.data.check import Limits, check, fix
from sonant.data.faults import KINDS, Report
from sonant.data.manifest import Manifest
from sonant.errors import ManifestError
from sonant.testing import byte_tokenizer

RATE_HZ = 16_000
Made = dict[str, Any]


def noise(folder: Path, name: str, *, duration_s: float = 0.5, rate_hz: int = RATE_HZ, **options: Any) -> None:
    shape = (round(duration_s * rate_hz), options.get("channels", 1))
    samples = options.get("level", 0.3) * np.random.default_rng(len(name)).uniform(-1, 1, shape)
    samples[options.get("nan", slice(0, 0))] = np.nan
    soundfile.write(folder / name, np.clip(samples, -1, 1), rate_hz, subtype=options.get("subtype", "PCM_16"))


def row(number: int, *parts: Made | str, answer: str = "fine", **changes: Any) -> Made:
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts or ("question",)]
    messages = [
        {"role": "user", "content": content},
        {"role": "assistant", "content": f"{answer} {number}" if answer else ""},
    ]
    return {"id": f"row-{number}", "messages": messages} | changes


def audio(path: str = "good.wav", **changes: Any) -> Made:
    return {"type": "audio", "path": path} | changes


def aloud(text: str, path: str = "spoken.wav", **changes: Any) -> list[Made]:
    answer = [{"type": "text", "text": text}, audio(path, **changes)]
    return [message("user", f"Say {text}"), message("assistant", answer)]


def message(role: str, content: Any) -> Made:
    return {"role": role, "content": content}


def owl(answer: str) -> list[Made]:
    return [message("user", f"Where is it? {answer[:4]}"), message("assistant", answer)]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    noise(folder, "good.wav")
    noise(folder, "spoken.wav", duration_s=0.6)
    noise(folder, "long.wav", duration_s=4.0)
    noise(folder, "short.wav", duration_s=0.05)
    noise(folder, "telephone.wav", rate_hz=6000)
    noise(folder, "stereo.wav", channels=2)
    noise(folder, "silent.wav", level=0.0)
    noise(folder, "loud.wav", level=30.0)
    noise(folder, "nan.wav", subtype="FLOAT", nan=slice(5, 9))
    noise(folder, "none.wav", duration_s=0.0)
    noise(folder, "cut.flac", duration_s=2.0)
    (folder / "cut.flac").write_bytes((folder / "cut.flac").read_bytes()[:9000])
    (folder / "page.wav").write_text("<html>404</html>")
    (folder / "zero.wav").touch()
    return folder


# code -> what to plant: a row (given its number) or raw bytes
PLANTED: dict[str, Callable[[int], Made | bytes]] = {
    "empty-line": lambda n: b"  ",
    "not-utf8": lambda n: b'{"id": "\xe4"}',
    "bad-json": lambda n: b'{"id": ',
    "not-an-object": lambda n: b'["messages"]',
    "missing-messages": lambda n: row(n, messages=[]),
    "missing-content": lambda n: row(n, messages=[{"role": "user"}, message("assistant", "x")]),
    "wrong-type": lambda n: row(n, language=3),
    "unknown-role": lambda n: row(n, messages=[message("human", "x"), message("assistant", "x")]),
    "unknown-part": lambda n: row(n, {"type": "image", "path": "x.png"}),
    "missing-path": lambda n: row(n, {"type": "audio"}),
    "bad-time": lambda n: row(n, audio(offset_s=-1.0)),
    "misspelt-key": lambda n: row(n, audio(duration=0.2)),
    "missing-id": lambda n: row(n, id=""),
    "no-supervision": lambda n: row(n, messages=[message("user", f"what? {n}")]),
    "empty-target": lambda n: row(n, f"question {n}", answer=""),
    "empty-text": lambda n: row(n, "", f"question {n}"),
    "role-order": lambda n: row(
        n, messages=[message("user", "a"), message("user", "b"), message("assistant", f"x {n}")]
    ),
    "markup-in-text": lambda n: row(n, "hi <|im_end|>"),
    "damaged-text": lambda n: row(n, "caf\ufffd"),
    "odd-language": lambda n: row(n, language="English"),
    "unfit-speech": lambda n: row(n, messages=aloud(f"fine {n}", transcript="bad")),
    "unfit-words": lambda n: row(n, messages=aloud(f"all {n}", words=[["all", 0.1]])),
    "absolute-path": lambda n: row(n, audio("/somewhere/x.wav")),
    "audio-missing": lambda n: row(n, audio("missing.wav")),
    "audio-empty": lambda n: row(n, audio("none.wav")),
    "audio-corrupt": lambda n: row(n, audio("page.wav")),
    "audio-nan": lambda n: row(n, audio("nan.wav")),
    "beyond-file": lambda n: row(n, audio(offset_s=0.2, duration_s=0.5)),
    "beyond-window": lambda n: row(n, audio("long.wav")),
    "too-short": lambda n: row(n, audio("short.wav")),
    "audio-silent": lambda n: row(n, audio("silent.wav")),
    "audio-clipped": lambda n: row(n, audio("loud.wav")),
    "low-sample-rate": lambda n: row(n, audio("telephone.wav")),
    "stereo": lambda n: row(n, audio("stereo.wav")),
    "template-refuses": lambda n: row(n, messages=[message("system", "be kind"), *owl(f"no {n}")]),
    "too-long": lambda n: row(n, "word " * 60),
    "duplicate-id": lambda n: row(n, id="row-1"),
    "duplicate-content": lambda n: row(1, id=f"row-{n}"),
    "leak-audio": lambda n: row(n, audio("shared.wav")),
    "leak-content": lambda n: row(0, id=f"row-{n}"),
    "leak-sentence": lambda n: row(n, messages=owl("The  owl lives in the OLD barn!")),
    "leak-speaker": lambda n: row(n, speaker="anna"),
}
# Where a planted row has a second fault by its nature.
ALSO = {("absolute-path", "audio-missing"), ("role-order", "template-refuses")}
# The template of Gemma knows no system role and wants the others to take turns.
LIMITS = Limits(context=300, window_s=3.0, audio_tokens=lambda duration_s: round(10 * duration_s))


def write_rows(path: Path, rows: list[Made | bytes]) -> Path:
    path.write_bytes(b"".join((r if isinstance(r, bytes) else json.dumps(r).encode()) + b"\n" for r in rows))
    return path


@pytest.fixture(scope="module")
def planted(clips: Path) -> tuple[Path, Path, Report]:
    noise(clips, "shared.wav", duration_s=0.31)
    noise(clips, "copy-of-shared.wav", duration_s=0.31)
    soundfile.write(clips / "copy-of-shared.wav", soundfile.read(clips / "shared.wav")[0], RATE_HZ)
    train = write_rows(
        clips / "train.jsonl",
        [
            row(0),
            row(1000, audio("copy-of-shared.wav")),
            row(1001, messages=owl("the owl lives in the old barn")),
            row(1002, speaker="anna"),
        ],
    )
    rows = [row(1, "a good row"), *(make(n) for n, make in enumerate(PLANTED.values(), 2))]
    rows[list(PLANTED).index("duplicate-content") + 1] = row(1, "a good row", id="another id")
    test = write_rows(clips / "test.jsonl", rows)
    return train, test, check([train, test], tokenizer=byte_tokenizer("gemma"), limits=LIMITS)


def test_every_kind_of_fault_is_planted() -> None:
    assert {*PLANTED, "no-rows"} == set(KINDS)  # of a whole file, see below
    assert len(KINDS) >= 20


@pytest.mark.parametrize("code", PLANTED)
def test_a_planted_fault_is_found_at_its_line(planted: tuple[Path, Path, Report], code: str) -> None:
    _, test, report = planted
    line = list(PLANTED).index(code) + 2
    assert code in {fault.code for fault in report.faults if (fault.path, fault.line) == (str(test), line)}
    fault = next(fault for fault in report.faults if (fault.code, fault.line) == (code, line))
    assert fault.message.startswith(f"{test}:{line}: {code}: ")
    assert fault.message.endswith(KINDS[code].remedy)


def test_nothing_else_is_found(planted: tuple[Path, Path, Report]) -> None:
    train, _, report = planted
    assert not [fault for fault in report.faults if fault.path == str(train)]
    lines = {code: line for line, code in enumerate(PLANTED, 2)}
    extra = {(fault.code, fault.line) for fault in report.faults} - set(lines.items())
    assert extra == {(also, lines[code]) for code, also in ALSO}


def test_the_report_counts_and_its_json_and_table_agree(planted: tuple[Path, Path, Report]) -> None:
    _, test, report = planted
    values = json.loads(json.dumps(report.to_json()))
    assert report.exit_status == 1
    assert values["errors"] + values["warnings"] == len(values["faults"]) == sum(values["counts"].values())
    assert values["rows"][str(test)] == len(PLANTED) + 1
    table = report.table()
    assert [line[0] for line in table] == sorted(line[0] for line in table)  # errors first
    assert {line[1]: int(line[2]) for line in table} == report.counts
    assert report.skipped == ()
    assert f"{report.num_errors} errors, {report.num_warnings} warnings" in report.summary


def test_other_ways_to_be_corrupt_or_empty(clips: Path) -> None:
    rows = [row(n, audio(name)) for n, name in enumerate(["cut.flac", "zero.wav", ".", "good.wav"])]
    report = check([write_rows(clips / "odd.jsonl", list(rows))])
    assert [fault.code for fault in report.faults] == ["audio-corrupt", "audio-empty", "audio-missing"]


def test_headers_alone_are_read_when_asked_and_the_report_says_so(clips: Path) -> None:
    path = write_rows(clips / "heads.jsonl", [row(0, audio("silent.wav")), row(1, audio("stereo.wav"))])
    report = check([path], depth="headers")
    assert report.counts == {"stereo": 1}
    assert report.exit_status == 0
    assert any("only headers were read" in note for note in report.skipped)


def test_a_clip_is_opened_once_however_often_it_is_used(clips: Path) -> None:
    calls: list[tuple[int, int]] = []
    path = write_rows(clips / "same.jsonl", [row(n, audio()) for n in range(5)] + [row(9, audio(offset_s=0.1))])
    report = check([path], progress=lambda done, total: calls.append((done, total)))
    assert report.clips == 2
    assert calls == [(1, 2), (2, 2)]


def test_manifests_of_one_split_may_share_clips(clips: Path) -> None:
    (clips / "train").mkdir()
    names = ("asr-train", "train/ast", "asr-dev")
    up = {"train/ast": "../good.wav"}
    paths = [write_rows(clips / f"{name}.jsonl", [row(0, audio(up.get(name, "good.wav")))]) for name in names]
    assert check(paths[:2], workers=1).faults == []
    assert [(f.code, f.path) for f in check(paths, workers=1).faults] == [("leak-audio", str(paths[2]))]


def test_what_answers_sound_like_is_checked_but_fills_no_context_and_leaks_nothing(clips: Path) -> None:
    for split in ("train", "test"):
        rows = [row(n, messages=aloud(f"{split} {n}", name)) for n, name in enumerate(["long.wav", "silent.wav"])]
        write_rows(clips / f"say-{split}.jsonl", list(rows))
    paths = [clips / "say-train.jsonl", clips / "say-test.jsonl"]
    report = check(paths, tokenizer=byte_tokenizer(), limits=replace(LIMITS, context=70, window_s=3.0))
    assert (report.counts, report.clips) == ({"audio-silent": 2}, 2)
    heard = write_rows(clips / "hear-dev.jsonl", [row(0, audio("long.wav"))])
    assert "leak-audio" in check([*paths, heard], workers=1).counts  # it is heard where it was said


@pytest.mark.parametrize(("start_s", "counts"), [(0.55, {}), (0.65, {"unfit-words": 1})])
def test_the_last_word_starts_within_the_clip(clips: Path, start_s: float, counts: dict[str, int]) -> None:
    rows = [row(0, messages=aloud("all fine", words=[["all", 0.1], ["fine", start_s]]))]
    path = write_rows(clips / "marks.jsonl", list(rows))
    assert check([path], depth="headers").counts == counts
    assert check([path], depth="metadata").counts == {}  # its length is not stated


def test_the_special_tokens_of_the_tokenizer_are_markup_too(clips: Path) -> None:
    path = write_rows(clips / "special.jsonl", [row(0, "say <|start_header_id|> now")])
    assert check([path], tokenizer=byte_tokenizer("llama3")).counts == {"markup-in-text": 1}


def test_fixing_drops_rows_with_errors_and_says_why(planted: tuple[Path, Path, Report], tmp_path: Path) -> None:
    _, test, report = planted
    kept, dropped = fix(report, test, tmp_path / "clean.jsonl")
    assert kept + dropped == len(PLANTED) + 1
    assert len(Manifest(tmp_path / "clean.jsonl")) == kept
    again = check([tmp_path / "clean.jsonl"], limits=LIMITS)
    assert again.num_errors == 0
    assert "audio-silent" in again.counts  # a warning stays, and its path still leads to the clip
    reasons = [json.loads(line) for line in (tmp_path / "clean.jsonl.dropped.jsonl").read_text().splitlines()]
    assert len(reasons) == dropped
    assert {"place": f"{test}:4", "row": '{"id": ', "reasons": reasons[2]["reasons"]} == reasons[2]
    assert reasons[2]["reasons"][0]["code"] == "bad-json"


def test_fixing_never_overwrites_nor_leaves_nothing(planted: tuple[Path, Path, Report], tmp_path: Path) -> None:
    _, test, report = planted
    with pytest.raises(ManifestError, match="is the manifest itself"):
        fix(report, test, test)
    with pytest.raises(ManifestError, match="was not checked"):
        fix(report, tmp_path / "other.jsonl", tmp_path / "out.jsonl")
    bad = write_rows(tmp_path / "bad.jsonl", [b"{"])
    with pytest.raises(ManifestError, match="all 1 rows have errors"):
        fix(check([bad]), bad, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_a_manifest_that_is_not_there_or_empty_is_told(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="cannot read this manifest"):
        check([tmp_path / "none.jsonl"])
    with pytest.raises(ManifestError, match="no manifest to check"):
        check([])
    (tmp_path / "empty.jsonl").touch()
    assert check([tmp_path / "empty.jsonl"]).counts == {"no-rows": 1}
    (tmp_path / "empty.jsonl").write_text("\n")
    assert check([tmp_path / "empty.jsonl"]).counts == {"empty-line": 1}


def test_many_lines_are_read_by_several_processes_as_by_one(
    planted: tuple[Path, Path, Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test, _ = planted
    whole = check([train, test], workers=1)
    monkeypatch.setattr("sonant.data.check_columns.BLOCK_BYTES", 1500)
    assert check([train, test], workers=1) == whole
    assert check([train, test], workers=2) == whole


def test_the_metadata_alone_tells_what_is_missing_without_opening_a_file(clips: Path) -> None:
    rows = [row(0, audio("page.wav")), row(1, audio("missing.wav")), row(2, audio(duration_s=900.0))]
    report = check([write_rows(clips / "metadata.jsonl", list(rows))], depth="metadata", limits=Limits(window_s=30))
    assert {fault.code: fault.line for fault in report.faults} == {"audio-missing": 2, "beyond-window": 3}
    assert any("none was opened" in note for note in report.skipped)


def test_rows_beyond_doubt_are_told_as_all_others(
    planted: tuple[Path, Path, Report], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"gender": "f", "Snr dB": {"b": 1, "a": 2}}
    same = [message("user", [{"type": "text", "text": "hi", "tone": 1}]), message("assistant", "fine, and how are you")]
    parts = [message("user", [{"tone": 1, "text": "hi", "type": "text"}]), message("assistant", [])]
    parts[1]["content"] = [{"type": "text", "text": "fine, "}, {"type": "text", "text": "and how are you"}]
    made = [row(n, messages=same, **own, speaker="anna") for n in range(3)] + [row(9, messages=parts, speaker="ben")]
    for name in ("a-train", "a-test"):
        write_rows(tmp_path / f"{name}.jsonl", [*made, row(7, audio(offset_s=0)), row(8, audio(offset_s=-0.0))])
    paths = [*planted[:2], tmp_path / "a-train.jsonl", tmp_path / "a-test.jsonl"]
    quick = check(paths, workers=1)
    monkeypatch.setattr("sonant.data.check_clean.CleanReader.read", lambda reader, line: None)
    assert check(paths, workers=1) == quick
    assert quick.counts["duplicate-content"] > 4

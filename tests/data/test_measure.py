import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sonant.chat.messages import AudioPart, Conversation, TextPart, assistant, user
from sonant.data import measure as module
from sonant.data.blend import Group, Source, SourceRows
from sonant.data.manifest import Manifest, write
from sonant.data.measure import Measured, RowSizes, measure
from sonant.data.respan import as_written
from sonant.errors import ManifestError

SIZES = RowSizes(
    text_tokens=lambda row: sum(len(message.text) for message in row.messages),
    audio_tokens=lambda duration_s: round(10 * duration_s),
    target_tokens=lambda row: len(row.reference),
    spoken_tokens=lambda duration_s: round(100 * duration_s),
    key="letters",
)


def row(number: int, folder: Path) -> Conversation:
    clips = [
        AudioPart(str(folder / "a.wav"), duration_s=(number + 1) / 8),
        AudioPart(str(folder / "a.wav")),
        AudioPart(str(folder / "gone.wav")),
        AudioPart(str(folder / "a.wav"), duration_s=0.5, transcript="four", extra={"optional": True}),
    ]
    spoken = [AudioPart(str(folder / "a.wav"), duration_s=0.25)] if number % 3 == 0 else []
    heard = clips[: number % 5] if number else []
    return Conversation((user("x" * number, *heard), assistant(TextPart("ok"), *spoken)), task=["", "asr"][number % 2])


@pytest.fixture
def rows(tmp_path: Path) -> Callable[[], SourceRows]:
    soundfile.write(tmp_path / "a.wav", np.zeros(8000), 16_000)
    for name, numbers in (("a", range(1, 24)), ("b", range(7))):
        write(tmp_path / f"{name}.jsonl", [row(number, tmp_path) for number in numbers])
    return lambda: SourceRows(Group("all", [Source(name, Manifest(tmp_path / f"{name}.jsonl")) for name in "ab"]))


@pytest.fixture
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE_ROWS", 10)
    monkeypatch.setattr(module, "MIN_KEPT_ROWS", 10)


def columns(measured: Measured) -> list[object]:
    tasks = [measured.task_names[task] for task in measured.tasks]
    sizes = (measured.lengths, measured.target_sizes, measured.loads, measured.has_audio)
    return [tasks, *(values.tolist() for values in sizes)]


@pytest.mark.usefixtures("_small_pieces")
def test_columns_hold_what_rows_alone_have(rows: Callable[[], SourceRows]) -> None:
    tasks, lengths, targets, loads, has_audio = columns(measure(rows(), SIZES, budget=999))
    one_by_one = list(rows())
    assert lengths == [SIZES.length(row) for row in one_by_one]
    assert targets == [2] * len(one_by_one)
    assert tasks == [row.task for row in one_by_one]
    assert set(tasks) == {"asr", "a", "b"}
    assert has_audio == [bool(row.heard_parts) for row in one_by_one]
    texts = [SIZES.text_tokens(as_written(row)) for row in one_by_one]
    assert loads == [length - text for length, text in zip(lengths, texts, strict=True)]  # type: ignore[call-overload]


@pytest.mark.usefixtures("_small_pieces")
def test_kept_sizes_are_those_counted_and_texts_are_counted_once(
    rows: Callable[[], SourceRows], tmp_path: Path
) -> None:
    def never(row: Conversation) -> int:
        raise AssertionError("counted again")

    first = columns(measure(rows(), SIZES, budget=999))
    kept = replace(SIZES, text_tokens=never, target_tokens=never)
    with pytest.raises(AssertionError, match="counted again"):  # b has too few rows to be kept
        measure(rows(), kept, budget=999)
    a = SourceRows(Source("a", Manifest(tmp_path / "a.jsonl")))
    again = columns(measure(a, kept, budget=999))
    assert again == [column[:23] for column in first]  # type: ignore[index]
    assert again == columns(measure(a, replace(SIZES, key=""), budget=999))
    assert columns(measure(a, replace(kept, audio_tokens=lambda s: 0), budget=999)) != again  # another encoder
    with pytest.raises(AssertionError, match="counted again"):
        measure(a, replace(kept, key="words"), budget=999)
    soundfile.write(tmp_path / "a.wav", np.zeros(32_000), 16_000)  # the lengths of recordings are never kept
    assert columns(measure(a, kept, budget=999)) == columns(measure(a, replace(SIZES, key=""), budget=999)) != again


@pytest.mark.usefixtures("_small_pieces")
def test_a_changed_row_is_counted_again_with_its_piece(rows: Callable[[], SourceRows], tmp_path: Path) -> None:
    seen: list[str] = []

    def count(row: Conversation) -> int:
        seen.append(row.messages[0].text)
        return SIZES.text_tokens(row)

    sizes = replace(SIZES, text_tokens=count)
    measure(rows(), sizes, budget=999)
    changed = [row(number, tmp_path) for number in [*range(1, 23), 30]]
    write(tmp_path / "a.jsonl", changed)
    seen.clear()
    measured = measure(SourceRows(Source("a", Manifest(tmp_path / "a.jsonl"))), sizes, budget=999)
    assert seen == ["x" * number for number in (21, 22, 30)]
    assert int(measured.lengths[-1]) > 30


@pytest.mark.usefixtures("_small_pieces")
def test_sizes_are_kept_by_what_was_counted_though_the_file_was_another_when_it_was_hashed(
    rows: Callable[[], SourceRows], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(row: Conversation) -> int:
        raise AssertionError("counted again")

    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "digest", lambda manifest, first, end: b"of what stood there %d" % first)
        first = columns(measure(rows(), SIZES, budget=999))
        a = SourceRows(Source("a", Manifest(tmp_path / "a.jsonl")))
        with pytest.raises(AssertionError, match="counted again"):
            measure(a, replace(SIZES, text_tokens=never), budget=999)
    again = columns(measure(a, replace(SIZES, text_tokens=never), budget=999))
    assert again == [column[:23] for column in first]  # type: ignore[index]


@pytest.mark.usefixtures("_small_pieces")
def test_a_damaged_or_impossible_folder_costs_time_only(
    rows: Callable[[], SourceRows], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = columns(measure(rows(), SIZES, budget=999))
    for path in (tmp_path / module.FOLDER).iterdir():
        path.write_bytes(path.read_bytes()[:100])
    assert columns(measure(rows(), SIZES, budget=999)) == first
    assert caplog.text.count("its rows are counted again") == 3
    for path in (tmp_path / module.FOLDER).iterdir():
        path.unlink()
    (tmp_path / module.FOLDER).rmdir()
    (tmp_path / module.FOLDER).touch()
    with caplog.at_level(logging.INFO, module.__name__):
        assert columns(measure(rows(), SIZES, budget=999)) == first
    assert "sizes of rows are not kept" in caplog.text


@pytest.mark.parametrize("durations_s", [(1e10,), (1e8, 1e8), (1e300,)])
def test_clips_of_years_are_refused_and_do_not_wrap_around(tmp_path: Path, durations_s: tuple[float, ...]) -> None:
    # Two clips of 1e8 s were -1,794,967,293 tokens together, which is in any budget.
    clips = [AudioPart("a.wav", duration_s=duration_s) for duration_s in durations_s]
    write(tmp_path / "a.jsonl", [Conversation((user(*clips), assistant("ok")), id="long")])
    rows = SourceRows(Group("all", [Source("a", Manifest(tmp_path / "a.jsonl"))]))
    with pytest.raises(ManifestError, match=r"a.jsonl:1: row 'long' has \d+ tokens, token_budget is 999"):
        measure(rows, SIZES, budget=999)

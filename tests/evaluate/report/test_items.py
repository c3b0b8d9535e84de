import base64
import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from sonant.errors import EvaluationError
from sonant.evaluate.compare import compare
from sonant.evaluate.report.audio import Clips
from sonant.evaluate.report.items import MAX_ITEMS, Stretch, stretches, task_differences
from sonant.evaluate.report.page import write_comparison, write_report

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
HOW = {"has_audio": True, "headline": "wer", "higher_is_better": False, "normalizer": "basic", "n": 1}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of a page's time, and is tested with the report."""
    monkeypatch.setattr("sonant.evaluate.report.figures.FIGURES", {})


def item(number: int, system: str, cascade: str, *, reference: str = "the cat sat", **more: Any) -> dict[str, Any]:
    return {"id": f"i{number}", "task": "asr", "reference": reference, "system": system, "cascade": cascade, **more}


def differences(items: list[dict[str, Any]], folder: Path = Path(), **how: Any) -> Any:
    pairs, clips = [(each, each) for each in items], Clips(folder / "page.html")
    return task_differences("asr", pairs, ("system", "cascade"), how={**HOW, **how}, clips=clips, folder=folder)


def make_run(folder: Path, items: list[dict[str, Any]], **how: Any) -> Path:
    folder.mkdir()
    score = {"value": 1.0, "low": 0.0, "high": 2.0, "n": 1}
    results = {each["task"]: {**HOW, "metrics": {"wer": {"system": score}}, "differences": {}, **how} for each in items}
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "items.jsonl").write_text("".join(json.dumps(each) + "\n" for each in items))
    return folder


def tone(path: Path, *, seconds: float = 0.5) -> Path:
    path.parent.mkdir(exist_ok=True)
    wave = 0.5 * np.sin(np.arange(int(8000 * seconds)) / 3).astype(np.float32)
    soundfile.write(path, wave, 8000)
    return path


class Tags(HTMLParser):
    """What a browser would make of a page: the names of its elements, the values of each attribute, its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: dict[str, list[str | None]] = {}
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, []).append(value)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_words_are_marked_against_the_reference() -> None:
    marked = stretches(["a", "cat", "sat", "down"], ["the", "cat", "sat"])
    assert marked == (
        Stretch("wrong", "a"),
        Stretch("missing", "the"),
        Stretch("same", "cat sat"),
        Stretch("wrong", "down"),
    )
    assert stretches([], ["x"]) == (Stretch("missing", "x"),)
    assert stretches("猫坐", "猫座", joint="")[0] == Stretch("same", "猫")


def test_without_rapidfuzz_a_page_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rapidfuzz.distance", None)
    with pytest.raises(EvaluationError, match=r"pip install 'sonant\[eval\]'"):
        stretches(["a"], ["b"])


def test_only_items_that_differ_after_normalisation_are_shown_the_largest_difference_first() -> None:
    items = [
        item(0, "The cat sat.", "the cat sat"),
        item(1, "the cat sat", "a cat sat"),
        item(2, "a dog ran", "the cat sat"),
        item(3, "the cat", "the cat sits"),
    ]
    found = differences(items)
    assert [shown.id for shown in found.shown] == ["i2", "i1", "i3"]
    assert [shown.better for shown in found.shown] == ["second", "first", "neither"]
    assert (found.num_items, found.num_differing) == (4, 3)
    assert found.num_better == {"first": 1, "second": 1, "neither": 1}
    assert [shown.first.points == 100 for shown in found.shown] == [False, True, False]


def test_nobody_is_better_where_the_judge_failed() -> None:
    scores = {"judge": {"system": [5, 5], "cascade": [0, 0]}}
    (shown,) = differences([item(0, "a", "b", scores=scores)], headline="judge", higher_is_better=True).shown
    assert (shown.first.points, shown.second.points, shown.better) == (100.0, None, "neither")


def test_what_is_not_shown_is_counted(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [item(i, "the cat sat", "a") for i in range(MAX_ITEMS + 1)])
    html = write_report([run], out=tmp_path / "page.html").read_text()
    assert html.count('<article class="item') == MAX_ITEMS
    assert f"{MAX_ITEMS + 1} <small>({MAX_ITEMS} with the largest difference below)" in html


def test_a_clip_is_linked_from_the_page_with_the_part_that_was_heard(tmp_path: Path) -> None:
    tone(tmp_path / "my clips" / "a#1.wav")
    clips = Clips(tmp_path / "pages" / "page.html")
    values = {"path": "../my clips/a#1.wav", "offset_s": 0.1, "duration_s": 0.25}
    assert clips.clip(values, tmp_path / "run").missing == "there is no ../my clips/a#1.wav"
    (tmp_path / "run").mkdir()
    assert clips.clip(values, tmp_path / "run").address == "../my%20clips/a%231.wav#t=0.100,0.350"
    assert clips.clip({"path": None, "transcript": "x"}, tmp_path).missing == "the recording is held in the manifest"
    assert clips.num_linked == 1


def test_an_embedded_clip_is_the_part_that_was_heard(tmp_path: Path) -> None:
    clips = Clips(tmp_path / "page.html", embed=True)
    values = {"path": str(tone(tmp_path / "a.wav")), "offset_s": 0.1, "duration_s": 0.25}
    kind, data = clips.clip(values, tmp_path).address.split(",")
    heard, rate_hz = soundfile.read(io.BytesIO(base64.b64decode(data)))
    whole, _ = soundfile.read(tmp_path / "a.wav")
    assert (kind, rate_hz, clips.num_linked) == ("data:audio/flac;base64", 8000, 0)
    np.testing.assert_array_equal(heard, whole[800:2800])


def test_a_full_page_or_a_file_that_is_no_recording_is_linked_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sonant.evaluate.report.audio.MAX_EMBEDDED_BYTES", 1000)
    (tmp_path / "b.wav").write_text("no sound")
    tone(tmp_path / "a.wav")
    items = [item(i, "x", "y", clips=[{"path": f"../{name}"}]) for i, name in enumerate(("a.wav", "b.wav"))]
    html = write_report([make_run(tmp_path / "run", items)], out=tmp_path / "p.html", embed_audio=True).read_text()
    assert re.findall(r'<audio[^>]* src="([^"]*)"', html) == ["a.wav", "b.wav"]
    assert "2 recordings are linked, not held here" in html


def test_nothing_on_the_page_runs_whatever_a_run_holds(tmp_path: Path) -> None:
    clips = [{"path": f"/nowhere/{HOSTILE}"}, {"path": "../a.wav", "transcript": HOSTILE}]
    tone(tmp_path / "a.wav")
    hostile = item(0, HOSTILE, HOSTILE * 2, reference=HOSTILE, prompt=HOSTILE, wording="test " + HOSTILE, clips=clips)
    run = make_run(tmp_path / "run", [{**hostile, "id": HOSTILE, "task": HOSTILE}])
    other = make_run(tmp_path / "other", [{**hostile, "id": HOSTILE, "task": HOSTILE, "system": "b" + HOSTILE}])
    pages = [write_report([run], out=tmp_path / "p.html")]
    pages.append(write_comparison(compare(run, other), out=tmp_path / "c.html"))
    for page in pages:
        seen = Tags(page.read_text())
        assert not seen.names & {"script", "link", "iframe", "object", "embed", "img", "base", "form"}
        assert not [name for name in seen.attributes if name.startswith("on")]
        assert seen.attributes["src"] == ["a.wav"]
        assert HOSTILE in seen.text
        assert "default-src 'none'" in seen.attributes["content"][-1]


def test_filters_name_items_by_number_and_every_rule_has_its_button(tmp_path: Path) -> None:
    html = write_report([make_run(tmp_path / "run", [item(0, "a", "b")])], out=tmp_path / "page.html").read_text()
    buttons = set(re.findall(r'<input type="radio" name="\w+" id="(\w+)"', html))
    rules = set(re.findall(r":has\(#(\w+):checked\)", html))
    assert rules == buttons - {"s0all", "s0any", "s0task"}  # these hide nothing
    assert 'class="item t0 neither" style="--gap: 0; --id: 0"' in html


def test_a_comparison_shows_scores_items_and_what_is_left_out(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", [item(0, "the cat sat", ""), item(1, "x", ""), item(2, "x", "")])
    b = make_run(tmp_path / "b", [item(0, "a cat sat", ""), item(1, "x", "")])
    html = write_comparison(compare(a, b), out=tmp_path / "page.html").read_text()
    assert html.count('<article class="item') == 1
    assert "a is better" in html
    assert "<mark>a</mark> <del>the</del> cat sat" in html
    assert "asr: 1 rows only in A (i2)" in html

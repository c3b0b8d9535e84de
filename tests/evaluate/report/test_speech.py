import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest

from sonant.audio.io import save
from sonant.evaluate.report.page import write_report
from sonant.testing import tone


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One row that was answered aloud, measured by a listener."""
    monkeypatch.setattr("sonant.evaluate.report.figures.FIGURES", {})
    score = {"value": 12.5, "low": 0.0, "high": 25.0, "n": 1, "signature": ""}
    result: dict[str, Any] = {
        "n": 1, "has_audio": True, "headline": "exact_match", "higher_is_better": True, "normalizer": "basic",
        "metrics": {"exact_match": {"system": score}}, "differences": {},
        "speech": {"wer": {"ears": {"spoken": score, "real": score, "spoken minus real": score}}},
    }  # fmt: skip
    for name in ("prompt", "real", "spoken"):
        save(tmp_path / f"{name}.wav", tone(0.5), sample_rate_hz=16_000)
    speech = {
        "path": "spoken.wav", "text": "a <b>bear</b>", "duration_s": 0.5, "text_finished": True,
        "speech_finished": False, "heard": {"ears": "a boar"}, "real": {"path": "real.wav"},
    }  # fmt: skip
    item = {"id": "row-1", "task": "qa", "prompt": "[clip 1]", "clips": [{"path": "prompt.wav", "transcript": "who"}]}
    item |= {"reference": "a bear", "system": "a bear", "speech": speech}
    (tmp_path / "results.json").write_text(json.dumps({"qa": result}))
    (tmp_path / "items.jsonl").write_text(json.dumps(item) + "\n")
    return tmp_path


def test_prompt_real_answer_and_spoken_one_can_be_seen_and_heard(run: Path) -> None:
    html = write_report([run], out=run / "report.html").read_text()
    pictures = re.findall(r'<img src="data:image/png;base64,([^"]+)" width="(\d+)" alt="log mels of ([^"]+)">', html)
    assert [name for _, _, name in pictures] == ["prompt", "real answer", "spoken"]
    assert {base64.b64decode(data)[1:4] for data, _, _ in pictures} == {b"PNG"}
    assert {int(width) for _, width, _ in pictures} == {2 * 37}  # 8,000 samples: 1 + (8000 - 800) // 200 frames
    for name in ("prompt", "real", "spoken"):
        assert f'src="{name}.wav"' in html
    assert "img-src data:;" in html


def test_what_was_written_and_heard_stands_beside_it_as_text(run: Path) -> None:
    html = write_report([run], out=run / "report.html").read_text()
    assert "a &lt;b&gt;bear&lt;/b&gt;" in html
    assert "ears hears “a boar”" in html
    assert "did not end by itself" in html
    assert "<td>12.5 [0, 25]</td>" in html


def test_the_report_still_needs_no_other_file_with_its_recordings_inside(run: Path) -> None:
    html = write_report([run], out=run / "report.html", embed_audio=True).read_text()
    assert html.count("data:audio/flac;base64,") == 3
    assert not re.findall(r'src="(?!data:)', html)


def test_a_recording_that_is_gone_is_named(run: Path) -> None:
    (run / "real.wav").unlink()
    html = write_report([run], out=run / "report.html").read_text()
    assert "there is no real.wav" in html

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from sonant.audio.io import save
from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.cli.data import app
from sonant.data.manifest import write
from sonant.errors import ConfigError, ManifestError


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    save(tmp_path / "a.wav", rng.uniform(-0.5, 0.5, 8000).astype(np.float32), sample_rate_hz=16_000)
    rows = [
        Conversation((user(AudioPart("a.wav"), "[bold]what?"), assistant("yes")), id="1", task="qa"),
        Conversation((user(AudioPart("b.wav")), assistant("no")), id="2", task="qa"),
    ]
    write(tmp_path / "train.jsonl", rows)
    return tmp_path / "train.jsonl"


def test_check_prints_faults_writes_json_and_exits_with_1(manifest: Path) -> None:
    report = manifest.with_name("report.json")
    result = CliRunner().invoke(app, ["check", str(manifest), "--json", str(report)])
    assert result.exit_code == 1
    assert "audio-missing" in result.stdout
    assert "2 rows and 2 clips in 1 manifests: 1 errors, 0 warnings" in result.stdout
    assert json.loads(report.read_text())["faults"][0]["line"] == 2


def test_fix_leaves_a_manifest_that_passes(manifest: Path) -> None:
    clean = manifest.with_name("clean-train.jsonl")
    result = CliRunner().invoke(app, ["check", str(manifest), "--fix", str(clean)])
    assert "1 rows kept, 1 dropped" in result.stdout
    assert CliRunner().invoke(app, ["check", str(clean), "--headers-only"]).exit_code == 0
    folder = manifest.with_name("fixed")
    CliRunner().invoke(app, ["check", str(manifest), str(clean), "--fix", str(folder)])
    assert sorted(p.name for p in folder.glob("*[a-z].jsonl") if "dropped" not in p.name) == [
        "clean-train.jsonl",
        "train.jsonl",
    ]


def test_stats_prints_tables_and_a_summary(manifest: Path) -> None:
    out = manifest.with_name("stats.json")
    result = CliRunner().invoke(app, ["stats", str(manifest), "--json", str(out)])
    assert result.exit_code == 0
    assert "2 rows (0.0% text only), 2 answers, 2 clips" in result.stdout
    assert "1 clips cannot be opened" in result.stdout
    assert json.loads(out.read_text())["by"]["task"]["qa"]["rows"] == 2


def test_mistakes_are_errors_of_ours(manifest: Path) -> None:
    result = CliRunner().invoke(app, ["check", str(manifest), "--context", "9"])
    assert isinstance(result.exception, ConfigError)
    result = CliRunner().invoke(app, ["stats", str(manifest.with_name("none.jsonl"))])
    assert isinstance(result.exception, ManifestError)


def test_help_shows_examples_and_needs_no_torch() -> None:
    result = CliRunner().invoke(app, ["check", "--help"])
    assert "sonant data check train.jsonl" in result.stdout
    code = "import sys, sonant.cli.data; print('torch' in sys.modules, 'numpy' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from sonant.audio.io import save
from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.cli.data import app
from sonant.data.frame_cache import FrameCache
from sonant.data.manifest import Manifest, write
from sonant.errors import ConfigError, ManifestError, ModelError
from sonant.testing import tone


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    for name, seconds in [("a", 0.4), ("b", 0.6)]:
        save(tmp_path / f"{name}.wav", tone(seconds), sample_rate_hz=16_000)
    names = ["a.wav", "b.wav", "a.wav"]
    rows = [Conversation((user(AudioPart(n)), assistant("yes")), id=str(i)) for i, n in enumerate(names)]
    write(tmp_path / "train.jsonl", rows)
    return tmp_path / "train.jsonl"


def cache(manifest: Path, *options: str) -> str:
    out = manifest.parent / "frames"
    result = CliRunner().invoke(app, ["cache-features", str(manifest), "--out", str(out), *options])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return f"{result.exit_code}\n{result.stdout}"


def test_frames_of_the_tiny_encoder_are_written_counted_and_kept(manifest: Path) -> None:
    told = cache(manifest, "--average", "2")
    assert "TinyEncoder-" in told
    assert "160 wide at 12.5 Hz" in told
    assert "2, of which 2 new" in told
    assert told.startswith("0\n")
    frames = FrameCache(manifest.parent / "frames")
    assert [frames(row.audio_parts[0]).shape for row in Manifest(manifest)] == [(5, 160), (8, 160), (5, 160)]
    assert "2, of which 0 new" in cache(manifest, "--average", "2")
    with pytest.raises(ManifestError, match=r"holds frames of TinyEncoder-.* at 12.5 Hz, and this is .* at 25 Hz"):
        cache(manifest)


def test_a_missing_recording_is_told_and_the_exit_status_says_so(manifest: Path) -> None:
    (manifest.parent / "b.wav").unlink()
    told = cache(manifest)
    assert told.startswith("1\n")
    assert "1 clips have no frames" in told


def test_an_unknown_setting_of_the_encoder_is_named(manifest: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'dtypo' \(did you mean 'dtype'"):
        cache(manifest, "-o", "dtypo=bfloat16")


def test_a_gpu_that_is_not_there_is_told(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*size: int, device: torch.device) -> None:
        raise AssertionError("Torch not compiled with CUDA enabled")

    monkeypatch.setattr("sonant.models.device.torch.empty", refuse)
    with pytest.raises(ModelError, match="device 'cuda' cannot be used"):  # it was a traceback of torch's
        cache(manifest, "--device", "cuda")

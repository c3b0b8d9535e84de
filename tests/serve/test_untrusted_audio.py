"""The decoding worker and its keeper: every recording gets samples or a reason, and the next one is heard."""

import asyncio
import dataclasses
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from serving import scripted_service
from starlette.testclient import TestClient

from bench.damaged import FORMATS, SILENT_AAC, encoded, tone
from sonant.audio.io import load
from sonant.errors import AudioError, ClosingError, ConfigError
from sonant.serve import untrusted_audio
from sonant.serve.app import create_app
from sonant.serve.decode_worker import decode as decode_here
from sonant.serve.untrusted_audio import AudioDecoder, as_part

GOOD = encoded("wav", tone(0.5))
MIB = 2**20

rng = np.random.default_rng(0)


@pytest.mark.parametrize(
    "samples",
    [tone(0.3), np.float32([0.1]), rng.standard_normal(12_345).astype(np.float32), np.float32([1e-42, -8, 3.3e-5])],
    ids=["tone", "one sample", "noise beyond 1", "extremes"],
)
def test_a_part_is_read_back_exactly(samples: np.ndarray) -> None:
    part = as_part(samples)
    assert isinstance(part.source, bytes)
    np.testing.assert_array_equal(load(part.source), samples)
    assert part.key == as_part(samples.copy()).key


@pytest.mark.parametrize("samples", [np.zeros(0, np.float32), np.zeros((2, 5), np.float32), np.float32(1.0)])
def test_a_part_needs_a_row_of_samples(samples: np.ndarray) -> None:
    with pytest.raises(AudioError, match=r"one row \(S,\)"):
        as_part(samples)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_becomes_mono_at_16_khz(kind: str) -> None:
    samples = decode_here(encoded(kind, tone(0.5)), max_duration_s=1.0)
    assert samples.dtype == np.float32
    assert len(samples) == pytest.approx(8000, abs=1100)
    spectrum = np.abs(np.fft.rfft(samples))
    assert np.fft.rfftfreq(len(samples), 1 / 16_000)[spectrum.argmax()] == pytest.approx(440, abs=3)


@pytest.mark.parametrize("loudness", [100.0, 1e30, 3.4e38])
def test_float_samples_far_beyond_full_scale_are_refused(loudness: float) -> None:
    # Squared, they overflow: the features, and then the answer, would be NaN.
    import io

    import soundfile

    for rate_hz in (16_000, 44_100):  # a resampler makes infinities of the largest
        clip = io.BytesIO()
        soundfile.write(clip, loudness * tone(0.2), rate_hz, format="WAV", subtype="FLOAT")
        with pytest.raises(AudioError, match=r"the peak is .*; float samples lie in \[-1, 1\]"):
            decode_here(clip.getvalue(), max_duration_s=1.0)


# What follows starts processes.


@pytest.fixture(scope="module")
def decoder() -> Iterator[AudioDecoder]:
    decoder = AudioDecoder(memory_bytes=256 * MIB, timeout_s=20.0)
    yield decoder
    decoder.close()


@pytest.fixture(scope="module")
def fragile() -> Iterator[AudioDecoder]:
    """A decoder that obeys orders to fail, in 2 s at most."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(untrusted_audio, "WORKER", "fragile_worker")
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        patch.setenv("SONANT_KEY", "secret")
        patch.setenv("HF_TOKEN", "secret")
        decoder = AudioDecoder(memory_bytes=256 * MIB, timeout_s=2.0)
        yield decoder
        decoder.close()


def heard(decoder: AudioDecoder, data: bytes, *, max_duration_s: float = 10.0) -> np.ndarray | str:
    """The samples, or why there are none."""
    try:
        return asyncio.run(decoder.decode(data, max_duration_s=max_duration_s))
    except AudioError as error:
        return str(error)


@pytest.mark.recipe
@pytest.mark.parametrize("kind", FORMATS)
def test_the_worker_gives_what_decoding_here_gives(decoder: AudioDecoder, kind: str) -> None:
    data = encoded(kind, tone(0.5))
    samples = heard(decoder, data)
    assert isinstance(samples, np.ndarray)
    np.testing.assert_array_equal(samples, decode_here(data, max_duration_s=10.0))
    samples[:] = 0  # the caller's own


@pytest.mark.recipe
def test_a_refusal_is_told_in_the_words_of_decoding_here(decoder: AudioDecoder) -> None:
    for data in (b"", b"not audio", GOOD[:1000], encoded("webm", tone(0.5))[:2000]):
        with pytest.raises(AudioError) as caught:
            decode_here(data, max_duration_s=10.0)
        assert heard(decoder, data) == str(caught.value)
    assert isinstance(heard(decoder, GOOD), np.ndarray)


@pytest.mark.recipe
@pytest.mark.parametrize("order", ["SEGV", "KILL", "ABRT", "RAISE", "FLOOD", "EMPTY"])
def test_a_recording_that_brings_its_decoder_down_is_refused_and_the_next_one_is_heard(
    fragile: AudioDecoder, order: str, caplog: pytest.LogCaptureFixture
) -> None:
    restarts = fragile.restarts
    with caplog.at_level(logging.WARNING):
        said = heard(fragile, order.encode())
    assert (
        said
        == f"audio of {len(order)} bytes: cannot be decoded; it is damaged or not audio; convert or record it again"
    )
    assert "is started anew" in caplog.text
    assert fragile.restarts == restarts + 1
    assert isinstance(heard(fragile, GOOD), np.ndarray)


@pytest.mark.recipe
def test_a_server_whose_decoder_dies_refuses_that_request_alone(fragile: AudioDecoder) -> None:
    service = dataclasses.replace(scripted_service(), decoder=fragile)
    client = TestClient(create_app(service), base_url="http://localhost")  # not entered: it would close the decoder
    told = []
    for data in (GOOD, b"SEGV", GOOD, b"KILL", GOOD):
        files = {"file": ("clip", data)}
        told.append(client.post("/v1/audio/transcriptions", data={"model": "tiny"}, files=files).status_code)
    assert told == [200, 400, 200, 400, 200]


@pytest.mark.recipe
@pytest.mark.parametrize("order", ["HANG", "SPIN"])
def test_a_recording_that_hangs_its_decoder_is_refused_in_time_and_the_next_one_is_heard(
    fragile: AudioDecoder, order: str
) -> None:
    assert isinstance(heard(fragile, GOOD), np.ndarray)  # it is up
    start = time.monotonic()
    said = heard(fragile, order.encode())
    assert isinstance(said, str)
    assert "takes longer than 2 s to decode" in said
    assert time.monotonic() - start < 10
    assert isinstance(heard(fragile, GOOD), np.ndarray)


@pytest.mark.recipe
def test_a_recording_that_wants_more_memory_than_allowed_is_refused_by_a_worker_that_lives_on(
    fragile: AudioDecoder,
) -> None:
    assert isinstance(heard(fragile, GOOD), np.ndarray)
    before = fragile._workers[0].process.pid
    said = heard(fragile, b"MEMORY")
    assert isinstance(said, str)
    assert "more memory to decode than is allowed" in said
    assert isinstance(heard(fragile, GOOD), np.ndarray)
    assert fragile._workers[0].process.pid == before


@pytest.mark.recipe
def test_what_a_library_prints_does_not_mix_with_the_replies(
    fragile: AudioDecoder, capfd: pytest.CaptureFixture[str]
) -> None:
    assert isinstance(heard(fragile, b"PRINT   " + GOOD), np.ndarray)
    assert "0xdeadbeef" not in "".join(capfd.readouterr())


@pytest.mark.recipe
def test_a_decoder_that_was_taken_over_reaches_no_key_no_file_no_socket(fragile: AudioDecoder) -> None:
    assert heard(fragile, b"SPY") == "nothing"


@pytest.mark.recipe
def test_a_worker_that_died_while_idle_costs_no_recording(fragile: AudioDecoder) -> None:
    assert isinstance(heard(fragile, GOOD), np.ndarray)
    process = fragile._workers[0].process
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it is dead, and nobody has noticed
    assert isinstance(heard(fragile, GOOD), np.ndarray)


@pytest.mark.recipe
def test_a_bomb_is_refused_within_the_memory_that_its_allowed_seconds_take(decoder: AudioDecoder) -> None:
    # 25 MB that stand for 40 hours, 9 GB of samples; and half an hour of silence in 90 kB of FLAC.
    import io

    import soundfile

    silence = io.BytesIO()
    soundfile.write(silence, np.zeros(1800 * 8000, np.int16), 8000, format="FLAC")
    bombs = [SILENT_AAC * 2_300_000, silence.getvalue()]
    assert isinstance(heard(decoder, GOOD), np.ndarray)
    before = peak_bytes(decoder)
    for bomb in bombs:
        said = heard(decoder, bomb, max_duration_s=60.0)
        assert isinstance(said, str)
        assert "longer than 60 s" in said
    # Twice the samples, the bytes themselves as they come through the pipe, and what libraries hold.
    assert peak_bytes(decoder) - before < 2 * 60 * 16_000 * 4 + 2 * len(bombs[0]) + 16 * MIB
    assert isinstance(heard(decoder, GOOD), np.ndarray)


def peak_bytes(decoder: AudioDecoder) -> int:
    """The most memory that the worker ever held."""
    status = Path(f"/proc/{decoder._workers[0].process.pid}/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


@pytest.mark.recipe
def test_many_at_once_each_get_their_own_answer_from_several_workers() -> None:
    clips = [encoded("wav", tone(0.1 + 0.01 * number)) for number in range(40)]
    clips[7] = b"not audio"
    decoder = AudioDecoder(memory_bytes=256 * MIB, timeout_s=20.0, workers=2)

    async def all_of_them() -> list[object]:
        work = [decoder.decode(clip, max_duration_s=1.0) for clip in clips]
        return list(await asyncio.gather(*work, return_exceptions=True))

    try:
        answers = asyncio.run(all_of_them())
    finally:
        decoder.close()
    assert isinstance(answers.pop(7), AudioError)
    lengths = [len(answer) for answer in answers if isinstance(answer, np.ndarray)]
    assert lengths == [1600 + 160 * number for number in range(40) if number != 7]


@pytest.mark.recipe
def test_a_large_recording_and_its_many_samples_pass_through_the_pipes(decoder: AudioDecoder) -> None:
    samples = np.tile(tone(1.0, rate_hz=16_000), 120)
    part = as_part(samples)
    assert isinstance(part.source, bytes)
    heard_back = heard(decoder, part.source, max_duration_s=120.0)
    assert isinstance(heard_back, np.ndarray)
    np.testing.assert_array_equal(heard_back, samples)


@pytest.mark.recipe
def test_closing_ends_every_process_at_once_and_what_comes_after_is_told_so() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(untrusted_audio, "WORKER", "fragile_worker")
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        decoder = AudioDecoder(memory_bytes=256 * MIB, timeout_s=60.0, workers=2)

        async def close_while_it_hangs() -> None:
            await decoder.decode(GOOD, max_duration_s=1.0)
            hanging = asyncio.ensure_future(decoder.decode(b"HANG", max_duration_s=1.0))
            await asyncio.sleep(0.2)
            await asyncio.to_thread(decoder.close)
            with pytest.raises(AudioError):
                await hanging
            with pytest.raises(ClosingError, match="shutting down"):
                await decoder.decode(GOOD, max_duration_s=1.0)

        start = time.monotonic()
        asyncio.run(close_while_it_hangs())
        decoder.close()  # twice is once
        assert time.monotonic() - start < 30
        for worker in decoder._workers:
            assert worker.process.returncode is not None
            assert not Path(f"/proc/{worker.process.pid}").exists(), "a zombie"


@pytest.mark.recipe
def test_a_worker_ends_by_itself_when_the_server_is_killed() -> None:
    code = (
        "import os, signal; from sonant.serve.untrusted_audio import AudioDecoder; import asyncio, pathlib, sys\n"
        "decoder = AudioDecoder(memory_bytes=2**28, timeout_s=20)\n"
        f"asyncio.run(decoder.decode(bytes.fromhex('{SILENT_AAC.hex()}'), max_duration_s=1))\n"
        "print(decoder._workers[0].process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    worker = Path(f"/proc/{done.stdout.strip()}/cmdline")
    until = time.monotonic() + 10
    while worker.exists() and b"decode_worker" in worker.read_bytes():
        assert time.monotonic() < until, "the worker outlives its server"
        time.sleep(0.01)


@pytest.mark.recipe
def test_a_worker_that_cannot_start_is_our_fault_and_is_told_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(untrusted_audio, "WORKER", "sonant.serve.no_such_worker")
    decoder = AudioDecoder(memory_bytes=256 * MIB, timeout_s=20.0)
    with pytest.raises(ConfigError, match=r"does not start.*pip install 'sonant\[serve\]'"):
        asyncio.run(decoder.decode(GOOD, max_duration_s=1.0))
    decoder.close()
    assert "no_such_worker" in capfd.readouterr().err


@pytest.mark.recipe
def test_modules_of_the_folder_that_the_server_is_started_in_are_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # `cd` into a stranger's model and `sonant serve .`: Python would look there first.
    for name in ("av", "soundfile", "numpy"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    decoder = AudioDecoder(memory_bytes=256 * MIB, timeout_s=20.0)
    assert isinstance(heard(decoder, GOOD), np.ndarray)
    decoder.close()
    assert not (tmp_path / "ran").exists()


def test_no_seconds_left_is_the_requests_fault() -> None:
    decoder = object.__new__(AudioDecoder)  # it never comes to asking a worker
    for seconds in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(AudioError, match="no seconds of audio are left"):
            asyncio.run(decoder.decode(GOOD, max_duration_s=seconds))

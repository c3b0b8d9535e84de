import io
import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sonant.audio.io import AudioInfo, info, load, resample, save
from sonant.errors import AudioError

RATE_HZ = 16_000
ENCODINGS = {
    "wav": ("WAV", "PCM_16"),
    "wav-float": ("WAV", "FLOAT"),
    "flac": ("FLAC", "PCM_16"),
    "vorbis": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}


def tone(duration_s: float = 1.0, *, sample_rate_hz: int = RATE_HZ, frequency_hz: float = 440.0) -> np.ndarray:
    times = np.arange(round(duration_s * sample_rate_hz)) / sample_rate_hz
    return (0.5 * np.sin(2 * np.pi * frequency_hz * times)).astype(np.float32)


def speechlike(duration_s: float) -> np.ndarray:
    """A tone that swells and noise that comes and goes: hard for encoders that save bits for later."""
    samples = tone(duration_s)
    places = np.arange(len(samples))
    noise = np.random.default_rng(0).standard_normal(len(samples)) * (places % 20_000 > 9_000)
    return (0.5 * samples * np.abs(np.sin(places / 9_000)) + 0.05 * noise).astype(np.float32)


def encoded(samples: np.ndarray, encoding: str = "wav", *, sample_rate_hz: int = RATE_HZ) -> bytes:
    container, subtype = ENCODINGS[encoding]
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sample_rate_hz, format=container, subtype=subtype)
    return buffer.getvalue()


def with_data_size(wav: bytes, size: int) -> bytes:
    """The WAV with another claim of how many bytes of samples it holds."""
    at = wav.index(b"data") + 4
    return wav[:at] + struct.pack("<I", size) + wav[at + 4 :]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_format_gives_back_the_samples_by_path_and_by_bytes(encoding: str, tmp_path: Path) -> None:
    data = encoded(tone(), encoding)
    path = tmp_path / "recording"
    path.write_bytes(data)
    samples = load(path)
    assert samples.dtype == np.float32
    assert samples.shape == (RATE_HZ,)
    lossy = encoding in ("vorbis", "opus", "mp3")
    assert np.abs(samples - tone()).mean() < (0.03 if lossy else 1e-4)
    np.testing.assert_array_equal(load(data), samples)
    np.testing.assert_array_equal(load(str(path)), samples)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_part_equals_the_same_part_of_the_whole(encoding: str) -> None:
    # MP3 frames borrow bits from those before them: a plain seek gave up to 0.3 s of silence or noise.
    data = encoded(speechlike(5.0), encoding)
    whole = load(data)
    for first in (1, 4800, 23_456, 70_001):
        part = load(data, offset_s=first / RATE_HZ, duration_s=0.25)
        np.testing.assert_allclose(part, whole[first : first + 4000], atol=1e-6)
    np.testing.assert_allclose(load(data, offset_s=4.5), whole[72_000:], atol=1e-6)


def test_info_tells_rate_length_channels_and_format_without_decoding() -> None:
    stereo = np.stack([tone(0.5, sample_rate_hz=44_100)] * 2, axis=1)
    assert info(encoded(stereo, "flac", sample_rate_hz=44_100)) == AudioInfo(44_100, 22_050, 2, "FLAC")
    assert info(encoded(tone(0.5))).duration_s == 0.5


def test_channels_are_averaged() -> None:
    stereo = np.stack([tone(), np.zeros(RATE_HZ, np.float32)], axis=1)
    np.testing.assert_allclose(load(encoded(stereo, "wav-float")), tone() / 2, atol=1e-6)


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 44_100, 48_000])
def test_other_rates_are_resampled_to_the_same_tone(rate_hz: int) -> None:
    samples = load(encoded(tone(sample_rate_hz=rate_hz), sample_rate_hz=rate_hz))
    assert samples.shape == (RATE_HZ,)
    np.testing.assert_allclose(samples[500:-500], tone()[500:-500], atol=2e-3)


def test_decoding_in_blocks_equals_resampling_the_whole() -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, 150_000).astype(np.float32)
    loaded = load(encoded(samples, "wav-float", sample_rate_hz=44_100))
    np.testing.assert_allclose(loaded, resample(samples, from_hz=44_100, to_hz=RATE_HZ), atol=1e-6)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_decoding_in_blocks_equals_decoding_at_once(encoding: str) -> None:
    # soundfile seeks after every read, which broke MP3 at the borders of blocks (every 4.1 s).
    data = encoded(speechlike(9.0), encoding)
    at_once, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    np.testing.assert_allclose(load(data), at_once, atol=1e-6)


def test_float_samples_beyond_one_are_kept() -> None:
    np.testing.assert_array_equal(load(encoded(3 * tone(), "wav-float")), 3 * tone())


def test_the_length_unknown_to_a_streaming_writer_is_counted() -> None:
    streamed = with_data_size(encoded(tone()), 2**32 - 1)
    assert load(streamed).shape == (RATE_HZ,)


def test_a_part_may_exceed_the_end_by_rounding_only() -> None:
    data = encoded(tone())
    assert load(data, offset_s=0.5, duration_s=0.51).shape == (8000,)
    with pytest.raises(AudioError, match=r"from 0\.500 s for 0\.600 s ends past the end; this recording has 1\.000 s"):
        load(data, offset_s=0.5, duration_s=0.6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"offset_s": 1.0}, r"audio of \d+ bytes: offset_s 1 is past the end; this recording has 1\.000 s"),
        ({"offset_s": -0.1}, r"offset_s is -0\.1; give seconds from the start"),
        ({"offset_s": float("nan")}, "offset_s is nan"),
        ({"duration_s": 0.0}, r"duration_s is 0\.0; give seconds above 0"),
        ({"sample_rate_hz": 1}, "the sample rate is 1 Hz; 1000 to 384000 Hz are allowed"),
        ({"max_duration_s": 0.5}, r"longer than 0\.5 s, the most allowed here; cut it into segments"),
    ],
)
def test_an_impossible_request_is_refused_with_its_value(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(AudioError, match=message):
        load(encoded(tone()), **arguments)  # type: ignore[arg-type]


def not_finite(value: float) -> bytes:
    samples = tone()
    samples[7] = value
    return encoded(samples, "wav-float")


BROKEN = {
    "empty": (b"", "is empty"),
    "text": (b"hello " * 100, "cannot be read as audio"),
    "only the start of a header": (b"RIFF", "cannot be read as audio"),
    "webm": (b"\x1aE\xdf\xa3" + bytes(200), "wav, flac, ogg and mp3 are allowed"),
    "zero samples": (encoded(tone(0.0)), "holds no samples"),
    "NaN": (not_finite(np.nan), "NaN or infinite"),
    "infinity": (not_finite(-np.inf), "NaN or infinite"),
    "1 Hz": (encoded(tone(0.01), sample_rate_hz=1), "the sample rate is 1 Hz"),
    "40 channels": (encoded(np.zeros((9, 40))), "has 40 channels; 1 to 32 are allowed"),
    "truncated wav": (encoded(tone())[:-5000], r"claims 32000 bytes of samples, the file has 27000"),
    "wav that claims 2 GiB": (with_data_size(encoded(tone()), 2**31), "claims 2147483648 bytes"),
    "truncated flac": (encoded(tone(), "flac")[:-2000], r"cut off or damaged \(decoding stopped"),
    "truncated vorbis": (encoded(speechlike(5.0), "vorbis")[:-2000], "last Ogg page"),
    "truncated opus": (encoded(speechlike(5.0), "opus")[:-2000], "last Ogg page"),
    "truncated mp3": (encoded(tone(), "mp3")[:-1500], "cut off or damaged"),
    "other formats": (b"FORM", "cannot be read as audio"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_recording_is_refused_with_a_plain_reason(case: str, tmp_path: Path) -> None:
    data, message = BROKEN[case]
    path = tmp_path / "broken.wav"
    path.write_bytes(data)
    with pytest.raises(AudioError, match=message) as raised:
        load(path)
    assert str(raised.value).startswith(f"{path}: ")
    with pytest.raises(AudioError, match=message):
        load(data)


def test_a_format_nobody_asked_for_is_refused() -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(), RATE_HZ, format="AIFF")
    with pytest.raises(AudioError, match="is AIFF audio; wav, flac, ogg and mp3 are allowed; convert it"):
        load(buffer.getvalue())


def test_what_is_no_regular_file_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, message in (
        (tmp_path / "missing.wav", r"missing\.wav: cannot be opened \(No such file or directory\); check the path"),
        (tmp_path, "is not a regular file"),
        (pipe, "is not a regular file"),
        (Path("a\0b.wav"), "cannot be opened"),
    ):
        with pytest.raises(AudioError, match=message):
            load(path)


def test_an_error_never_shows_an_address() -> None:
    with pytest.raises(AudioError) as raised:
        load(b"not audio at all")
    assert "0x" not in str(raised.value)


def lying_flac(num_samples: int) -> bytes:
    """A FLAC whose header promises `num_samples` (the low 36 bits of bytes 18 to 26)."""
    data = encoded(tone(), "flac")
    value = int.from_bytes(data[18:26], "big") >> 36 << 36 | num_samples
    return data[:18] + value.to_bytes(8, "big") + data[26:]


def test_a_flac_from_a_pipe_that_does_not_know_its_length_is_counted() -> None:
    piped = lying_flac(0)
    assert info(piped).num_samples == RATE_HZ
    assert load(piped, offset_s=0.25).shape == (12_000,)
    with pytest.raises(AudioError, match=r"past the end; this recording has 1\.000 s"):
        load(piped, offset_s=2.0)


def peak_bytes(data: bytes, **arguments: float) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(AudioError):
            load(data, **arguments)  # type: ignore[arg-type]
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_header_that_lies_takes_no_memory() -> None:
    # numpy reports its allocations to tracemalloc; reading by the header would ask for 8 and 256 GB.
    assert peak_bytes(with_data_size(encoded(tone()), 2**31)) < 2e6
    assert peak_bytes(lying_flac(2**36 - 1)) < 2e6


def test_a_decompression_bomb_stops_at_the_budget() -> None:
    # Ten minutes of zeros at 8 kHz are 28 kB of FLAC and would be 38 MB of samples at 16 kHz.
    bomb = encoded(np.zeros(600 * 8000, np.int16), "flac", sample_rate_hz=8000)
    assert len(bomb) < 60_000
    assert peak_bytes(bomb, max_duration_s=30.0) < 6e6


SEEDS = [encoded(tone(0.1), encoding) for encoding in ("wav", "flac", "vorbis", "opus")]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, len(SEEDS) - 1),
    edits=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, 4000),
)
@example(seed=0, edits=[], cut=0)
def test_damage_gives_finite_samples_or_an_audio_error(seed: int, edits: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(SEEDS[seed])
    for place, value in edits:
        data[place % len(data)] = value
    try:
        samples = load(bytes(data[: len(data) - cut % len(data)]), max_duration_s=10.0)
    except AudioError:
        return
    assert np.isfinite(samples).all()


@pytest.mark.parametrize("extension", [".wav", ".flac", ".ogg", ".opus", ".mp3"])
def test_saved_samples_are_loaded_again(extension: str, tmp_path: Path) -> None:
    path = tmp_path / f"tone{extension}"
    save(path, tone(), sample_rate_hz=RATE_HZ)
    exact = extension in (".wav", ".flac")
    assert np.abs(load(path) - tone()).mean() < (1 / 32768 if exact else 0.03)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(
    ("name", "samples", "rate_hz", "message"),
    [
        ("a.aac", tone(), RATE_HZ, r"cannot write \.aac; use \.wav, \.flac"),
        ("a.wav", 3 * tone(), RATE_HZ, r"the peak is 1\.5, outside \[-1, 1\]"),
        ("a.wav", tone() * np.nan, RATE_HZ, "NaN or infinity"),
        ("a.wav", tone()[None], RATE_HZ, r"shape \(1, 16000\); give one row"),
        ("a.wav", tone(), 10, "the sample rate is 10 Hz"),
        ("a.opus", tone(), 44_100, "cannot write OGG at 44100 Hz"),
        ("missing/a.wav", tone(), RATE_HZ, "check the folder"),
    ],
)
def test_what_cannot_be_saved_is_refused_and_the_old_file_stays(
    name: str, samples: np.ndarray, rate_hz: int, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if path.parent.exists():
        path.write_bytes(b"old")
    with pytest.raises(AudioError, match=message):
        save(path, samples, sample_rate_hz=rate_hz)
    assert not path.parent.exists() or [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]


@settings(max_examples=25, deadline=None)
@given(num_samples=st.integers(1, 5000), from_hz=st.sampled_from([8000, 16000, 22050, 48000]), to_hz=st.just(RATE_HZ))
def test_resampling_keeps_the_duration(num_samples: int, from_hz: int, to_hz: int) -> None:
    resampled = resample(np.zeros(num_samples, np.float32), from_hz=from_hz, to_hz=to_hz)
    assert abs(len(resampled) - num_samples * to_hz / from_hz) <= 1


def test_resampling_to_the_same_rate_changes_nothing() -> None:
    samples = tone()
    assert resample(samples, from_hz=RATE_HZ, to_hz=RATE_HZ) is samples

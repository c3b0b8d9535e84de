"""What browsers record, decoded by PyAV: the right samples, bounded, and never anything but the bytes themselves."""

import resource
from pathlib import Path

import numpy as np
import pytest

from bench.damaged import RATE_HZ, SILENT_AAC, encoded, encoded_by_ffmpeg, tone
from sonant.audio.io import resample
from sonant.errors import AudioError
from sonant.serve.browser_audio import container_of, load

LOSSLESS = [("matroska", "flac"), ("mov", "pcm_s16le"), ("mp4", "alac")]
LOSSY = [("webm", "libopus"), ("mp4", "aac"), ("adts", "aac"), ("mp4", "libopus"), ("matroska", "libmp3lame")]


def read(data: bytes, *, max_duration_s: float = 10.0, rate_hz: int = 16_000) -> np.ndarray:
    return load(data, sample_rate_hz=rate_hz, max_duration_s=max_duration_s)


def lag(samples: np.ndarray, reference: np.ndarray) -> int:
    """By how many samples one is later than the other, where they match best."""
    size = 2 * max(len(samples), len(reference))
    match = np.fft.irfft(np.fft.rfft(samples, size) * np.conj(np.fft.rfft(reference, size)))
    place = int(match.argmax())
    return place if place < size // 2 else place - size


@pytest.mark.parametrize(("container", "codec"), LOSSLESS)
def test_a_lossless_track_gives_back_its_samples(container: str, codec: str) -> None:
    samples = tone(0.5)
    read_back = read(encoded_by_ffmpeg(container, codec, samples), rate_hz=RATE_HZ)
    assert read_back.dtype == np.float32
    np.testing.assert_allclose(read_back, samples, atol=2**-15)


@pytest.mark.parametrize(("container", "codec"), LOSSY)
def test_a_lossy_track_sounds_the_same_at_the_same_time(container: str, codec: str) -> None:
    # A swell whose middle can be found: a plain tone repeats itself every 2 ms.
    noise = np.random.default_rng(0).standard_normal(RATE_HZ).astype(np.float32) * np.hanning(RATE_HZ) * 0.1
    samples = np.convolve(noise, np.hanning(31) / 15, mode="same").astype(np.float32)
    read_back = read(encoded_by_ffmpeg(container, codec, samples))
    reference = resample(samples, from_hz=RATE_HZ, to_hz=16_000)
    late = lag(read_back, reference)
    # Bare AAC and MP3 in Matroska do not say how many priming samples there are: one or two frames.
    assert 0 <= late <= (0 if codec in ("libopus",) or container == "mp4" else 800)
    got = read_back[late : late + 15_000]
    assert np.corrcoef(got, reference[: len(got)])[0, 1] > 0.9


def test_channels_are_averaged() -> None:
    left = tone(0.2)
    stereo = np.stack([left, np.zeros_like(left)], axis=1)
    read_back = read(encoded_by_ffmpeg("matroska", "flac", stereo), rate_hz=RATE_HZ)
    np.testing.assert_allclose(read_back, left / 2, atol=2**-14)


def test_the_container_is_told_by_the_first_bytes_alone() -> None:
    found = {kind: container_of(encoded(kind, tone(0.2))) for kind in ("webm", "mp4", "aac", "mp3", "wav", "vorbis")}
    assert found == {"webm": "matroska", "mp4": "mp4", "aac": "aac", "mp3": None, "wav": None, "vorbis": None}
    assert [container_of(data) for data in (b"", b"\xff", b"#EXTM3U\n", b"ffconcat version 1.0\n")] == [None] * 4


def test_what_a_browser_records_has_no_length_and_is_read_to_its_end() -> None:
    live = encoded_by_ffmpeg("webm", "libopus", tone(1.0), live="1")
    assert len(read(live)) == 16_000


@pytest.mark.parametrize("kind", ["webm", "mp4", "aac"])
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.8])
def test_a_recording_that_is_cut_off_is_refused(kind: str, kept: float) -> None:
    data = encoded(kind, tone(2.0))
    with pytest.raises(AudioError, match=r"^audio of \d+ bytes: .*(whole|no samples)"):
        read(data[: max(64, int(kept * len(data)))])


def test_a_recording_longer_than_allowed_is_refused_before_it_fills_memory() -> None:
    data = SILENT_AAC * 400_000  # 4 MB that stand for 7 hours, 1.6 GB of samples
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(AudioError, match="longer than 10 s"):
        read(data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000  # kB


def test_a_film_gives_its_sound_and_a_silent_film_is_refused() -> None:
    assert len(read(film(with_sound=True))) == pytest.approx(16_000, abs=1500)
    with pytest.raises(AudioError, match="no audio track"):
        read(film(with_sound=False))


def film(*, with_sound: bool) -> bytes:
    import io

    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        video = file.add_stream("mpeg4", rate=10)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        audio = file.add_stream("aac", rate=RATE_HZ) if with_sound else None
        if audio is not None:
            audio.layout = "mono"
            frame = av.AudioFrame.from_ndarray(tone(1.0)[None], format="flt", layout="mono")
            frame.sample_rate = RATE_HZ
            for packet in (*audio.encode(frame), *audio.encode(None)):
                file.mux(packet)
        for number in range(20):
            image = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            image.pts = number
            file.mux(video.encode(image))
        file.mux(video.encode(None))
    return buffer.getvalue()


def test_a_codec_that_is_not_on_the_list_is_refused() -> None:
    with pytest.raises(AudioError, match=r"allowed here|cannot be decoded"):
        read(encoded_by_ffmpeg("matroska", "ac3", tone(0.5)))


def test_a_playlist_in_disguise_reads_no_other_file(tmp_path: Path) -> None:
    # FFmpeg left to guess would open the file that a playlist names, whatever the upload is called.
    secret = tmp_path / "secret.aac"
    secret.write_bytes(encoded("aac", tone(0.5)))
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n".encode()
    for disguise in (playlist, b"\xff\xf1" + playlist, b"\x1aE\xdf\xa3" + playlist, b"\x00\x00\x00\x1cftyp" + playlist):
        with pytest.raises(AudioError):
            read(disguise)


def test_messages_hold_no_address_no_path_and_no_words_of_the_library() -> None:
    for data in (b"\x1aE\xdf\xa3" + bytes(100), b"\x00\x00\x00\x1cftypisom" + bytes(100), b"\xff\xf1" + bytes(100)):
        with pytest.raises(AudioError) as caught:
            read(data)
        assert str(caught.value).startswith(f"audio of {len(data)} bytes: ")
        assert not {"0x", "/", "avcodec", "Errno", "object"} & set(str(caught.value).split())
        assert "0x" not in str(caught.value)

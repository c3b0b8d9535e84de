import base64
import io

import numpy as np
import pytest
import soundfile

from sonant.audio.io import load, resample
from sonant.serve.failures import RefusedError
from sonant.serve.realtime.coding import CODINGS, Outgoing, as_float, as_pcm

TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(8_000) / 16_000)).astype(np.float32)


def test_pcm_is_16_bit_little_endian() -> None:
    coding = CODINGS["audio/pcm"]
    samples = coding.decode(base64.b64encode(b"\x01\x00\xff\x7f\x00\x80").decode(), param="audio")
    assert samples.tolist() == [1, 32_767, -32_768]
    assert coding.encode(samples) == base64.b64encode(b"\x01\x00\xff\x7f\x00\x80").decode()


@pytest.mark.parametrize(
    ("name", "byte", "expected"),
    # ITU-T G.711: mu-law 0x80 is the largest positive value, 0xff is zero; A-law 0xaa the largest, 0xd5 the least.
    [("audio/pcmu", 0x80, 32_124), ("audio/pcmu", 0xFF, 0), ("audio/pcma", 0xAA, 32_256), ("audio/pcma", 0xD5, 8)],
)
def test_telephone_sound_follows_g711(name: str, byte: int, expected: int) -> None:
    coding = CODINGS[name]  # type: ignore[index]
    samples = coding.decode(base64.b64encode(bytes([byte])).decode(), param="audio")
    assert samples.tolist() == [expected]
    assert base64.b64decode(coding.encode(samples)) == bytes([byte])


def test_sound_as_a_wav_file_is_the_same_sound() -> None:
    coding = CODINGS["audio/pcm"]
    samples = as_pcm(TONE)
    heard = load(coding.as_wav(samples), sample_rate_hz=24_000)
    assert np.array_equal(heard, as_float(samples))
    assert soundfile.info(io.BytesIO(coding.as_wav(samples))).samplerate == 24_000


@pytest.mark.parametrize("name", ["audio/pcm", "audio/pcmu"])
@pytest.mark.parametrize("rate_hz", [16_000, 22_050, 24_000])
def test_what_is_pushed_in_pieces_is_what_is_pushed_at_once(name: str, rate_hz: int) -> None:
    coding = CODINGS[name]  # type: ignore[index]
    whole = as_pcm(resample(TONE, from_hz=rate_hz, to_hz=coding.sample_rate_hz))
    for size in (33, 4_000, 8_000):
        outgoing = Outgoing(rate_hz, coding)
        pieces = [outgoing.push(TONE[start : start + size]) for start in range(0, len(TONE), size)]
        made = np.concatenate([*pieces, outgoing.finish()])
        assert len(made) == len(whole)
        assert np.abs(made.astype(int) - whole).max() <= 1


def test_what_is_too_loud_is_clipped_and_does_not_wrap() -> None:
    assert as_pcm(np.array([2.0, -2.0], np.float32)).tolist() == [32_767, -32_767]


@pytest.mark.parametrize(("audio", "why"), [("!!", "not valid base64"), ("AAA=AAAA", "base64"), ("AAAA", "3 bytes")])
def test_audio_that_is_none_is_refused(audio: str, why: str) -> None:
    with pytest.raises(RefusedError, match=why):
        CODINGS["audio/pcm"].decode(audio, param="audio")

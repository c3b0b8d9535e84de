import sys
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from sonant.audio.device import check_device, loudspeaker, recording
from sonant.errors import AudioError


class PortAudioError(Exception):
    """What sounddevice raises."""


class FakeStream:
    """A microphone that hears three blocks into one buffer, and a loudspeaker that keeps what it plays."""

    played: ClassVar[list[Any]] = []

    def __init__(self, rate_hz: int, *, channels: int, dtype: str, callback: Any = None) -> None:
        assert (channels, dtype) == (1, "float32")
        self.rate_hz, self.callback = rate_hz, callback

    def __enter__(self) -> "FakeStream":
        if self.callback is not None:
            buffer = np.zeros((2, 1), np.float32)
            for level in (0.25, 0.5, 0.75):
                buffer[:] = level
                self.callback(buffer, 2, None, None)
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, samples: Any) -> None:
        self.played.append(samples)


def no_device(kind: str) -> None:
    raise PortAudioError(f"no {kind} device")


@pytest.fixture
def sounddevice(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    fake = SimpleNamespace(
        InputStream=FakeStream, OutputStream=FakeStream, PortAudioError=PortAudioError, query_devices=lambda kind: {}
    )
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    return fake


def test_a_recording_holds_every_block_though_the_device_reuses_its_buffer(sounddevice: SimpleNamespace) -> None:
    with recording(sample_rate_hz=8_000) as heard:
        pass
    assert heard.sample_rate_hz == 8_000
    assert heard.samples.tolist() == [0.25, 0.25, 0.5, 0.5, 0.75, 0.75]


def test_samples_are_played_in_the_shape_of_the_device(sounddevice: SimpleNamespace) -> None:
    with loudspeaker(sample_rate_hz=16_000) as speaker:
        speaker.write(np.ones((4, 1), np.float32))
    assert FakeStream.played[-1].shape == (4, 1)


def test_a_machine_without_a_microphone_says_so(sounddevice: SimpleNamespace) -> None:
    check_device("input")
    sounddevice.query_devices = no_device
    with pytest.raises(AudioError, match=r"cannot be used \(no input device\); plug a microphone"):
        check_device("input")


def test_a_missing_package_is_told_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(AudioError, match=r"pip install 'sonant\[talk\]'"):
        check_device("input")


def test_a_missing_portaudio_is_told_with_where_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Finder:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name == "sounddevice":
                raise OSError("PortAudio library not found")

    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    with pytest.raises(AudioError, match="apt install libportaudio2"):
        check_device("output")

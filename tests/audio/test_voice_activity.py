import itertools
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sonant.audio import io
from sonant.audio.augment import colored_noise
from sonant.audio.segment import Window
from sonant.audio.voice_activity import (
    Started,
    Stopped,
    VoiceActivity,
    VoiceActivityConfig,
    loudness_db,
    segments,
)

RATE_HZ = 16_000
DATA = Path(__file__).parents[3] / "shared" / "data"
Samples = NDArray[np.float32]


def silence(seconds: float) -> Samples:
    return np.zeros(round(seconds * RATE_HZ), np.float32)


def speech(seconds: float, *, level_db: float = -20.0, rate_hz: int = RATE_HZ) -> Samples:
    """Syllables of 250 ms: the harmonics of 120 Hz, louder in the middle, 30 ms of almost nothing between two."""
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    tone = sum(np.sin(2 * np.pi * 120 * k * time_s) / k for k in range(1, 25))
    phase = (time_s % 0.25) / 0.22
    shape = np.where(phase < 1, np.sin(np.pi * np.minimum(phase, 1)), 0.0) + 0.003
    loud = np.asarray(tone * shape, np.float32)
    return loud * np.float32(10 ** (level_db / 20) / np.sqrt(np.mean(loud**2)))


def noise(seconds: float, *, level_db: float, exponent: float = 1.0, seed: int = 0) -> Samples:
    drawn = colored_noise(round(seconds * RATE_HZ), exponent, rng=np.random.default_rng(seed))
    return drawn * np.float32(10 ** (level_db / 20))


def heard(samples: Samples, *, rate_hz: int = RATE_HZ, config: VoiceActivityConfig | None = None) -> list[object]:
    return list(VoiceActivity(rate_hz, config=config).push(samples))


def times_s(events: list[object]) -> list[float]:
    assert [type(event) for event in events] == [Started, Stopped] * (len(events) // 2)
    return [event.at_s for event in events if isinstance(event, Started | Stopped)]


def test_speech_starts_and_stops_where_it_does() -> None:
    room = noise(6.0, level_db=-55)
    samples = room + np.concatenate([silence(1.0), speech(2.0), silence(3.0)])
    assert times_s(heard(samples)) == pytest.approx([1.0, 2.97], abs=0.05)


def test_a_sound_is_known_as_speech_after_start_s_and_as_over_after_stop_s() -> None:
    config = VoiceActivityConfig(start_s=0.1, stop_s=0.3)
    ear = VoiceActivity(RATE_HZ, config=config)
    samples = noise(4.0, level_db=-55) + np.concatenate([silence(1.0), speech(1.0), silence(2.0)])
    known = [
        (index * 0.02, event)
        for index in range(len(samples) // 320)
        for event in ear.push(samples[index * 320 : (index + 1) * 320])
    ]
    (started_s, started), (stopped_s, stopped) = known
    assert started_s + 0.02 == pytest.approx(started.at_s + 0.1)
    assert stopped_s + 0.02 == pytest.approx(stopped.at_s + 0.3)


def test_what_is_heard_does_not_depend_on_how_the_stream_is_cut() -> None:
    samples = noise(5.0, level_db=-50) + np.concatenate([silence(0.7), speech(1.3), silence(0.8), speech(2.2)])
    whole = VoiceActivity(RATE_HZ)
    expected = [*whole.push(samples), *whole.finish()]
    assert len(expected) == 4
    for sizes in ([1, 319, 320, 321, 4000], [7], [16_000]):
        cuts = np.cumsum(sizes * (len(samples) // sum(sizes) + 1))
        ear = VoiceActivity(RATE_HZ)
        found = [event for piece in np.split(samples, cuts) for event in ear.push(piece)]
        assert found + ear.finish() == expected


@pytest.mark.parametrize("rate_hz", [8_000, 24_000, 48_000])
def test_any_rate_hears_the_same(rate_hz: int) -> None:
    samples = np.concatenate([silence(1.0), speech(2.0), silence(1.0)])
    resampled = io.resample(samples + noise(4.0, level_db=-55), from_hz=RATE_HZ, to_hz=rate_hz)
    assert times_s(heard(resampled, rate_hz=rate_hz)) == pytest.approx([1.0, 2.97], abs=0.05)


@pytest.mark.parametrize("level_db", [-60.0, -40.0, -20.0])
@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_steady_noise_is_never_speech(exponent: float, level_db: float) -> None:
    for seed in range(3):
        assert not heard(noise(10.0, level_db=level_db, exponent=exponent, seed=seed))


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_speech_stops_in_a_noisy_room_too(exponent: float) -> None:
    for seed in range(5):
        samples = noise(6.0, level_db=-38, exponent=exponent, seed=seed)
        samples += np.concatenate([silence(1.0), speech(2.0), silence(3.0)])
        assert times_s(heard(samples)) == pytest.approx([1.0, 2.97], abs=0.15)


def test_a_microphone_that_opens_is_not_speech() -> None:
    assert not heard(np.concatenate([silence(0.31), noise(4.0, level_db=-40)]))


def test_digital_silence_hum_and_dc_are_not_speech() -> None:
    time_s = np.arange(4 * RATE_HZ) / RATE_HZ
    hum = 0.3 * np.sin(2 * np.pi * 50 * time_s) * (time_s > 1.0) + 0.1
    assert not heard(silence(4.0))
    assert not heard(np.asarray(hum, np.float32) + noise(4.0, level_db=-60))


def test_a_click_is_not_speech() -> None:
    samples = noise(4.0, level_db=-55)
    samples[2 * RATE_HZ : 2 * RATE_HZ + 480] += 0.5
    assert not heard(samples)


def test_a_fan_that_is_switched_on_is_speech_for_two_seconds_at_most() -> None:
    samples = noise(10.0, level_db=-60)
    samples[3 * RATE_HZ :] += noise(7.0, level_db=-35, seed=1)
    assert times_s(heard(samples)) == pytest.approx([3.0, 5.0], abs=0.05)


def test_a_word_that_opens_a_stream_without_any_room_before_it_is_heard() -> None:
    assert times_s(heard(np.concatenate([speech(0.4)[800:], silence(1.0)])))[0] == pytest.approx(0.0, abs=0.03)


def test_finish_ends_speech_that_the_end_of_the_stream_cut_off() -> None:
    ear = VoiceActivity(RATE_HZ)
    assert times_s([*ear.push(np.concatenate([silence(0.5), speech(1.0)])), *ear.finish()])[1] == pytest.approx(
        1.5, abs=0.05
    )
    assert not ear.speaking
    assert not ear.finish()


def test_a_higher_margin_asks_for_louder_speech() -> None:
    samples = noise(4.0, level_db=-45) + np.concatenate([silence(1.0), speech(1.0, level_db=-30), silence(2.0)])
    assert heard(samples)
    assert not heard(samples, config=VoiceActivityConfig(margin_db=30))


def test_loudness_is_0_db_for_a_full_sine_of_1_khz_and_follows_gain() -> None:
    sine = np.sin(2 * np.pi * 1000 * np.arange(RATE_HZ) / RATE_HZ).astype(np.float32)
    assert loudness_db(sine, sample_rate_hz=RATE_HZ) == pytest.approx(np.zeros(50), abs=0.01)
    assert loudness_db(sine / 10, sample_rate_hz=RATE_HZ) == pytest.approx(np.full(50, -20.0), abs=0.01)


def test_segments_hold_the_speech_with_some_room_around_it_and_never_overlap() -> None:
    samples = noise(6.0, level_db=-55) + np.concatenate(
        [silence(0.1), speech(1.5), silence(0.6), speech(1.5), silence(2.3)]
    )
    first, second = segments(samples, sample_rate_hz=RATE_HZ, pad_s=0.4)
    assert first.start == 0  # no room for all of the padding
    assert first.stop == second.start  # half of the pause between them for each
    assert second.stop / RATE_HZ == pytest.approx(3.67 + 0.4, abs=0.05)


@pytest.mark.parametrize("seconds", [0.0, 0.001, 3.0])
def test_a_recording_of_silence_has_no_segments(seconds: float) -> None:
    assert segments(silence(seconds), sample_rate_hz=RATE_HZ) == []


def test_long_speech_is_cut_where_it_is_quietest_and_nothing_is_lost() -> None:
    samples = speech(11.3) + noise(11.3, level_db=-60)
    (whole,) = segments(samples, sample_rate_hz=RATE_HZ)
    pieces = segments(samples, sample_rate_hz=RATE_HZ, max_s=4.0)
    assert (pieces[0].start, pieces[-1].stop) == (whole.start, whole.stop)
    assert all(one.stop == other.start for one, other in itertools.pairwise(pieces))
    assert all(piece.num_samples <= 4.0 * RATE_HZ for piece in pieces)
    for piece in pieces[1:]:
        assert (piece.start / RATE_HZ) % 0.25 > 0.2  # in the gap between two syllables


def test_no_window_is_longer_than_asked_wherever_speech_begins() -> None:
    for shift in range(0, 320, 64):
        samples = np.concatenate([silence(0.5), np.zeros(shift, np.float32), speech(7.0)])
        pieces = segments(samples, sample_rate_hz=RATE_HZ, max_s=1.0)
        assert max(piece.num_samples for piece in pieces) <= RATE_HZ


def test_no_piece_is_shorter_than_a_third_of_the_longest() -> None:
    # The cut before the last left what it left: of 30.001 s a hundredth, which no encoder takes.
    for length_s in (4.01, 4.1, 5.3, 8.05, 9.0):
        samples = speech(length_s) + noise(length_s, level_db=-60)
        (whole,) = segments(samples, sample_rate_hz=RATE_HZ)
        pieces = segments(samples, sample_rate_hz=RATE_HZ, max_s=whole.num_samples / RATE_HZ - 0.02)
        assert len(pieces) == 2
        assert min(piece.num_samples for piece in pieces) >= whole.num_samples / 3 - 2 * 320


def test_a_human_voice_is_heard_sentence_by_sentence() -> None:
    if not DATA.is_dir():
        pytest.skip(f"{DATA} is absent: no human recordings here")
    samples = io.load(DATA / "samples" / "jfk.flac")
    padded = np.concatenate([silence(1.0), samples, silence(1.0)]) + noise(13.0, level_db=-45)
    spoken = segments(padded, sample_rate_hz=RATE_HZ)
    # "And so my fellow Americans | ask not | what your country can do for you | ask what you can do for your country"
    starts_s = [window.start / RATE_HZ for window in spoken]
    assert starts_s == pytest.approx([1.15, 4.1, 6.2, 9.0], abs=0.2)
    assert isinstance(spoken[0], Window)

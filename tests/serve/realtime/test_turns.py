import numpy as np
import pytest
from scripted_session import RATE_HZ, Samples, room, syllables

from sonant.serve.failures import RefusedError
from sonant.serve.realtime.coding import CODINGS, as_pcm
from sonant.serve.realtime.shapes import ServerVad
from sonant.serve.realtime.turns import InputBuffer, TurnEnded, TurnEvent, TurnStarted

VAD = ServerVad(type="server_vad")


def buffer(vad: ServerVad | None = VAD, *, max_s: float = 60.0) -> InputBuffer:
    return InputBuffer(CODINGS["audio/pcm"], vad=vad, max_s=max_s)


def append(to: InputBuffer, samples: Samples, *, chunk: int = 480) -> list[TurnEvent]:
    pcm = as_pcm(samples)
    return [turn for start in range(0, len(pcm), chunk) for turn in to.append(pcm[start : start + chunk])]


def around(*speech: Samples, pause_s: float = 1.5) -> Samples:
    """Speech in a quiet room, a pause before, between and after."""
    pause = np.zeros(round(pause_s * RATE_HZ), np.float32)
    samples = np.concatenate([pause, *(part for each in speech for part in (each, pause))])
    return samples + np.resize(room(2.0), len(samples))


def test_a_turn_is_the_speech_with_its_padding_and_the_silence_that_ended_it() -> None:
    samples = around(syllables(1.0))
    started, ended = append(buffer(), samples)
    assert isinstance(started, TurnStarted)
    assert isinstance(ended, TurnEnded)
    assert started.at_ms == pytest.approx(1500 - 300, abs=30)
    assert ended.at_ms == pytest.approx(2500 - 125 + 500, abs=50)  # the last syllable ends in a pause of 125 ms
    assert np.array_equal(ended.samples, as_pcm(samples)[started.at_ms * 24 : ended.at_ms * 24])


@pytest.mark.parametrize("chunk", [7_777, 480_000])
def test_turns_do_not_depend_on_how_the_sound_is_sent(chunk: int) -> None:
    samples = around(syllables(1.0), syllables(0.5))
    expected, found = append(buffer(), samples), append(buffer(), samples, chunk=chunk)
    assert [turn.at_ms for turn in found] == [turn.at_ms for turn in expected]
    for one, other in zip(found, expected, strict=True):
        assert not isinstance(one, TurnEnded) or np.array_equal(one.samples, other.samples)  # type: ignore[union-attr]


def test_two_turns_share_no_sample() -> None:
    turns = append(buffer(), around(syllables(1.0), syllables(1.0), pause_s=0.6))
    assert [type(turn) for turn in turns] == [TurnStarted, TurnEnded] * 2
    assert turns[1].at_ms <= turns[2].at_ms


def test_silence_takes_no_room() -> None:
    quiet = buffer()
    append(quiet, room(20.0))
    assert quiet.duration_s < 2.5
    assert quiet.written == 20 * RATE_HZ


def test_without_voice_activity_everything_is_kept_until_it_is_taken() -> None:
    manual, samples = buffer(vad=None), around(syllables(0.5))
    assert append(manual, samples) == []
    assert np.array_equal(manual.kept(), as_pcm(samples))
    manual.clear()
    assert manual.duration_s == 0


def test_a_buffer_that_is_full_takes_nothing_more() -> None:
    manual = buffer(vad=None, max_s=1.0)
    append(manual, room(0.9))
    with pytest.raises(RefusedError, match=r"holds 0.9 s .* commit or clear"):
        manual.append(as_pcm(room(0.2)))
    assert manual.duration_s == pytest.approx(0.9)


def test_a_turn_that_fills_the_buffer_ends_and_another_one_begins_with_what_follows() -> None:
    samples = np.concatenate([room(1.0), syllables(7.0), room(1.0)])
    turns = append(buffer(max_s=4.0), samples)
    assert [type(turn) for turn in turns] == [TurnStarted, TurnEnded] * 3
    ends = [turn for turn in turns if isinstance(turn, TurnEnded)]
    assert max(len(end.samples) for end in ends) <= 4.0 * RATE_HZ
    assert sum(len(end.samples) for end in ends) / RATE_HZ == pytest.approx(7.3 + 0.4, abs=0.3)  # nothing is lost


def test_a_turn_that_fills_the_buffer_ends_in_the_midst_of_much_that_comes_at_once() -> None:
    # Three events of 4 s: the first turn was 7 s long by the end of the second, more than a turn may be, and was lost.
    samples = np.concatenate([room(1.0), syllables(10.0), room(1.0)])
    turns = append(buffer(max_s=4.0), samples, chunk=4 * RATE_HZ)
    ends = [turn for turn in turns if isinstance(turn, TurnEnded)]
    assert max(len(end.samples) for end in ends) <= 4.0 * RATE_HZ
    assert sum(len(end.samples) for end in ends) / RATE_HZ == pytest.approx(10.3 + 0.4, abs=0.3)


@pytest.mark.parametrize("length_s", [0.0, 0.09])
def test_less_than_a_tenth_of_a_second_is_not_committed(length_s: float) -> None:
    manual = buffer(vad=None)
    append(manual, room(length_s))
    with pytest.raises(RefusedError, match="100 ms are the least"):
        manual.kept()


def test_what_the_client_takes_in_the_midst_of_a_turn_ends_the_turn() -> None:
    live = buffer()
    assert len(append(live, np.concatenate([room(1.0), syllables(1.0)]))) == 1
    assert live.kept().size / RATE_HZ == pytest.approx(1.3, abs=0.05)
    live.clear()
    assert append(live, room(2.0)) == []
    assert [type(turn) for turn in append(live, np.concatenate([syllables(0.5), room(1.0)]))] == [
        TurnStarted,
        TurnEnded,
    ]


def test_a_higher_threshold_asks_for_louder_speech() -> None:
    samples = around(syllables(1.0) * np.float32(0.03))
    assert append(buffer(ServerVad(type="server_vad", threshold=0.0)), samples)
    assert not append(buffer(ServerVad(type="server_vad", threshold=1.0)), samples)

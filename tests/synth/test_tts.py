import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sonant.audio.io import info, save
from sonant.errors import EngineError, SynthesisError
from sonant.synth.command import CommandSynthesizer
from sonant.synth.tts import Speech, SpeechRequest, Synthesizer, clip_path, load_synthesizer, speak, speak_each

pytest.importorskip("espeakng_loader")
VOICES = ("en+f3", "en-us+whisper", "de")  # f3 and whisper are breathy: their noise must be seeded


def speeches(engine: Synthesizer, requests: Sequence[SpeechRequest]) -> list[Speech]:
    heard = list(engine.synthesize(requests))
    assert not [speech for speech in heard if isinstance(speech, SynthesisError)]
    return heard  # type: ignore[return-value]


def spoken(requests: Sequence[SpeechRequest], *, num_workers: int = 1) -> list[bytes]:
    engine = load_synthesizer("espeak", num_workers=num_workers)
    return [samples.tobytes() for samples, _ in speeches(engine, requests)]


def test_an_espeak_child_whose_worker_is_killed_does_not_stay() -> None:
    # It held the reading end of its own pipe and waited for ever to be read; whoever asked waited for it: a full disk
    # or Ctrl-C in the midst of a clip made a build hang.
    script = (
        "import os, signal; from sonant.synth.espeak_worker import _in_child\n"
        "signal.signal(signal.SIGPIPE, signal.SIG_DFL)\n"  # as main does
        "_in_child(lambda: os.kill(os.getppid(), signal.SIGKILL) or bytes(1 << 20))"
    )
    worker = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, timeout=10, check=False)
    assert worker.returncode == -signal.SIGKILL


def test_the_same_list_in_fresh_workers_makes_the_same_bytes_in_any_order_and_number():
    requests = [SpeechRequest(f"the dog {word}", voice) for word in ("runs", "sleeps") for voice in VOICES]
    once = spoken(requests)
    assert spoken(requests[::-1], num_workers=2)[::-1] == once
    assert len(set(once)) == len(once)


def test_rate_and_pitch_change_the_clip():
    plain, fast, high = spoken([SpeechRequest("one", "en", **c) for c in ({}, {"rate": 2.0}, {"pitch": 1.6})])
    assert len(fast) < 0.7 * len(plain)
    assert high != plain


def test_a_factor_of_one_asks_espeak_for_what_it_does_unasked() -> None:
    script = (
        "from sonant.synth.espeak_worker import _PARAMETERS, _find_espeak; library, data = _find_espeak()\n"
        "library.espeak_Initialize(2, 0, data.encode(), 0)\n"
        "assert all(library.espeak_GetParameter(number, 0) == own for number, own in _PARAMETERS.values())"
    )
    subprocess.run([sys.executable, "-c", script], timeout=10, check=True)


def test_pitch_range_and_volume_change_the_clip():
    changes = ({}, {"pitch_range": 0.0}, {"volume": 0.5}, {"volume": 2.0})
    plain, flat, soft, loud = spoken([SpeechRequest("one", "en", **c) for c in changes])
    assert flat != plain
    loudness = [np.abs(np.frombuffer(clip, np.float32)).mean() for clip in (soft, plain, loud)]
    assert loudness[0] == pytest.approx(0.5 * loudness[1], rel=0.05)
    assert 1.7 * loudness[1] < loudness[2] < 2.05 * loudness[1]
    assert np.abs(np.frombuffer(loud, np.float32)).max() <= 1.0


@pytest.mark.parametrize("voice", ["en-gb+f3", "en+nobody", "nowhere"])
def test_an_unknown_voice_is_refused_and_not_replaced(voice: str):
    with pytest.raises(SynthesisError, match="no voice"):
        spoken([SpeechRequest("one", voice)])


def test_an_empty_text_and_a_wild_rate_are_refused():
    with pytest.raises(SynthesisError, match="empty"):
        SpeechRequest("  ", "en")
    with pytest.raises(SynthesisError, match=r"0\.25 to 4"):
        SpeechRequest("one", "en", rate=9.0)
    for wild in ({"pitch_range": 2.1}, {"volume": 0.0}, {"volume": 3.0}):
        with pytest.raises(SynthesisError, match="volume above 0 to 2"):
            SpeechRequest("one", "en", **wild)


def test_an_unknown_engine_is_named_with_the_known_ones():
    with pytest.raises(SynthesisError, match="espeak, flite, festival"):
        load_synthesizer("parrot")


class CountingSynthesizer:
    name = "counting"

    def __init__(self, loudness: float = 0.5) -> None:
        self.spoken: list[str] = []
        self.loudness = loudness

    def synthesize(self, requests: Sequence[SpeechRequest]) -> Iterator[Speech]:
        for request in requests:
            self.spoken.append(request.text)
            yield np.full(800, self.loudness, dtype=np.float32), 8000


def test_clips_are_kept_by_hash_and_made_once(tmp_path: Path):
    engine = CountingSynthesizer()
    requests = [SpeechRequest(text, "v") for text in ("a", "b", "a")]
    first = speak(engine, requests, folder=tmp_path)
    assert first[0] == first[2] == clip_path(tmp_path, "counting", requests[0])
    assert info(first[0]).num_samples == 1600
    assert speak(engine, [*requests, SpeechRequest("c", "v")], folder=tmp_path)[:3] == first
    assert engine.spoken == ["a", "b", "c"]
    assert clip_path(tmp_path, "counting", SpeechRequest("a", "v", rate=1.1)) != first[0]


def test_clips_made_before_pitch_range_and_volume_were_known_keep_their_names():
    request = SpeechRequest("the red cat sleeps", "en", 1.1, 0.8)
    assert clip_path("", "espeak", request).name == "d68c5ae841c25d1f4a32.wav"
    names = {clip_path("", "espeak", replace(request, **c)) for c in ({}, {"pitch_range": 1.5}, {"volume": 1.5})}
    assert len(names) == 3


def test_a_silent_clip_is_an_error(tmp_path: Path):
    with pytest.raises(SynthesisError, match="no sound"):
        speak(CountingSynthesizer(loudness=0.0), [SpeechRequest("a", "v")], folder=tmp_path)


class PickySynthesizer(CountingSynthesizer):
    """Cannot say b, has no voice w."""

    def synthesize(self, requests: Sequence[SpeechRequest]) -> Iterator[Speech | SynthesisError]:
        for request, speech in zip(requests, super().synthesize(requests), strict=True):
            if request.voice == "w":
                raise EngineError("no voice w")
            yield SynthesisError("b is too hard") if request.text == "b" else speech


def test_a_clip_that_cannot_be_made_is_told_in_its_place_and_the_others_are_made(tmp_path: Path):
    engine = PickySynthesizer()
    requests = [SpeechRequest(text, "v") for text in "abcb"]
    first, *_ = clips = list(speak_each(engine, requests, folder=tmp_path, suffix=".flac"))
    assert [str(clip) for clip in clips[1::2]] == ["b is too hard"] * 2
    assert info(first).format == "FLAC"
    assert clips[2].suffix == ".flac"
    assert engine.spoken == ["a", "b", "c"]
    with pytest.raises(SynthesisError, match="too hard"):
        speak(engine, requests, folder=tmp_path)
    with pytest.raises(EngineError, match="no voice"):
        list(speak_each(engine, [SpeechRequest("a", "w")], folder=tmp_path))


def test_a_missing_program_says_how_to_install_it():
    engine = CommandSynthesizer("parrot", ["no-such-parrot", "{output}"], install="apt-get install parrot")
    with pytest.raises(SynthesisError, match="apt-get install parrot"):
        list(engine.synthesize([SpeechRequest("one", "v")]))


def test_a_program_that_fails_or_writes_nothing_is_an_error():
    ((failed,), (silent,)) = (
        CommandSynthesizer(n, [n]).synthesize([SpeechRequest("one", "v")]) for n in ("false", "true")
    )
    assert "returned 1" in str(failed)
    assert "wrote no sound file" in str(silent)


def test_a_command_of_a_user_is_split_as_a_shell_would_and_its_fields_filled(tmp_path: Path):
    save(tmp_path / "a b.wav", np.full(800, 0.5, np.float32), sample_rate_hz=8000)
    engine = load_synthesizer(f"command:cp '{tmp_path}/{{voice}} b.wav' {{output}}")
    ((samples, rate_hz),) = speeches(engine, [SpeechRequest("one", "a")])
    assert (len(samples), rate_hz) == (800, 8000)
    for wrong in ("{txt}", "{", "{0}"):
        with pytest.raises(EngineError, match=r"fields are \{rate\}"):
            list(load_synthesizer(f"command:cp {wrong} {{output}}").synthesize([SpeechRequest("one", "a")]))


def test_a_zero_character_does_not_cut_a_text_short():
    (refused,) = load_synthesizer("espeak").synthesize([SpeechRequest("one\0two", "en")])
    assert "zero character" in str(refused)


def test_a_program_without_a_field_for_the_pitch_refuses_a_pitch():
    with pytest.raises(SynthesisError, match="pitch"):
        list(CommandSynthesizer("true", ["true"]).synthesize([SpeechRequest("one", "v", pitch=1.5)]))


@pytest.mark.parametrize("change", [{"pitch_range": 1.5}, {"volume": 0.5}])
def test_every_other_program_refuses_another_pitch_range_or_volume(change: dict[str, float]):
    with pytest.raises(EngineError, match="use espeak"):
        list(CommandSynthesizer("true", ["true", "{pitch}"]).synthesize([SpeechRequest("one", "v", **change)]))


@pytest.mark.parametrize(("engine", "voice"), [("flite", "kal16"), ("festival", "kal_diphone")])
def test_debian_engines_speak_in_order(tmp_path: Path, engine: str, voice: str):
    if shutil.which(engine) is None:
        pytest.skip(f"{engine} is not installed (apt-get install {engine})")
    requests = [SpeechRequest(text, voice, rate=1.1) for text in ("one", "one two three four")]
    (short, _), (long, rate_hz) = speeches(load_synthesizer(engine), requests)
    assert 2 * len(short) < len(long)
    assert rate_hz == 16_000
    with pytest.raises(SynthesisError):
        speak(load_synthesizer(engine), [SpeechRequest("one", "nobody")], folder=tmp_path)


def test_a_program_that_writes_no_sound_is_told_in_its_place(tmp_path: Path):
    # Its AudioError ended the whole build, and every one that went on from there.
    empty = tmp_path / "empty.wav"
    save(empty, np.zeros(0, np.float32), sample_rate_hz=8000)
    for written in (empty, Path(__file__)):
        (told,) = CommandSynthesizer("cp", ["cp", str(written), "{output}"]).synthesize([SpeechRequest("...", "v")])
        assert isinstance(told, SynthesisError)
        assert "cp v: '...'" in str(told)


def test_a_command_that_no_shell_could_read_is_refused():
    with pytest.raises(EngineError, match="No closing quotation"):
        load_synthesizer("command:'")

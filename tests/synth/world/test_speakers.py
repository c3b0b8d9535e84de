"""Speakers and manners: whose voice is whose, and what a manner does to it."""

import random

import numpy as np
import pytest

from sonant.synth.tts import load_synthesizer
from sonant.synth.world.speakers import MANNERS, SHAPES, Speaker, manner_request, speakers
from sonant.synth.world.voices import voices


def test_variants_of_dev_and_test_never_train() -> None:
    variants = {split: {speaker.variant for speaker in speakers(split)} for split in ("train", "dev", "test")}
    assert [len(names) for names in variants.values()] == [62, 6, 12]
    assert not variants["train"] & (variants["dev"] | variants["test"])
    assert not variants["dev"] & variants["test"]


def test_a_speaker_is_the_same_whenever_it_is_asked_for() -> None:
    speakers.cache_clear()
    before = speakers("dev")
    speakers.cache_clear()
    assert speakers("dev") == before
    assert [speaker.voice for speaker in before] == list(voices("espeak", "dev"))
    assert len({speaker.pitch for speaker in before}) > 20


def test_neither_one_variant_nor_near_copies_of_one_are_two_people() -> None:
    steph, accent, copy, other = (Speaker(v, 1, 1) for v in ("en+steph", "en-us+steph", "en+steph3", "en+f5"))
    assert not steph.differs(accent)
    assert not steph.differs(copy)
    assert steph.differs(other)
    assert other.differs(steph)


def test_every_speaker_of_a_split_differs_from_most_others() -> None:
    for split in ("train", "dev", "test"):
        people = speakers(split)
        assert all(sum(a.differs(b) for b in people) >= 0.8 * len(people) for a in people)


def test_a_manner_is_relative_to_the_speaker_and_varies_a_little() -> None:
    low, high = Speaker("en+m3", 0.8, 0.95), Speaker("en+f3", 1.25, 1.05)
    for manner in MANNERS:
        requests = {s: [manner_request("one two", s, manner, random.Random(i)) for i in range(20)] for s in (low, high)}
        assert len(set(requests[low])) == 20
        for a, b in zip(requests[low], requests[high], strict=True):
            assert b.pitch / a.pitch == pytest.approx(1.25 / 0.8, rel=0.01)
            assert b.rate / a.rate == pytest.approx(1.05 / 0.95, rel=0.01)
            assert (a.pitch_range, a.volume) == (b.pitch_range, b.volume)
            assert a.rate == pytest.approx(SHAPES[manner].rate * low.rate, rel=0.04)


def test_no_speaker_asks_espeak_for_what_it_cannot_do() -> None:
    people = [speaker for split in ("train", "dev", "test") for speaker in speakers(split)]
    for index, speaker in enumerate(people):  # a SpeechRequest refuses what is out of range
        for manner in (*MANNERS, None):
            manner_request("one", speaker, manner, random.Random(index))


def test_speakers_are_about_as_loud_as_one_another() -> None:
    pytest.importorskip("espeakng_loader")
    people = {speaker.voice: speaker for split in ("train", "dev", "test") for speaker in speakers(split)}
    chosen = [people[f"en+{variant}"] for variant in ("iven", "antonio", "m3", "ian", "klatt2", "Hugo")]
    requests = [manner_request("the red cat sleeps", speaker, None, random.Random(0)) for speaker in chosen]
    heard = [speech[0] for speech in load_synthesizer("espeak", num_workers=1).synthesize(requests)]  # type: ignore[index]
    loudness_db = [10 * np.log10(np.square(samples).mean()) for samples in heard]
    assert max(loudness_db) - min(loudness_db) < 6.0  # by themselves: 21 dB


def test_the_sad_are_slow_and_quiet_and_the_excited_fast() -> None:
    pytest.importorskip("espeakng_loader")
    requests = [manner_request("the red cat sleeps", speakers("train")[0], m, random.Random(0)) for m in MANNERS]
    heard = [speech[0] for speech in load_synthesizer("espeak", num_workers=1).synthesize(requests)]  # type: ignore[index]
    calm, excited, sad, angry = range(4)
    by_length = sorted(range(4), key=lambda i: len(heard[i]))
    by_loudness = sorted(range(4), key=lambda i: float(np.abs(heard[i]).mean()))
    assert by_length == [excited, angry, calm, sad]
    assert by_loudness == [sad, calm, excited, angry]

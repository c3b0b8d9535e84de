"""Damaged recordings against a server: all are answered, and the good one after. `python -m bench fuzz` sends more."""

import asyncio
import dataclasses

import pytest
from serving import Scripted, scripted_service, serving

from bench.damaged import DAMAGES, FORMATS, damaged, encoded, tone
from bench.fuzz import fuzz, leaks
from sonant.serve.untrusted_audio import AudioDecoder


@pytest.mark.recipe
def test_damaged_recordings_are_all_answered_and_the_good_one_after_each_batch() -> None:
    decoder = AudioDecoder(memory_bytes=512 * 2**20, timeout_s=20.0)
    # Answers are scripted: `python -m bench fuzz` asks a model.
    service = dataclasses.replace(scripted_service(Scripted()), decoder=decoder)
    with serving(service) as url:
        fuzzed = asyncio.run(fuzz(url, num_files=160, seed=1))
    assert not fuzzed.faults
    assert fuzzed.num_files == 160
    assert fuzzed.statuses[400] > 50
    assert fuzzed.statuses[200] > 10, "damage that does no harm is heard"
    assert fuzzed.good == fuzzed.good_asked == 4


def test_the_same_seed_damages_alike() -> None:
    import numpy as np

    data = {kind: encoded(kind, tone(0.1)) for kind in FORMATS}
    once, again = ([damaged(data[kind], rng) for kind in FORMATS * 8] for rng in map(np.random.default_rng, (3, 3)))
    assert once == again
    assert {name for name, _ in once} == {damage.name for damage in DAMAGES}
    assert all(bytes_ != data[kind] for (name, bytes_), kind in zip(once, FORMATS * 8, strict=True) if name == "insert")


def test_a_leak_is_noticed() -> None:
    assert leaks("<_io.BytesIO object at 0x7f5>")
    assert leaks("/usr/lib/python3/soundfile")
    assert not leaks("audio of 12 bytes: cannot be read as audio; wav, flac, ogg and mp3 are allowed")

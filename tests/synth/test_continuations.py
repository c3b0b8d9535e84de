from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sonant.audio.io import load, save
from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.data.manifest import Manifest, write
from sonant.data.prompts import load_prompt_bank
from sonant.data.shards import merge_build, plan_build, run_build
from sonant.errors import ConfigError
from sonant.synth.continuations import Continuations, Utterance
from sonant.synth.cutting import CutBy, CutRule, pauses

RATE_HZ = 16_000


def sound(*stretches_s: float) -> np.ndarray:
    """Noise and silence in turn, in seconds; the first is noise."""
    rng = np.random.default_rng(0)
    noise = (rng.uniform(-0.3, 0.3, round(s * RATE_HZ)) for s in stretches_s)
    return np.concatenate([n * (i % 2 == 0) for i, n in enumerate(noise)]).astype(np.float32)


def cut(samples: np.ndarray, rule: CutRule, starts_s: Sequence[float] | None = None, *, seed: int = 0) -> float | None:
    return rule.cut(samples, sample_rate_hz=RATE_HZ, rng=np.random.default_rng(seed), starts_s=starts_s)


def test_pauses_are_silences_between_sounds_and_not_a_stopped_breath_or_the_ends() -> None:
    samples = np.concatenate([np.zeros(RATE_HZ, np.float32), sound(1.0, 0.05, 1.0, 0.3, 1.0, 0.5)])
    ((start_s, end_s),) = pauses(samples, sample_rate_hz=RATE_HZ)
    assert (start_s, end_s) == pytest.approx((3.05, 3.35), abs=0.02)
    assert pauses(samples[:100], sample_rate_hz=RATE_HZ) == []


def test_a_cut_is_in_the_middle_of_a_pause_that_leaves_both_parts_long_enough() -> None:
    samples = sound(0.5, 0.3, 1.0, 0.3, 1.0, 0.3, 0.2)  # pauses at 0.65, 1.95 and 3.25 s
    assert [cut(samples, CutRule(), seed=seed) for seed in range(5)] == pytest.approx([1.95] * 5, abs=0.01)
    assert cut(samples, CutRule(max_prompt_s=1.5)) is None


def test_a_pause_that_no_word_follows_is_inside_a_word() -> None:
    samples = sound(1.0, 0.3, 1.0, 0.3, 1.0)
    places = [cut(samples, CutRule(), [0.0, 0.5, 2.6], seed=seed) for seed in range(5)]
    assert places == pytest.approx([2.45] * 5, abs=0.01)


def test_by_marks_a_cut_is_where_a_word_begins_and_anywhere_is_anywhere_within_the_limits() -> None:
    samples = sound(4.0)
    at_words = {cut(samples, CutRule("marks"), [0.0, 0.9, 1.8, 2.7, 3.6], seed=seed) for seed in range(20)}
    assert at_words == {1.8, 2.7}
    anywhere = [cut(samples, CutRule("anywhere", max_prompt_s=2.0), seed=seed) for seed in range(20)]
    assert all(place is not None and 1.0 <= place <= 2.0 for place in anywhere)
    assert len(set(anywhere)) == 20


def test_a_word_that_begins_at_the_cut_is_behind_it() -> None:
    # Rounded up to 1.63 s, the cut fell behind the beginning of the last word, and nothing was left to say.
    starts_s = [0.0, 0.5, 1.6296]
    part = AudioPart(path="a.wav", transcript="he hoped for")
    place = cut(sound(3.0), CutRule("marks"), starts_s)
    assert place == 1.629
    first, second = Utterance(part, 3.0, starts_s).cut(place)
    assert (first.transcript, second.transcript) == ("he hoped", "for")


def test_the_published_cut_is_at_three_seconds() -> None:
    assert cut(sound(5.0), CutRule("anywhere", 3.0, 3.0)) == 3.0


@pytest.mark.parametrize("limits", [(2.0, 1.0, 0.5), (0.0, 1.0, 0.5), (1.0, 2.0, 0.0)])
def test_limits_that_no_cut_keeps_are_refused(limits: tuple[float, float, float]) -> None:
    with pytest.raises(ConfigError, match="shortest prompt first"):
        CutRule("silence", *limits)


def asr(folder: Path, name: str, samples: np.ndarray, text: str, **extra: Any) -> Conversation:
    save(folder / f"{name}.wav", samples, sample_rate_hz=RATE_HZ)
    part = AudioPart(path=str(folder / f"{name}.wav"), extra=extra)
    return Conversation((user("Transcribe: ", part), assistant(text)), id=name, task="asr", speaker="ann")


def built(
    folder: Path, rows: Sequence[Conversation], by: CutBy = "silence", **changes: Any
) -> tuple[list[Conversation], dict[str, int]]:
    """The rows that were made, and how many were dropped for what."""
    write(folder / "asr.jsonl", rows)
    builder = Continuations(CutRule(by), **changes)
    build = plan_build(builder, folder / "asr.jsonl", folder / f"out-{by}")
    run_build(builder, build)
    report = merge_build(build)
    assert report["rows"] + sum(report["dropped"].values()) == len(rows)
    return list(Manifest(build.out / "rows.jsonl")) if report["rows"] else [], report["dropped"]


WORDS = [["he", 0.0], ["hoped", 0.5], ["for", 1.6], ["stew", 2.0]]


def test_a_marked_utterance_becomes_a_prompt_and_a_rest_that_know_their_words(tmp_path: Path) -> None:
    row = asr(tmp_path, "a", sound(1.2, 0.4, 1.4), "he hoped for stew", words=WORDS)
    ((made,), _) = built(tmp_path, [row], bank=load_prompt_bank("continuation"), boundary=" | ")
    ((heard,), said) = made.heard_parts, made.spoken
    assert said
    assert (made.task, made.speaker, made.id) == ("continuation", "ann", "a")
    assert made.reference == "he hoped | for stew"
    assert (heard.transcript, said.transcript) == ("he hoped", "for stew")
    assert (heard.offset_s, heard.duration_s) == (0.0, pytest.approx(1.4, abs=0.011))
    assert said.offset_s == heard.duration_s
    assert said.offset_s + (said.duration_s or 0) == pytest.approx(3.0)
    assert heard.extra["words"] == WORDS[:2]
    assert said.extra["words"] == [
        ["for", pytest.approx(1.6 - said.offset_s)],
        ["stew", pytest.approx(2 - said.offset_s)],
    ]
    parts = [load(p.source, offset_s=p.offset_s, duration_s=p.duration_s) for p in (heard, said)]
    assert np.array_equal(np.concatenate(parts), load(tmp_path / "a.wav"))


def test_without_marks_the_text_stays_whole_and_belongs_to_all_of_what_is_said(tmp_path: Path) -> None:
    ((made,), _) = built(tmp_path, [asr(tmp_path, "a", sound(1.2, 0.4, 1.4), "he hoped for stew")])
    assert made.reference == "he hoped for stew"
    assert made.spoken
    assert made.spoken.transcript is None
    assert made.messages[-1].spoken_text == "he hoped for stew"
    assert [part.transcript for part in made.heard_parts] == [None]
    assert made.messages[0].parts == made.heard_parts  # as published: nothing is asked


def test_a_segment_of_a_long_file_is_cut_within_itself(tmp_path: Path) -> None:
    row = asr(tmp_path, "a", sound(9.0, 1.0, 1.2, 0.4, 1.4, 1.0, 5.0), "he hoped for stew")
    part = replace(row.audio_parts[0], offset_s=10.0, duration_s=3.0)
    ((made,), _) = built(tmp_path, [replace(row, messages=(user(part), row.messages[1]))])
    assert made.spoken
    assert (made.heard_parts[0].offset_s, made.heard_parts[0].duration_s) == (10.0, pytest.approx(1.4, abs=0.011))
    assert made.spoken.offset_s + (made.spoken.duration_s or 0) == pytest.approx(13.0)


def test_what_cannot_be_cut_is_counted_with_its_reason(tmp_path: Path) -> None:
    rows = [
        asr(tmp_path, "short", sound(1.2), "he hoped"),
        asr(tmp_path, "dense", sound(4.0), "he hoped"),
        asr(tmp_path, "silent", sound(1.2, 0.4, 1.4), ""),
        asr(tmp_path, "wrong", sound(1.2, 0.4, 1.4), "he hoped", words=WORDS),
        Conversation((user("hello"), assistant("hello"))),
        asr(tmp_path, "good", sound(1.2, 0.4, 1.4), "he hoped for stew", words=WORDS),
    ]
    _, dropped = built(tmp_path, rows)
    assert dropped == {
        "shorter than 1.5 s": 1,
        "no pause between 1 and 8 s": 1,
        "no transcript": 1,
        "word marks do not fit": 1,
        "not one recording that is heard": 1,
    }


def test_neither_a_cut_by_marks_nor_a_boundary_is_guessed_where_there_are_no_marks(tmp_path: Path) -> None:
    rows = [asr(tmp_path, "a", sound(1.2, 0.4, 1.4), "he hoped for stew")]
    assert built(tmp_path, rows, "marks") == ([], {"no word marks": 1})
    assert built(tmp_path, rows, boundary=" | ") == ([], {"no word marks, so no place for the boundary": 1})

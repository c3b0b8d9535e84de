from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from engines import errors_in, rows

from sonant.audio.io import info
from sonant.chat.spelling import word_starts
from sonant.data.manifest import Manifest
from sonant.synth.tts import Marked, Speech, SpeechRequest
from sonant.synth.world.facts import facts, names_held_out
from sonant.synth.world.speakers import speakers
from sonant.synth.world.spectron import (
    BOUNDARY,
    SpectronSizes,
    SpectronWorldConfig,
    make_spectron_world,
    spoken_by,
    unseen_voices,
)

WORD_S, PAUSE_S = 0.4, 0.2
RATE_HZ = 4000  # little to write


class Clock:
    """Hums 0.4 s a word, and nothing for 0.2 s after a full stop; knows when each word begins."""

    name = "clock"

    def __init__(self) -> None:
        self.num_clips = 0

    def synthesize(self, requests: Sequence[SpeechRequest]) -> Iterator[Speech]:
        return (speech for speech, _ in self.synthesize_marked(requests))

    def synthesize_marked(self, requests: Sequence[SpeechRequest]) -> Iterator[Marked]:
        for request in requests:
            self.num_clips += 1
            pieces, marks, now_s = [], [], 0.0
            for word in request.text.split():
                marks.append((word, round(now_s, 4)))
                silence = np.zeros(int(RATE_HZ * PAUSE_S) if word.endswith(".") else 0, np.float32)
                pieces += [np.full(int(RATE_HZ * WORD_S), 0.1, np.float32), silence]
                now_s += WORD_S + len(silence) / RATE_HZ
            yield (np.concatenate(pieces), RATE_HZ), tuple(marks)


def small() -> SpectronWorldConfig:
    train = SpectronSizes(spoken_qa=16, continuation=24, read_aloud=16, asr=8, text_only=4)
    few = SpectronSizes(
        spoken_qa=8, continuation=8, read_aloud=8, asr=4, text_only=4, spoken_qa_heldout=4, continuation_heldout=4
    )
    return SpectronWorldConfig(train=train, dev=few, test=few.model_copy(update={"unseen": 4}))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world")
    make_spectron_world(out, config=small(), synthesizer=Clock())
    return out


def test_the_doctor_finds_no_error_in_it(world: Path) -> None:
    assert errors_in(world) == []


def test_a_second_run_speaks_nothing_and_writes_the_same_and_so_does_a_run_elsewhere(
    world: Path, tmp_path: Path
) -> None:
    before = {path.relative_to(world): path.read_bytes() for path in world.glob("*/*.jsonl")}
    engine = Clock()
    make_spectron_world(world, config=small(), synthesizer=engine)
    make_spectron_world(tmp_path, config=small(), synthesizer=Clock())
    assert engine.num_clips == 0
    for out in (world, tmp_path):
        assert {path.relative_to(out): path.read_bytes() for path in out.glob("*/*.jsonl")} == before


def test_the_answer_is_spoken_in_the_voice_of_the_question_and_marked_word_by_word(world: Path) -> None:
    spoken = [row for path in world.glob("*/*.jsonl") for row in Manifest(path) if row.spoken]
    assert len(spoken) > 100
    for row in spoken:
        assert row.spoken
        assert row.spoken.transcript
        assert row.reference.endswith(row.spoken.transcript)
        starts = word_starts(row.spoken, row.spoken.transcript.split(), duration_s=row.spoken.duration_s)
        assert starts is not None
        assert len(row.heard_parts) == 1
        assert info(row.spoken.source).duration_s >= (row.spoken.duration_s or 0) + row.spoken.offset_s - 1e-3
    assert Counter(row.speaker for row in rows(world, "train/spoken_qa")) == {v.voice: 2 for v in spoken_by()}


def test_a_sentence_of_dev_or_test_is_never_spoken_in_training(world: Path) -> None:
    def said(split: str, names: Sequence[str]) -> set[str]:
        texts = {
            " ".join(part.transcript or "" for part in row.audio_parts)
            if name == "continuation"
            else (part.transcript or "")
            for name in names
            for row in rows(world, f"{split}/{name}")
            for part in row.audio_parts
        }
        return {sentence for text in texts for sentence in text.split(". ")}

    train = said("train", ("spoken_qa", "continuation", "read_aloud", "asr"))
    for split in ("dev", "test"):
        assert not train & said(split, ("continuation", "read_aloud", "asr", "spoken_qa_heldout"))
        assert not train & {row.heard_parts[0].transcript for row in rows(world, f"{split}/spoken_qa")}


def test_what_is_heard_in_one_split_is_neither_heard_nor_said_in_another(world: Path) -> None:
    # Training heard "the fox eats berries" as a prompt of read_aloud; a question of test was answered with that clip.
    statements = {fact.statement for fact in facts()}
    clips: dict[str, tuple[set[str], set[str]]] = {}
    for split in ("train", "dev", "test"):
        made = [row for path in (world / split).glob("*.jsonl") for row in Manifest(path)]
        heard = {part.name for row in made for part in row.heard_parts}
        clips[split] = heard, {part.name for row in made for part in row.audio_parts}
        for name in ("read_aloud", "asr"):
            assert not statements & {row.heard_parts[0].transcript for row in rows(world, f"{split}/{name}")}
    for one, other in permutations(clips, 2):
        assert not clips[one][0] & clips[other][1]


def test_nothing_of_an_entity_that_is_held_out_is_heard_or_said_but_where_it_is_measured(world: Path) -> None:
    for path in world.glob("*/*.jsonl"):
        told = [names_held_out(row.reference.replace(".", "")) for row in Manifest(path) if row.audio_parts]
        assert told == [("heldout" in path.stem)] * len(told)
    about = {split: {r.reference for r in rows(world, f"{split}/continuation_heldout")} for split in ("dev", "test")}
    assert not about["dev"] & about["test"]


def test_a_continuation_is_one_utterance_cut_where_a_word_begins_silences_first(world: Path) -> None:
    made = rows(world, "train/continuation")
    in_pause = 0
    for row in made:
        (heard,), said = row.heard_parts, row.spoken
        assert said
        assert said.path == heard.path
        assert said.offset_s == heard.duration_s
        assert 1.0 <= (heard.duration_s or 0) <= 8.0
        assert row.reference == f"{heard.transcript} {said.transcript}"
        in_pause += (heard.transcript or "").endswith(".")
        # By the clock: words before the cut are all that have begun.
        total_s = info(said.source).duration_s
        num_words = len((said.transcript or "").split()) + (PAUSE_S / WORD_S) * ("." in (said.transcript or ""))
        assert num_words * WORD_S <= total_s - said.offset_s + 1e-3 <= num_words * WORD_S + PAUSE_S
    assert len(made) / 2 < in_pause < len(made)
    assert all(len(row.reference.split(". ")) == 2 for row in made)


def test_the_bounded_rows_differ_by_the_boundary_alone(world: Path) -> None:
    for plain, bounded in zip(rows(world, "test/continuation"), rows(world, "test/continuation_bounded"), strict=True):
        assert bounded.reference.replace(BOUNDARY, " ") == plain.reference
        assert bounded.spoken == plain.spoken
        assert bounded.spoken
        assert bounded.reference.split(BOUNDARY)[1] == bounded.spoken.transcript
        assert bounded.prompt() == plain.prompt()


def test_what_is_read_aloud_stands_in_the_question_and_is_said_in_the_voice_that_is_heard(world: Path) -> None:
    for row in rows(world, "train/read_aloud"):
        assert row.messages[0].text.endswith(f": {row.reference}")
        assert row.heard_parts[0].transcript != row.reference
        assert row.speaker


def test_the_eight_voices_are_different_throats_and_unseen_ones_are_in_no_training(world: Path) -> None:
    assert len({speaker.throat for speaker in spoken_by()}) == 8
    assert {speaker.voice for speaker in spoken_by()} <= {speaker.voice for speaker in speakers("train")}
    unseen = {speaker.throat for speaker in unseen_voices()}
    assert len(unseen) >= 4
    assert not unseen & {speaker.throat for speaker in spoken_by()}
    for name in ("spoken_qa_unseen", "read_aloud_unseen"):
        assert {row.speaker for row in rows(world, f"test/{name}")} <= {speaker.voice for speaker in unseen_voices()}
    others = {row.speaker for path in world.glob("*/*.jsonl") if "unseen" not in path.stem for row in Manifest(path)}
    assert others - {None} == {speaker.voice for speaker in spoken_by()}


def test_one_voice_makes_a_world_of_its_own(tmp_path: Path) -> None:
    few = SpectronSizes(spoken_qa=2, continuation=2, read_aloud=2, text_only=0)
    config = SpectronWorldConfig(train=few, dev=few, test=few, num_voices=1)
    make_spectron_world(tmp_path, config=config, synthesizer=Clock())
    assert {row.speaker for path in tmp_path.glob("*/*.jsonl") for row in Manifest(path)} == {spoken_by()[0].voice}


def test_espeak_speaks_the_world_with_marks_for_every_word(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    none = SpectronSizes(spoken_qa=0, continuation=0, read_aloud=0, text_only=0)
    train = none.model_copy(update={"spoken_qa": 2, "continuation": 4, "read_aloud": 2})
    make_spectron_world(tmp_path, config=SpectronWorldConfig(train=train, dev=none, test=none))
    for name in ("spoken_qa", "continuation", "read_aloud"):
        for row in rows(tmp_path, f"train/{name}"):
            assert row.spoken
            assert row.spoken.extra["words"][0][1] <= 0.3
            assert 0.5 < (row.spoken.duration_s or 0) < 4.0

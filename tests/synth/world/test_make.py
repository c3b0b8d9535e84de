from pathlib import Path

import pytest
from engines import Hum

from sonant.audio.io import info
from sonant.chat.messages import AudioPart, TextPart
from sonant.data.manifest import Manifest
from sonant.errors import SynthesisError
from sonant.synth.world.facts import names_held_out
from sonant.synth.world.listening import VoiceGroup, make_listening
from sonant.synth.world.make import Sizes, WorldConfig, make_world, text_rows
from sonant.synth.world.text import speech_texts
from sonant.synth.world.voices import voices

TASKS = ("asr", "translation", "spoken_qa", "mixed_modal", "multi_turn")


def small() -> WorldConfig:
    sizes = Sizes(asr=6, translation=6, spoken_qa=6, mixed_modal=6, multi_turn=6, text_only=10)
    return WorldConfig(train=sizes, dev=sizes, test=sizes.model_copy(update={"spoken_qa_heldout": 6}))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world")
    make_world(out, config=small(), synthesizer=Hum())
    return out


def test_every_task_of_every_split_is_a_manifest_whose_clips_exist(world: Path):
    for split in ("train", "dev", "test"):
        for task in TASKS:
            for row in Manifest(world / split / f"{task}.jsonl"):
                assert row.task == task
                assert row.reference
                assert row.speaker in voices("espeak", split)
                assert row.audio_parts
                for part in row.audio_parts:
                    assert part.transcript
                    assert info(part.source).sample_rate_hz == 16_000


def test_held_out_entities_are_heard_in_one_test_manifest_only(world: Path):
    heard = {
        path.relative_to(world).as_posix()
        for path in world.glob("*/*.jsonl")
        for row in Manifest(path)
        for part in row.audio_parts
        if names_held_out(part.transcript or "")
    }
    assert heard == {"test/spoken_qa_heldout.jsonl"}
    assert len(Manifest(world / "test" / "spoken_qa_heldout.jsonl")) == 6


def test_mixed_prompts_hold_speech_and_writing_and_instructions_are_written(world: Path):
    for row in Manifest(world / "train" / "mixed_modal.jsonl"):
        kinds = {type(part) for part in row.messages[0].parts}
        assert kinds == {TextPart, AudioPart}
    for row in Manifest(world / "train" / "asr.jsonl"):
        instruction, clip = row.messages[0].parts
        assert isinstance(instruction, TextPart)
        assert instruction.text.endswith(":")
        assert isinstance(clip, AudioPart)
        assert clip.transcript == row.reference


def test_every_turn_of_a_dialogue_is_heard(world: Path):
    for row in Manifest(world / "train" / "multi_turn.jsonl"):
        asked = [message for message in row.messages if message.role == "user"]
        assert 2 <= len(asked) <= 3
        assert all(any(isinstance(part, AudioPart) for part in message.parts) for message in asked)


def test_a_second_run_speaks_nothing_and_writes_the_same(world: Path):
    before = {path: path.read_bytes() for path in world.glob("*/*.jsonl")}
    engine = Hum()
    counts = make_world(world, config=small(), synthesizer=engine)
    assert engine.num_clips == 0
    assert sum(counts.values()) == 3 * 40 + 6
    assert {path: path.read_bytes() for path in world.glob("*/*.jsonl")} == before


def test_text_rows_are_made_again_alike_and_only_training_has_errors():
    assert list(text_rows("test", 30)) == list(text_rows("test", 30))
    assert list(text_rows("test", 30, seed=1)) != list(text_rows("test", 30))
    assert {row.task for row in text_rows("train", 60)} == {
        *(
            "text_question",
            "text_question_heldout",
            "text_translation",
            "text_repeat",
            "text_in_context",
            "text_multi_turn",
        )
    }


def test_listening_clips_carry_their_transcripts(tmp_path: Path):
    pytest.importorskip("espeakng_loader")
    group = VoiceGroup("espeak", (), 3)
    (train,), dev = make_listening(tmp_path, groups=(group,), num_dev=2)
    rows = list(Manifest(train))
    assert len(rows) == 3
    assert len(Manifest(dev["espeak"])) == 2
    assert all(row.audio_parts[0].transcript == row.reference for row in rows)
    assert all(info(row.audio_parts[0].source).duration_s > 0.2 for row in rows)


def test_an_engine_that_is_missing_is_left_out_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def load(engine: str) -> Hum:
        if engine == "festival":
            raise SynthesisError("the program 'festival' is not installed; run: apt-get install festival")
        return Hum()

    monkeypatch.setattr("sonant.synth.world.listening.load_synthesizer", load)
    groups = (VoiceGroup("flite", ("slt",), 2), VoiceGroup("festival", ("kal_diphone",), 2))
    said: list[str] = []
    train, _ = make_listening(tmp_path, groups=groups, num_dev=1, tell=said.append)
    assert [path.stem for path in train] == ["flite_slt"]
    assert "left out: festival_kal_diphone" in said[0]
    assert "apt-get install festival" in said[0]


def test_no_test_question_about_a_held_out_entity_is_heard_by_the_recogniser(world: Path):
    """It may hear the names. Once the questions came from every split, and it had heard most of them."""
    asked = {
        part.transcript for row in Manifest(world / "test" / "spoken_qa_heldout.jsonl") for part in row.audio_parts
    }
    assert asked
    assert not asked & set(speech_texts("train", 9000))

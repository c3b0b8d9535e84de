from collections import Counter
from pathlib import Path

import pytest
from engines import Hum, errors_in, rows

from sonant.audio.io import info
from sonant.chat.messages import Conversation
from sonant.data.manifest import Manifest
from sonant.data.prompts import Split, load_prompt_bank
from sonant.synth.combined import split_of_combination
from sonant.synth.world.facts import names_held_out
from sonant.synth.world.speakers import MANNERS, speakers
from sonant.synth.world.wavllm import BANKS, WavLLMSizes, WavLLMWorldConfig, make_wavllm_world

SPLITS: tuple[Split, ...] = ("train", "dev", "test")


def small() -> WavLLMWorldConfig:
    train = WavLLMSizes(
        blocks=2, pairs=24, questions=12, instructions=8, beginnings=8, combined=16, text_only=10, text_combined=10
    )
    test = train.model_copy(update={"pairs_manners": 8, "questions_heldout": 6, "chained": 6})
    return WavLLMWorldConfig(train=train, dev=test, test=test)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world")
    make_wavllm_world(out, config=small(), synthesizer=Hum())
    return out


def test_the_doctor_finds_no_error_in_it(world: Path) -> None:
    assert errors_in(world) == []


def test_a_second_run_speaks_nothing_and_writes_the_same(world: Path) -> None:
    before = {path: path.read_bytes() for path in world.glob("*/*.jsonl")}
    engine = Hum()
    make_wavllm_world(world, config=small(), synthesizer=engine)
    assert engine.num_clips == 0
    assert {path: path.read_bytes() for path in world.glob("*/*.jsonl")} == before


def test_no_test_speaker_and_no_held_out_entity_is_heard_in_training(world: Path) -> None:
    voices: dict[str, set[str]] = {split: {speaker.voice for speaker in speakers(split)} for split in SPLITS}
    assert not voices["train"] & (voices["dev"] | voices["test"])
    for path in world.glob("*/*.jsonl"):
        for row in Manifest(path):
            said_by = {*row.extra.get("speakers", ()), row.speaker} - {None}
            assert said_by <= voices[path.parent.name]
            if path.stem != "spoken_qa_heldout":
                assert not any(names_held_out(part.transcript or "") for part in row.audio_parts)


def test_no_sentence_of_dev_or_test_is_heard_in_training(world: Path) -> None:
    heard = {
        split: {row.audio_parts[0].transcript for name in ("asr", "spoken_qa", "instruction", "continuation")
                for row in rows(world, f"{split}/{name}")}
        for split in SPLITS
    }  # fmt: skip
    assert not heard["train"] & (heard["dev"] | heard["test"])
    pairs = [row.audio_parts[0].transcript for row in rows(world, "test/verification")]
    assert all(any(text.startswith(f"{first} ") for first in heard["test"]) for text in pairs if text)


def test_every_sentence_is_said_in_every_manner(world: Path) -> None:
    said = Counter((row.audio_parts[0].transcript, row.reference) for row in rows(world, "train/manner"))
    texts = {text for text, _ in said}
    assert said == Counter({(text, manner): 1 for text in texts for manner in MANNERS})


@pytest.mark.parametrize("name", ["train/verification", "test/verification", "test/verification_manners"])
def test_pairs_come_in_both_orders_and_are_balanced(world: Path, name: str) -> None:
    made = rows(world, name)
    assert Counter(row.reference for row in made) == {"yes": len(made) / 2, "no": len(made) / 2}
    by_pair: dict[str, list[Conversation]] = {}
    for row in made:
        by_pair.setdefault(row.extra["pair"], []).append(row)
        first, second = row.extra["speakers"]
        assert (first == second) == (row.reference == "yes")
        one, two = row.extra["manners"]
        assert (one == two) == (not name.endswith("manners"))
        assert first.partition("+")[2] != second.partition("+")[2] or row.reference == "yes"
        assert 0.1 + 0.2 + 0.1 <= info(row.audio_parts[0].source).duration_s <= 0.1 + 0.5 + 0.1 + 1e-6
    assert all(a.extra["speakers"] == b.extra["speakers"][::-1] for a, b in by_pair.values())
    assert all(a.reference == b.reference for a, b in by_pair.values())


def test_what_is_said_does_not_tell_whether_one_speaker_says_it(world: Path) -> None:
    made = rows(world, "train/verification")[: 2 * 16]  # one block
    of_sentence: dict[str, Counter[str]] = {}
    sentences = {row.audio_parts[0].transcript for row in rows(world, "train/asr")}
    for row in made:
        for text in sentences:
            if text and row.audio_parts[0].transcript and text in row.audio_parts[0].transcript:
                of_sentence.setdefault(text, Counter())[row.reference] += 1
    assert len(of_sentence) >= 4
    assert all(counts["yes"] == counts["no"] for counts in of_sentence.values())


def test_one_clip_is_asked_to_be_followed_written_down_and_answered_in_german(world: Path) -> None:
    of_clip: dict[str, dict[str, str]] = {}
    for row in rows(world, "train/instruction"):
        of_clip.setdefault(row.audio_parts[0].path or "", {})[row.extra["wanted"]] = row.reference
    wanted = Counter(frozenset(each) for each in of_clip.values())
    assert wanted[frozenset({"follow", "transcribe", "german"})]
    assert wanted[frozenset({"follow", "transcribe"})]
    assert all(each["follow"] != each["transcribe"] for each in of_clip.values())
    without = [row for row in rows(world, "train/instruction") if not row.messages[0].text]
    assert without
    assert all(row.extra["wanted"] == "follow" for row in without)
    assert not any(row.messages[0].text for row in rows(world, "test/instruction_empty"))


def test_combined_rows_of_tests_are_in_orders_that_training_has_not(world: Path) -> None:
    orders = {name: {tuple(row.extra["combination"]) for row in rows(world, name)}
              for name in ("train/combined", "dev/combined", "test/combined", "test/combined_seen")}  # fmt: skip
    assert all(split_of_combination(each) == "train" for each in orders["train/combined"])
    assert all(split_of_combination(each) == "train" for each in orders["test/combined_seen"])
    assert all(split_of_combination(each) == "test" for each in orders["test/combined"])
    assert all(split_of_combination(each) == "dev" for each in orders["dev/combined"])
    assert not (world / "train" / "combined_chained.jsonl").exists()
    for row in rows(world, "test/combined"):
        answer = ". ".join(f"{each['intro']} {each['reference']}" for each in row.extra["instructions"])
        assert row.reference == answer


def test_written_combined_rows_hold_what_was_said(world: Path) -> None:
    for row in rows(world, "train/text_combined"):
        assert not row.audio_parts
        assert row.task == "text_combined"
        assert not {"manner", "verification"} & set(row.extra["combination"])


def test_written_combined_rows_are_of_every_kind_of_clip(world: Path) -> None:
    """They were the first ones, all of sentences: nothing written was ever answered, followed or gone on with."""
    asked = {name for row in rows(world, "train/text_combined") for name in row.extra["combination"]}
    assert asked & {"answer", "answer_german"}
    assert asked & {"follow", "continuation"}


@pytest.mark.parametrize("name", [*BANKS.values(), "tiny_wavllm_answer", "tiny_wavllm_aside", "tiny_wavllm_again"])
def test_held_out_wordings_use_only_words_of_training(name: str) -> None:
    bank = load_prompt_bank(name)
    assert len(bank.of("train")) >= 24
    assert len(bank.of("dev")) >= 6
    assert len(bank.of("test")) >= 12
    known = {word.strip(":") for text in bank.of("train") for word in text.split()}
    assert {word.strip(":") for split in ("dev", "test") for text in bank.of(split) for word in text.split()} <= known


def test_how_many_things_training_asks_at_once_changes_no_test_row(world: Path, tmp_path: Path) -> None:
    config = small()
    config = config.model_copy(update={"train": config.train.model_copy(update={"parts": {3: 1.0}})})
    make_wavllm_world(tmp_path, config=config, synthesizer=Hum())
    assert {len(row.extra["combination"]) for row in rows(tmp_path, "train/combined")} == {3}
    asked = [[row.messages[0].text for row in rows(out, "test/combined")] for out in (world, tmp_path)]
    assert asked[0] == asked[1]


def test_a_manifest_that_a_smaller_world_has_not_does_not_stay(tmp_path: Path) -> None:
    old = tmp_path / "train" / "verification.jsonl"
    old.parent.mkdir()
    old.write_text("of a world with pairs")
    config = small()
    config = config.model_copy(update={"train": config.train.model_copy(update={"pairs": 0})})
    counts = make_wavllm_world(tmp_path, config=config, synthesizer=Hum())
    assert "train/verification.jsonl" not in counts
    assert not old.exists()

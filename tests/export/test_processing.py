"""The processor: conversations in every form become the same tensors, and text stays text."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from sonant.audio import io
from sonant.audio.features import FeatureSpec
from sonant.batch import collate, make_example
from sonant.chat.messages import AudioPart, Conversation, user
from sonant.errors import AudioError, ChatError
from sonant.export.hf.inputs import as_batch, as_inputs
from sonant.export.hf.processing import SonantProcessor
from sonant.testing import byte_tokenizer, tone

SPEC = FeatureSpec.tiny()
TOKENIZER = byte_tokenizer()
SAMPLES = tone(0.4)


@pytest.fixture
def processor() -> SonantProcessor:
    return SonantProcessor(TOKENIZER.hf, features=[SPEC.to_json()])


def equal(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_question_is_the_same_however_it_is_written(processor: SonantProcessor, tmp_path: Any) -> None:
    path = str(tmp_path / "clip.flac")
    io.save(path, SAMPLES, sample_rate_hz=16_000)
    ways = [
        Conversation((user("repeat: ", AudioPart(path=path)),)),
        {"id": "1", "messages": [{"role": "user", "content": [text("repeat: "), {"type": "audio", "path": path}]}]},
        [{"role": "user", "content": [text("repeat: "), {"type": "audio", "audio": path}]}],
        [
            {
                "role": "user",
                "content": (text("repeat: "), {"type": "audio", "audio": io.load(path, sample_rate_hz=16_000)}),
            }
        ],
    ]
    expected = processor(ways[0])
    assert all(equal(processor(way), expected) for way in ways)
    batch = processor(ways)
    assert batch["input_ids"].shape[0] == len(ways)
    assert batch["audio_rows"].tolist() == [0, 1, 2, 3]


def text(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


def test_an_array_of_another_rate_is_resampled(processor: SonantProcessor) -> None:
    part = {"type": "audio", "audio": tone(0.4, sample_rate_hz=8_000), "sampling_rate": 8_000}
    inputs = processor([{"role": "user", "content": [part]}])
    assert inputs["feature_lengths_0"].tolist() == [SPEC.num_frames(6_400)]


@pytest.mark.parametrize("form", ["of a dataset", "path", "whole float", "rate of numpy"])
def test_samples_come_in_the_forms_in_which_people_have_them(
    processor: SonantProcessor, tmp_path: Path, form: str
) -> None:
    samples = tone(0.4, sample_rate_hz=8_000)
    soundfile.write(tmp_path / "clip.wav", samples, 8_000, subtype="FLOAT")
    part: dict[str, Any] = {
        "of a dataset": {"audio": {"array": samples, "sampling_rate": 8_000, "path": None}},
        "path": {"audio": tmp_path / "clip.wav"},
        "whole float": {"audio": samples, "sampling_rate": 8_000.0},
        "rate of numpy": {"audio": samples, "sampling_rate": np.int64(8_000)},
    }[form]
    inputs = processor([{"role": "user", "content": [{"type": "audio", **part}]}])
    assert inputs["feature_lengths_0"].tolist() == [SPEC.num_frames(6_400)]


@pytest.mark.parametrize("rate_hz", [0, -5, None, "fast", 1e12, 0.5, float("nan")], ids=str)
def test_a_rate_that_is_none_is_refused(processor: SonantProcessor, rate_hz: Any) -> None:
    part = {"type": "audio", "audio": SAMPLES, "sampling_rate": rate_hz}
    with pytest.raises(ChatError, match="sampling_rate is"):
        processor([{"role": "user", "content": [part]}])


@pytest.mark.parametrize("audio", [b"RIFF", {"samples": [1.0]}, np.ones(8, complex), [[1.0], [1.0, 2.0]]], ids=str)
def test_what_holds_no_samples_is_refused(processor: SonantProcessor, audio: Any) -> None:
    with pytest.raises(ChatError, match="audio part"):
        processor([{"role": "user", "content": [{"type": "audio", "audio": audio}]}])


def test_rows_are_padded_on_the_left_and_clips_take_no_place_in_the_ids(processor: SonantProcessor) -> None:
    clip = {"type": "audio", "audio": SAMPLES}
    short, long = [{"role": "user", "content": [clip]}], [{"role": "user", "content": [text("what is said?"), clip]}]
    inputs = processor([short, long])
    lengths = inputs["attention_mask"].sum(1)
    assert lengths[1] - lengths[0] == len("what is said?")
    assert inputs["attention_mask"][0].tolist() == sorted(inputs["attention_mask"][0].tolist())
    alone = processor(short)
    assert torch.equal(inputs["input_ids"][0, -lengths[0] :], alone["input_ids"][0])
    assert inputs["audio_positions"][0] == alone["audio_positions"][0]


def test_a_batch_survives_the_way_through_the_tensors() -> None:
    questions = [Conversation((user("what?"),)), Conversation((user("a longer one"),))]
    batch = collate([make_example(q, TOKENIZER, [SPEC], for_generation=True) for q in questions])
    for side in ("left", "right"):
        inputs = as_inputs(batch, [SPEC], pad_id=7, reads_prompt=True)
        if side == "right":
            inputs |= {"input_ids": batch.token_ids, "attention_mask": positions(batch.token_lengths)}
        again = as_batch(inputs, [SPEC], reads_prompt=True)
        assert torch.equal(again.token_ids, batch.token_ids)
        assert torch.equal(again.token_lengths, batch.token_lengths)
        assert torch.equal(again.prompt_ids, batch.prompt_ids)


def positions(lengths: torch.Tensor) -> torch.Tensor:
    return (torch.arange(int(lengths.max())) < lengths[:, None]).long()


def test_what_a_user_writes_is_never_markup(processor: SonantProcessor) -> None:
    ids = processor([{"role": "user", "content": "<|im_end|>"}])["input_ids"][0].tolist()
    harmless = processor([{"role": "user", "content": "a harmless"}])["input_ids"][0].tolist()
    assert [i for i in ids if i in TOKENIZER.special_ids] == [i for i in harmless if i in TOKENIZER.special_ids]


def test_the_chat_template_is_that_of_a_call(processor: SonantProcessor) -> None:
    question = [{"role": "user", "content": [text("repeat: "), {"type": "audio", "audio": SAMPLES}]}]
    made = processor.apply_chat_template(question, tokenize=True, return_dict=True, add_generation_prompt=True)
    assert equal(made, processor(question))
    for asked in ({}, {"tokenize": True}, {"tokenize": True, "return_dict": True, "continue_final_message": True}):
        with pytest.raises(ChatError, match="place between tokens"):
            processor.apply_chat_template(question, **asked)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("what?", "give a conversation"),
        ([], "give a conversation"),
        ([[]], "messages"),
        ([{"role": "user", "content": [{"type": "image", "image": 1}]}], "image"),
        ([{"role": "robot", "content": "a"}], "robot"),
        ([{"role": "user", "content": [{"type": "audio", "audio": np.zeros((2, 100))}]}], "shape"),
        ([{"role": "user", "content": [{"type": "audio", "audio": np.zeros(0)}]}], "shape"),
    ],
)
def test_what_is_no_conversation_is_refused(processor: SonantProcessor, given: Any, complaint: str) -> None:
    with pytest.raises(ChatError, match=complaint):
        processor(given)


@pytest.mark.parametrize("source", ["https://example.org/a.wav", "file:///etc/passwd", "no such file.wav"])
def test_only_files_are_opened(processor: SonantProcessor, source: str) -> None:
    with pytest.raises(AudioError):
        processor([{"role": "user", "content": [{"type": "audio", "audio": source}]}])


def test_other_frameworks_are_refused(processor: SonantProcessor) -> None:
    with pytest.raises(ChatError, match="'np'"):
        processor([{"role": "user", "content": "a"}], return_tensors="np")

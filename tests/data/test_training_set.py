from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sonant.audio.augment import AugmentConfig, Augmenter
from sonant.audio.features import FeatureSpec
from sonant.audio.io import save
from sonant.audio.mel import MelSpec
from sonant.batch import Example
from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.data.manifest import write
from sonant.data.training_set import DataConfig, Ears, SourceConfig, dev_batches, make_stream
from sonant.errors import ManifestError
from sonant.testing import byte_tokenizer, tone

TOKENIZER = byte_tokenizer()
EARS = Ears((), audio_tokens=lambda duration_s: round(10 * duration_s))


def data(root: Path, **changes: object) -> DataConfig:
    speech = [Conversation((user(AudioPart("a.wav", duration_s=2.0)), assistant("yes"))) for _ in range(30)]
    text = [Conversation((user("well?"), assistant("no"))) for _ in range(30)]
    write(root / "speech.jsonl", [replace(row, id=f"s{i}", task="qa") for i, row in enumerate(speech)])
    write(root / "text.jsonl", [replace(row, id=f"t{i}", task="chat") for i, row in enumerate(text)])
    values = {
        "root": str(root),
        "speech": {"qa": {"manifest": "speech.jsonl"}},
        "text": {"chat": {"manifest": "text.jsonl"}},
        "text_share": 0.25,
        "plan": {"token_budget": 400, "micro_batches": 1},
    }
    return DataConfig.model_validate(values | changes)


def test_text_gets_its_share_of_the_answers_tokens(tmp_path: Path) -> None:
    stream = make_stream(data(tmp_path), TOKENIZER, EARS)
    shares = stream.shares()
    assert shares["chat"] == pytest.approx(0.25, abs=0.03)
    assert shares["qa"] + shares["chat"] == pytest.approx(1)


def test_a_clip_counts_as_many_tokens_as_the_ears_say(tmp_path: Path) -> None:
    heard = make_stream(data(tmp_path, text={}), TOKENIZER, EARS).lengths
    deaf = make_stream(data(tmp_path, text={}), TOKENIZER, Ears((), audio_tokens=lambda duration_s: 0)).lengths
    assert set(heard - deaf) == {20}


def test_sound_that_may_be_slowed_down_counts_as_long_as_it_may_become(tmp_path: Path) -> None:
    # Rows were counted at their natural speed: at 0.9 they left the token budget, and the LLM's positions.
    slow = replace(EARS, augmenter=Augmenter(AugmentConfig(speed=(0.8, 1.1))))
    steady = replace(EARS, augmenter=Augmenter(AugmentConfig(speed=(0.8, 1.1), speed_probability=0)))
    plain, slowed, same = (
        make_stream(data(tmp_path, text={}), TOKENIZER, ears).lengths for ears in (EARS, slow, steady)
    )
    assert set(slowed - plain) == {5}  # 2 s become 2.5
    assert set(same - plain) == {0}


def test_spoken_answers_are_targets_of_a_voice_and_take_positions_only_where_they_pass_through_the_llm(
    tmp_path: Path,
) -> None:
    save(tmp_path / "b.wav", tone(0.5), sample_rate_hz=16_000)
    aloud = AudioPart("b.wav", duration_s=0.5, extra={"words": [["so", 0.1]]})
    rows = [Conversation((user("say:"), assistant("so", aloud)), id=f"r{i}", task="aloud") for i in range(4)]
    write(tmp_path / "aloud.jsonl", [*rows, Conversation((user("well?"), assistant("no")), id="r4", task="chat")])
    config = {"speech": {"aloud": {"manifest": "aloud.jsonl"}}, "text": {}, "loader": {"workers": 0}}
    made = data(tmp_path, dev=["aloud.jsonl"], **config)
    voiced = replace(EARS, voice=MelSpec())
    deaf, own, through = (
        make_stream(made, TOKENIZER, ears)
        for ears in (EARS, voiced, replace(voiced, spoken_tokens=lambda duration_s: round(80 * duration_s)))
    )
    assert next(deaf.steps()).batches[0].spoken is None
    assert own.lengths.tolist() == deaf.lengths.tolist()
    assert (through.lengths - own.lengths).tolist() == [40, 40, 40, 40, 0]
    for batch in (next(own.steps()).batches[0], *dev_batches(made, TOKENIZER, voiced, edit=lambda row: row)):
        assert batch.spoken is not None
        assert batch.num_audio == 0
        assert batch.spoken.mel_lengths.tolist() == [40] * 4
        assert [batch.ids[row] for row in batch.spoken.row] == sorted(set(batch.ids) - {"r4"}, key=batch.ids.index)


def test_an_override_of_null_takes_a_source_away() -> None:
    config = DataConfig.model_validate({"speech": {"a": {"manifest": "a.jsonl"}, "b": None}})
    assert config.speech == {"a": SourceConfig(manifest="a.jsonl")}


def test_cached_frames_reach_the_batches(tmp_path: Path) -> None:
    frozen = FeatureSpec.encoded("ear", 3, 25.0)
    ears = Ears([frozen], audio_tokens=lambda duration_s: 20, cached={frozen: lambda part: torch.ones(2, 3)})
    config = data(tmp_path, loader={"workers": 0})
    batches = [next(make_stream(config, TOKENIZER, ears).steps()).batches[0]]  # a.wav does not even exist
    assert all(batch.features[frozen].shape == (batch.num_audio, 2 if batch.num_audio else 0, 3) for batch in batches)
    assert sum(batch.num_audio for batch in batches) > 0


def test_rows_are_edited_first_and_those_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    def check(example: Example) -> None:
        assert example.reference == "YES"
        if example.id.endswith("7"):
            raise ManifestError("too long")

    frozen = FeatureSpec.encoded("ear", 3, 25.0)
    ears = Ears([frozen], audio_tokens=lambda duration_s: 20, cached={frozen: lambda part: torch.ones(2, 3)})
    config = data(tmp_path, text={}, loader={"workers": 0, "max_broken_share": 1.0})
    stream = make_stream(
        config,
        TOKENIZER,
        ears,
        edit=lambda row: replace(row, messages=(row.messages[0], assistant(row.reference.upper()))),
        check=lambda example: check(example) if example.id else None,
    )
    steps = stream.steps()
    seen = [name for _ in range(stream.plan.epoch(0).num_steps) for name in next(steps).batches[0].ids]
    assert len(seen) == 27
    assert stream.quarantine == {f"{tmp_path}/speech.jsonl:{line}": "too long" for line in (8, 18, 28)}


def test_a_row_that_overflows_the_positions_of_the_llm_is_refused_before_training(tmp_path: Path) -> None:
    """Its rotary angles go on without complaint; what it says there was never learnt. The budget alone allows it."""
    longest = int(make_stream(data(tmp_path, text={}), TOKENIZER, EARS).lengths.max())
    make_stream(data(tmp_path, text={}), TOKENIZER, replace(EARS, positions=longest))
    with pytest.raises(ManifestError, match=rf"speech.jsonl:1: row 's0' has {longest} tokens, the LLM holds"):
        make_stream(data(tmp_path, text={}), TOKENIZER, replace(EARS, positions=longest - 1))


def test_manifests_may_be_named_by_absolute_paths(tmp_path: Path) -> None:
    written = data(tmp_path)
    absolute = {"qa": {"manifest": str((tmp_path / "speech.jsonl").absolute())}}
    moved = data(tmp_path, speech=absolute, text={}).model_copy(update={"root": "/nowhere"})
    expected = make_stream(written.model_copy(update={"text": {}}), TOKENIZER, EARS)
    assert make_stream(moved, TOKENIZER, EARS).lengths.tolist() == expected.lengths.tolist()

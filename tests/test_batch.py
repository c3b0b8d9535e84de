"""A row alone and a row in a batch are the same; both encoders hear the same sound."""

import dataclasses

import numpy as np
import pytest
import torch

from sonant.audio import io
from sonant.audio.augment import AugmentConfig, Augmenter
from sonant.audio.features import FeatureSpec, extract
from sonant.batch import collate, make_example
from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.chat.render import prompt_ids
from sonant.errors import AudioError, ConfigError
from sonant.testing import byte_tokenizer, tone

TOKENIZER = byte_tokenizer()
TINY, WAVEFORM = FeatureSpec.tiny(), FeatureSpec.waveform(normalize=False)
SPECS = [TINY, WAVEFORM]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audio")
    for name, duration_s, frequency_hz in [("a/x", 0.3, 300), ("b/x", 0.5, 500), ("short", 0.001, 100)]:
        (folder / name).parent.mkdir(exist_ok=True)
        io.save(folder / f"{name}.wav", tone(duration_s, frequency_hz), sample_rate_hz=16_000)
    return folder


@pytest.fixture(scope="module")
def rows(root):
    a, b = AudioPart(str(root / "a/x.wav")), AudioPart(str(root / "b/x.wav"), 0.1, 0.25)
    return [
        Conversation((user(a, "one?"), assistant("yes"), user("and", b, "?"), assistant("no")), id="0", task="qa"),
        Conversation((user("only text"), assistant("of a longer kind, so that it is padded")), id="1", task="text"),
        Conversation((user(b), assistant("b")), id="2", task="asr"),
    ]


@pytest.fixture(scope="module")
def examples(rows):
    return [make_example(row, TOKENIZER, SPECS) for row in rows]


def test_a_row_holds_what_is_read_heard_and_expected(rows, examples):
    example = examples[0]
    assert (example.id, example.task, example.reference) == ("0", "qa", "no")
    assert example.audio_duration_s == pytest.approx(0.3 + 0.25)
    assert [TOKENIZER.decode(example.token_ids[p : p + 4].tolist()) for p in example.audio_positions] == [
        "one?",
        "?\n",
    ]
    for spec in SPECS:
        for part, features in zip(rows[0].audio_parts, example.features[spec], strict=True):
            samples = io.load(part.path, offset_s=part.offset_s, duration_s=part.duration_s)
            assert torch.equal(features, extract(torch.from_numpy(samples), spec))


def test_recordings_of_the_same_name_are_not_mixed_up(root):  # spec, defect 11
    turns = user(AudioPart(str(root / "a/x.wav")), AudioPart(str(root / "b/x.wav")))
    first, second = make_example(Conversation((turns,)), TOKENIZER, [WAVEFORM]).features[WAVEFORM]
    assert (len(first), len(second)) == (4_800, 8_000)


def test_a_recording_is_read_once_for_two_encoders(rows, monkeypatch):
    read = []
    load = io.load
    monkeypatch.setattr(io, "load", lambda source, **keys: (read.append(source), load(source, **keys))[1])
    make_example(rows[0], TOKENIZER, SPECS)
    assert read == [part.path for part in rows[0].audio_parts]


def test_encoders_of_different_rates_hear_the_same_recording(rows):
    slow = dataclasses.replace(WAVEFORM, sample_rate_hz=8_000)
    features = make_example(rows[2], TOKENIZER, [slow, WAVEFORM]).features
    assert (len(features[slow][0]), len(features[WAVEFORM][0])) == (2_000, 4_000)
    np.testing.assert_allclose(
        features[slow][0][500:1500], features[WAVEFORM][0][1000:3000:2], atol=1e-2
    )  # a tone far below 4 kHz


def test_bytes_are_heard_like_the_file_they_come_from(root):
    path = root / "a/x.wav"
    made = [
        make_example(Conversation((user(part),)), TOKENIZER, [TINY]).features[TINY][0]
        for part in (AudioPart(str(path)), AudioPart(data=path.read_bytes()))
    ]
    assert torch.equal(*made)


def test_both_encoders_hear_the_same_changed_sound_and_it_can_be_made_again(rows):
    changes = AugmentConfig(speed_probability=1.0, noise_probability=1.0, vtlp_probability=0.0, spec_probability=0.0)

    def make():
        return make_example(rows[2], TOKENIZER, SPECS, augmenter=Augmenter(changes), rng=np.random.default_rng(7))

    first, second = make().features, make().features
    for spec in SPECS:
        assert torch.equal(first[spec][0], second[spec][0])
    assert not torch.equal(first[WAVEFORM][0], make_example(rows[2], TOKENIZER, SPECS).features[WAVEFORM][0])
    assert torch.equal(first[TINY][0], extract(first[WAVEFORM][0], TINY))


def test_masks_touch_mels_and_no_waveform(rows):
    off = {name: 0.0 for name in AugmentConfig.model_fields if name.endswith("_probability")}
    augmenter = Augmenter(AugmentConfig(**{**off, "spec_probability": 1.0}))
    masked = make_example(rows[2], TOKENIZER, SPECS, augmenter=augmenter, rng=np.random.default_rng(0)).features
    plain = make_example(rows[2], TOKENIZER, SPECS).features
    assert torch.equal(masked[WAVEFORM][0], plain[WAVEFORM][0])
    assert not torch.equal(masked[TINY][0], plain[TINY][0])


def test_chance_without_a_generator_is_refused(rows):
    with pytest.raises(ValueError, match="needs rng, so that a row can be made again"):
        make_example(rows[0], TOKENIZER, SPECS, augmenter=Augmenter(AugmentConfig()))


def test_a_recording_too_short_for_the_encoder_is_named(root):
    part = AudioPart(str(root / "short.wav"))
    with pytest.raises(AudioError, match=r"short.wav: cannot extract features .* drop or pad shorter audio"):
        make_example(Conversation((user(part),)), TOKENIZER, [FeatureSpec.whisper()])


def test_a_prompt_is_made_like_the_row_it_opens(rows, examples):
    prompt = make_example(rows[0].prompt(), TOKENIZER, SPECS, for_generation=True)
    assert prompt.token_ids.tolist() == examples[0].token_ids[: len(prompt.token_ids)].tolist()
    assert prompt.audio_positions.tolist() == examples[0].audio_positions.tolist()
    assert prompt.reference == ""


def test_rows_in_a_batch_are_the_rows_alone(examples):
    batch = collate(examples)
    assert (batch.num_rows, batch.num_audio) == (3, 3)
    assert (batch.ids, batch.tasks) == (("0", "1", "2"), ("qa", "text", "asr"))
    assert batch.audio_row.tolist() == [0, 0, 2]
    assert batch.audio_duration_s == pytest.approx(0.3 + 0.25 + 0.25)
    for i, example in enumerate(examples):
        alone, length = collate([example]), len(example.token_ids)
        assert batch.token_lengths[i] == length
        for name in ("token_ids", "loss_mask"):
            padded = getattr(batch, name)[i]
            assert torch.equal(padded[:length], getattr(alone, name)[0])
            assert not padded[length:].any()
        mine = batch.audio_row == i
        assert torch.equal(batch.audio_position[mine], alone.audio_position)
        for spec in SPECS:
            assert torch.equal(batch.feature_lengths[spec][mine], alone.feature_lengths[spec])
            for padded, features in zip(batch.features[spec][mine], example.features[spec], strict=True):
                assert torch.equal(padded[: len(features)], features)
                assert not padded[len(features) :].any()


def test_a_batch_holds_what_each_row_asks_in_writing(rows, examples):
    batch = collate(examples)
    for row, ids, length in zip(rows, batch.prompt_ids.tolist(), batch.prompt_lengths.tolist(), strict=True):
        assert ids[:length] == prompt_ids(row, TOKENIZER).tolist()
        assert not any(ids[length:])


def test_a_batch_holds_what_is_said_as_the_tokens_that_would_stand_in_the_place_of_the_audio(root):
    path = str(root / "a/x.wav")
    heard = [
        user("Say: ", AudioPart(path, transcript="the cat sleeps"), " now", AudioPart(path)),
        assistant("ok"),
        user(AudioPart(path, transcript="a dog")),
    ]
    written = [user("Say: ", "the cat sleeps", " now"), assistant("ok"), user("a dog")]
    example = make_example(Conversation(tuple(heard)), TOKENIZER, [TINY])
    batch = collate([example, make_example(Conversation((user("text"),)), TOKENIZER, [TINY])])
    assert batch.transcript_lengths.tolist() == [14, 0, 5]
    assert not batch.transcript_ids[2, 5:].any()
    ids = example.token_ids.tolist()
    for position, said in reversed(list(zip(example.audio_positions, example.transcript_ids, strict=True))):
        ids[position:position] = said.tolist()
    assert ids == make_example(Conversation(tuple(written)), TOKENIZER, [TINY]).token_ids.tolist()
    assert collate([make_example(Conversation((user("text"),)), TOKENIZER, [TINY])]).transcript_ids.shape == (0, 0)


def test_the_loss_weight_counts_tokens_that_can_be_predicted(examples):
    batch = collate(examples)
    answers = ["yes", "no", "of a longer kind, so that it is padded", "b"]
    assert batch.num_target_tokens == sum(len(answer) + 1 for answer in answers)
    assert collate(
        [dataclasses.replace(examples[1], loss_mask=np.ones_like(examples[1].loss_mask))]
    ).num_target_tokens == (len(examples[1].token_ids) - 1)


def test_a_batch_of_text_only_has_empty_features_of_the_right_shape(examples):
    batch = collate([examples[1]])
    assert batch.num_audio == 0
    assert batch.features[TINY].shape == (0, 0, TINY.dim)
    assert batch.features[WAVEFORM].shape == (0, 0)
    assert batch.audio_row.dtype == batch.audio_position.dtype == batch.feature_lengths[TINY].dtype == torch.int64


def test_a_batch_moves_as_a_whole(examples):
    moved = collate(examples).to("meta")
    tensors = [moved.token_ids, moved.token_lengths, moved.loss_mask, moved.audio_row, moved.audio_position]
    tensors += [*moved.features.values(), *moved.feature_lengths.values()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert moved.ids == ("0", "1", "2")


def test_rows_that_do_not_fit_together_are_refused(rows, examples):
    with pytest.raises(ValueError, match="a batch needs one row or more"):
        collate([])
    with pytest.raises(ValueError, match="must hold features for the same encoders"):
        collate([examples[0], make_example(rows[0], TOKENIZER, [TINY])])


FROZEN = FeatureSpec.encoded("ear", 3, 25.0)


def remembered(part):
    """Two frames of a clip, told apart by where it starts."""
    return torch.full((2, 3), 1.0 + part.offset_s)


def test_cached_frames_stand_where_features_would_and_no_audio_is_opened(rows, monkeypatch):
    monkeypatch.setattr(io, "load", lambda *_, **__: pytest.fail("audio was opened"))
    example = make_example(rows[0], TOKENIZER, [FROZEN], cached={FROZEN: remembered})
    assert [f[:, 0].tolist() for f in example.features[FROZEN]] == [[1.0, 1.0], pytest.approx([1.1, 1.1])]
    assert example.audio_duration_s == pytest.approx(2 / 25 + 0.25)  # what the row states, else the frames


def test_one_encoder_may_be_cached_while_the_other_listens(rows, examples):
    mixed = collate([make_example(row, TOKENIZER, [FROZEN, TINY], cached={FROZEN: remembered}) for row in rows])
    assert torch.equal(mixed.features[TINY], collate(examples).features[TINY])
    assert mixed.features[FROZEN].shape == (3, 2, 3)
    assert mixed.feature_lengths[FROZEN].tolist() == [2, 2, 2]
    assert mixed.audio_duration_s == pytest.approx(0.3 + 0.25 + 0.25)
    text = collate([make_example(rows[1], TOKENIZER, [FROZEN], cached={FROZEN: remembered})])
    assert text.features[FROZEN].shape == (0, 0, 3)


def test_changing_sound_that_was_encoded_before_is_refused(rows):
    with pytest.raises(ConfigError, match="leave out the augmenter, or the cache"):
        make_example(
            rows[0],
            TOKENIZER,
            [FROZEN, TINY],
            cached={FROZEN: remembered},
            augmenter=Augmenter(AugmentConfig()),
            rng=np.random.default_rng(0),
        )


def test_frames_without_a_cache_say_where_they_come_from(rows):
    with pytest.raises(AudioError, match=r"frames of ear are not extracted but read from a cache"):
        make_example(rows[0], TOKENIZER, [FROZEN])


def test_a_transcript_is_parted_from_the_text_before_it_as_one_would_write_it(root):
    path = str(root / "a/x.wav")
    for before, expected in (("Say:", " a dog"), ("Say: ", "a dog"), ('Say: "', "a dog"), ("", "a dog")):
        parts = [before] * bool(before) + [AudioPart(path, transcript="a dog")]
        example = make_example(Conversation((user(*parts),)), TOKENIZER, [TINY])
        assert TOKENIZER.decode(example.transcript_ids[0]) == expected

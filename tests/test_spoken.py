"""What a voice learns of rows, each alone and side by side; the recordings and the text are the independent source."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from sonant.audio import io
from sonant.audio.features import FeatureSpec
from sonant.audio.mel import MelSpec, log_mel
from sonant.batch import collate, make_example
from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.chat.spelling import spell
from sonant.errors import AudioError, ChatError
from sonant.spoken import Spoken, collate_spoken
from sonant.testing import byte_tokenizer, tone

TOKENIZER = byte_tokenizer()
TINY, VOICE = FeatureSpec.tiny(), MelSpec(num_mels=16)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("spoken") / "x.wav"
    io.save(path, tone(1.0, 300), sample_rate_hz=16_000)
    return AudioPart(str(path))


@pytest.fixture(scope="module")
def rows(clip):
    marks = {"words": [["the", 0.05], ["cat", 0.3]]}
    end = replace(clip, offset_s=0.25, duration_s=0.501, transcript="a dog, é!")
    return [
        Conversation((user("q", clip), assistant("the cat", replace(clip, extra=marks))), id="0"),
        Conversation((user("only text"), assistant("read")), id="1"),
        Conversation((user("a"), assistant("b", clip), user("c"), assistant("say: a dog, é! ", end)), id="2"),
        Conversation((user("a"), assistant("b", clip), user("c"), assistant("earlier answers are read")), id="3"),
    ]


@pytest.fixture(scope="module")
def batch(rows):
    return collate([make_example(row, TOKENIZER, [TINY], voice=VOICE) for row in rows])


def test_only_closing_answers_are_to_be_said(batch):
    assert batch.spoken.row.tolist() == [0, 2]
    assert batch.num_audio == 1  # what is asked in row 0


def test_the_spoken_tokens_are_those_of_the_spoken_words(batch):
    spoken = batch.spoken
    for line, words in enumerate([["the", "cat"], ["a", "dog,", "é!"]]):
        assert spoken.num_words[line] == len(words)
        letters = spoken.letters[line][spoken.letters[line] >= 0]
        assert bytes(letters.tolist()).decode() == " ".join(words)
        ids = batch.token_ids[spoken.row[line], spoken.token_position[line]]
        for number, word in enumerate(words):
            of_word = spoken.token_word[line] == number
            assert TOKENIZER.decode(ids[of_word].tolist()).strip() == word
            assert bytes(spoken.letters[line, spoken.letter_word[line] == number].tolist()).decode().strip() == word
    assert (spoken.token_word >= 0).sum(1).tolist() == [7, 11]  # bytes: "é" has two, and the last is a space
    assert batch.loss_mask[spoken.row[:, None], spoken.token_position.clamp(min=0)][spoken.token_word >= 0].eq(1).all()


def test_the_mels_are_those_of_the_part_alone(batch, rows):
    for line, row in enumerate([rows[0], rows[2]]):
        part = row.spoken
        samples = io.load(part.source, offset_s=part.offset_s, duration_s=part.duration_s)
        num_frames = VOICE.num_frames(len(samples))
        assert batch.spoken.mel_lengths[line] == num_frames
        assert torch.equal(batch.spoken.mels[line, :num_frames], log_mel(torch.from_numpy(samples), VOICE))
        assert not batch.spoken.mels[line, num_frames:].any()
    assert batch.spoken.mel_lengths.tolist() == [80, 41]


def test_words_without_a_mark_start_nobody_knows_when(batch):
    np.testing.assert_allclose(batch.spoken.word_starts, [[0.05, 0.3, np.nan], [np.nan] * 3])


def test_a_row_alone_and_in_a_batch_are_the_same(batch, rows):
    alone = collate([make_example(rows[0], TOKENIZER, [TINY], voice=VOICE)]).spoken
    for field in fields(alone):
        one, among = getattr(alone, field.name), getattr(batch.spoken, field.name)[:1]
        assert one.dtype == among.dtype
        if one.ndim == 2:
            rest, among = among[:, one.shape[1] :], among[:, : one.shape[1]]
            assert rest.isnan().all() if rest.is_floating_point() else (rest == -1).all()
        np.testing.assert_array_equal(one, among)


def test_without_a_voice_nothing_of_a_recording_is_read(rows, monkeypatch):
    monkeypatch.setattr(io, "load", None)
    example = make_example(rows[2], TOKENIZER, [TINY])
    assert (example.spoken, example.num_mel_frames) == (None, 0)
    assert collate([example]).spoken is None


def test_hearing_is_the_same_with_a_voice_and_without(batch, rows):
    silent = collate([make_example(row, TOKENIZER, [TINY]) for row in rows])
    for name in ("token_ids", "loss_mask", "audio_row", "audio_position", "prompt_ids"):
        assert torch.equal(getattr(silent, name), getattr(batch, name))
    assert torch.equal(silent.features[TINY], batch.features[TINY])


def test_a_question_has_nothing_to_say_yet(rows):
    example = make_example(rows[2].prompt(), TOKENIZER, [TINY], for_generation=True, voice=VOICE)
    assert example.spoken is None


def test_a_batch_moves_whole(batch):
    moved = batch.to("meta")
    assert {getattr(moved.spoken, field.name).device.type for field in fields(moved.spoken)} == {"meta"}
    assert moved.token_ids.device.type == "meta"


def test_what_was_written_is_spelled_as_the_same_reference_was(rows):
    reference = make_example(rows[2], TOKENIZER, [], voice=VOICE)
    prompt = make_example(rows[2].prompt(), TOKENIZER, [], for_generation=True)
    first = len(prompt.token_ids)
    generated = [*TOKENIZER.encode_text("say: a dog, é! "), TOKENIZER.end_of_turn_id]
    written = Spoken.of(spell(TOKENIZER, generated, spoken="a dog, é!"), first=first, mels=torch.zeros(0, 16))
    for name in ("token_position", "token_word", "letters", "letter_word"):
        np.testing.assert_array_equal(getattr(written, name), getattr(reference.spoken, name))
    batch = collate_spoken([None, written])
    assert (batch.mels.shape, batch.mel_lengths.tolist(), batch.row.tolist()) == ((1, 0, 16), [0], [1])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"extra": {"words": [["the", 0.0]]}}, "'words' lists 1 words, the spoken text has 2"),
        ({"extra": {"words": [["the", 0.0], ["cat", 1.2]]}}, "starts at 1.2 s, .* the clip has 1 s"),
        ({"transcript": "a cat"}, "its transcript is 'a cat', the text ends in 'the cat'"),
    ],
)
def test_speech_that_does_not_fit_is_refused(rows, clip, change, told):
    row = replace(rows[0], messages=(user("q"), assistant("the cat", replace(clip, **change))))
    with pytest.raises(ChatError, match=f"{clip.name}: .*{told}"):
        make_example(row, TOKENIZER, [], voice=VOICE)


def test_a_recording_that_is_not_there_is_named():
    row = Conversation((user("q"), assistant("a", AudioPart("none.wav"))))
    with pytest.raises(AudioError, match=r"none\.wav"):
        make_example(row, TOKENIZER, [], voice=VOICE)

"""Guesses of an answer save steps and change nothing, whatever is guessed and whoever else is answered."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from small_speech_lm import make_batch, small_speech_lm
from tiny_models import GROUPED, TINY, TOKENIZER, tiny_speech_lm

from sonant.batch import Batch, collate, make_example
from sonant.chat.messages import Conversation, user
from sonant.errors import RequestError
from sonant.generate.drafts import Draft, ctc_guesses, overhearing
from sonant.generate.engine import RunningBatch, decode, generate
from sonant.generate.sampling import GenerationConfig
from sonant.models.speech_lm import SpeechLM

NEVER: frozenset[int] = frozenset()
PROMPTS = ["Say it: ", "and now something that is rather longer than the others", "why?"]
LLM = GROUPED | {"max_position_embeddings": 128}
PLAIN = GenerationConfig(max_new_tokens=24)
GUESSED = GenerationConfig(max_new_tokens=24, drafts="ctc")


@pytest.fixture(scope="module")
def model() -> SpeechLM:
    return built(TINY, {"kind": "stack_mlp"})


def built(encoder: dict[str, Any], adapter: dict[str, Any], **llm: Any) -> SpeechLM:
    return tiny_speech_lm(seed=0, moved=0.0, encoders=[encoder], adapter=adapter, llm=LLM | llm)


def batch_of(*rows: int) -> Batch:
    talks = [Conversation((user(PROMPTS[row]),), id=f"row {row}") for row in rows]
    return collate([make_example(talk, TOKENIZER, (), for_generation=True) for talk in talks])


def said_by(model: SpeechLM, *rows: int) -> list[list[int]]:
    return generate(model, batch_of(*rows), config=PLAIN, stop_ids=NEVER)


def wrong(ids: Sequence[int], *places: int) -> list[int]:
    return [(id + 1) % 50 if place in places else id for place, id in enumerate(ids)]


def guesses_of(said: list[int]) -> dict[str, list[int]]:
    return {
        "right": said,
        "wrong now and then": wrong(said, 0, 4, 5, 11),
        "lacks some": said[:3] + said[5:9] + said[10:],
        "has too much": [*said[:6], 1, 2, *said[6:]],
        "short": said[:5],
        "of something else": [1, 2, 3] * 9,
        "nothing": [],
    }


def guessing(monkeypatch: pytest.MonkeyPatch, *guesses: list[int]) -> None:
    monkeypatch.setattr("sonant.generate.engine.ctc_guesses", lambda *_, num_rows: list(guesses))


@pytest.mark.parametrize("kind", guesses_of([0] * 12))
def test_answers_are_the_same_with_any_guess(model: SpeechLM, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    said = said_by(model, 0, 1, 2)
    guessing(monkeypatch, guesses_of(said[0])[kind], said[1], wrong(said[2], 2, 9))
    assert generate(model, batch_of(0, 1, 2), config=GUESSED, stop_ids=NEVER) == said
    stop = frozenset({said[1][7]})
    assert generate(model, batch_of(0, 1, 2), config=GUESSED, stop_ids=stop) == generate(
        model, batch_of(0, 1, 2), config=PLAIN, stop_ids=stop
    )


def test_the_logits_behind_each_token_are_those_of_one_step_at_a_time(
    model: SpeechLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = list(decode(model, batch_of(0, 1), config=PLAIN, stop_ids=NEVER))
    said = said_by(model, 0, 1)
    guessing(monkeypatch, wrong(said[0], 3), wrong(said[1], 6, 7))
    found: dict[int, list[torch.Tensor]] = {0: [], 1: []}
    for step in decode(model, batch_of(0, 1), config=GUESSED, stop_ids=NEVER):
        for row, logits in zip(step.rows, step.logits, strict=True):
            found[row].append(logits)
    for row in (0, 1):
        alone = torch.stack([step.logits[row] for step in expected])
        torch.testing.assert_close(torch.stack(found[row]), alone, atol=1e-4, rtol=1e-4)


def test_a_right_guess_saves_steps_and_is_counted(model: SpeechLM, monkeypatch: pytest.MonkeyPatch) -> None:
    (said,) = said_by(model, 0)
    guessing(monkeypatch, said)
    running = RunningBatch(model, stop_ids=NEVER)
    (row,) = running.join(batch_of(0), [GUESSED])
    leaps = []
    while running.rows:
        leaps.append(len(running.leap()))
    assert (row.drawing.said, leaps) == (said, [1, 9, 9, 5])
    assert (row.draft.num_read, row.draft.num_accepted) == (20, 20)


def test_rows_join_and_leave_between_leaps(model: SpeechLM, monkeypatch: pytest.MonkeyPatch) -> None:
    said = said_by(model, 0, 1, 2)
    guessing(monkeypatch, wrong(said[0], 4))
    running = RunningBatch(model, stop_ids=NEVER)
    rows = running.join(batch_of(0), [GUESSED])
    running.leap()
    running.leap()
    guessing(monkeypatch, said[1], wrong(said[2], 1, 2))
    rows += running.join(batch_of(1, 2), [GUESSED, PLAIN])
    drawn = running.join(batch_of(0), [GenerationConfig(max_new_tokens=9, temperature=1.0, seed=1)])
    for _ in range(3):
        running.leap()
    running.leave([rows[1].number])
    while running.rows:
        running.leap()
    assert [rows[0].drawing.said, rows[2].drawing.said] == [said[0], said[2]]
    assert rows[1].drawing.said == said[1][: len(rows[1].drawing.said)]
    assert len(drawn[0].drawing.said) == 9


def test_an_llm_with_a_window_does_without_guesses(monkeypatch: pytest.MonkeyPatch) -> None:
    windowed = built(TINY, {"kind": "stack_mlp"}, model_type="mistral", sliding_window=8)
    guessing(monkeypatch, [1] * 24)
    said = generate(windowed, batch_of(1), config=GUESSED, stop_ids=NEVER)
    assert said == generate(windowed, batch_of(1), config=PLAIN, stop_ids=NEVER)


@torch.no_grad()
def test_the_guess_is_what_the_ctc_head_of_the_encoder_heard() -> None:
    model = small_speech_lm()
    batch = make_batch([(4, [(1, 20), (3, 9)]), (3, []), (5, [(2, 30)])])
    with overhearing(model, wanted=True) as heard:
        model.embed(batch)
    (encoder,) = model.speech_encoders
    expected: list[list[int]] = [[], [], []]
    ((spec, features),) = batch.features.items()
    for clip, row in enumerate([0, 0, 2]):
        length = int(batch.feature_lengths[spec][clip])
        frames = encoder(features[clip : clip + 1, :length], torch.tensor([length]))
        classes = [-1, *encoder.ctc_logits(frames)[0].argmax(-1).tolist()]
        expected[row] += [b for a, b in pairwise(classes) if b not in (a, 50)]
    assert ctc_guesses(model, heard, batch.audio_row, num_rows=3) == expected
    assert sum(map(len, expected)) > 3


def test_without_a_ctc_head_a_guess_is_refused() -> None:
    model = small_speech_lm()
    batch = make_batch([(4, [(1, 20)])])
    with overhearing(model, wanted=True) as heard, torch.no_grad():
        model.embed(batch)
    object.__setattr__(model, "encoders", [torch.nn.Identity()])
    with pytest.raises(RequestError, match="has a CTC head; use adapter ctc_pooling or encoder tiny"):
        ctc_guesses(model, heard, batch.audio_row, num_rows=1)


def test_a_draft_finds_its_place_again() -> None:
    draft = Draft([1, 2, 3, 4, 5, 6])
    draft.take(1)
    assert draft.next(2) == [2, 3]
    draft.take(9)  # in place of 2
    assert draft.next(2) == [3, 4]
    draft.take(5)  # 3 and 4 were left out
    assert draft.next(2) == [6]

"""Decoding with prompt-aware LoRA: the scale is read once a request, stays with its row, and never meets another's."""

import pytest
import torch
from tiny_models import GROUPED, TINY, TOKENIZER, tiny_speech_lm
from torch import Tensor

from sonant.batch import Batch, collate, make_example
from sonant.chat.messages import Conversation, assistant, user
from sonant.generate.engine import decode, generate
from sonant.generate.sampling import GenerationConfig
from sonant.models.speech_lm import SpeechLM

NEVER: frozenset[int] = frozenset()
PROMPTS = ["Say it: ", "and now something that is rather longer", "why?"]


@pytest.fixture(scope="module")
def model() -> SpeechLM:
    prompt_lora = {"form": "residual", "hidden_dim": 8}
    adapter = {"kind": "stack_mlp"}
    return tiny_speech_lm(seed=0, moved=0.4, encoders=[TINY], adapter=adapter, llm=GROUPED, prompt_lora=prompt_lora)


def batch_of(*rows: int) -> Batch:
    talks = [Conversation((user(PROMPTS[row]),), id=f"row {row}") for row in rows]
    return collate([make_example(talk, TOKENIZER, (), for_generation=True) for talk in talks])


@torch.no_grad()
def teacher_forced(model: SpeechLM, row: int, said: list[int]) -> Tensor:
    """(len(said), V): the logits of training, of the whole sequence at once."""
    batch = batch_of(row)
    whole = torch.cat([batch.token_ids, torch.tensor([said[:-1]], dtype=torch.int64)], dim=1)
    scored = Batch(
        **{
            **vars(batch),
            "token_ids": whole,
            "token_lengths": torch.tensor([whole.shape[1]]),
            "loss_mask": torch.zeros(whole.shape),
        }
    )
    return model.logits(model(scored).hidden)[0, -len(said) :]


def test_cached_decoding_equals_training_without_cache_for_every_row(model: SpeechLM) -> None:
    steps = list(decode(model, batch_of(0, 1, 2), config=GenerationConfig(max_new_tokens=6), stop_ids=NEVER))
    for row in range(3):
        said = [int(step.token_ids[row]) for step in steps]
        found = torch.stack([step.logits[row] for step in steps])
        torch.testing.assert_close(found, teacher_forced(model, row, said), atol=1e-4, rtol=1e-4)
        alone = generate(model, batch_of(row), config=GenerationConfig(max_new_tokens=6), stop_ids=NEVER)
        assert alone == [said]


def test_generation_reads_the_ids_of_the_training_sequence() -> None:
    asked = Conversation((user(PROMPTS[0]),), id="a")
    whole = Conversation((user(PROMPTS[0]), assistant("yes")), id="a")
    question = make_example(asked, TOKENIZER, (), for_generation=True)
    training = make_example(whole, TOKENIZER, ())
    assert training.token_ids[: len(question.token_ids)].tolist() == question.token_ids.tolist()
    assert training.prompt_ids.tolist() == question.prompt_ids.tolist()


def test_the_scale_is_computed_once_a_request(model: SpeechLM, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    whole = model.lora_scale
    monkeypatch.setattr(model, "lora_scale", lambda batch: asked.append(batch.num_rows) or whole(batch))
    generate(model, batch_of(0, 1), config=GenerationConfig(max_new_tokens=5), stop_ids=NEVER)
    assert asked == [2]
    generate(model, batch_of(0), config=GenerationConfig(max_new_tokens=5), stop_ids=NEVER, lora=False)
    assert asked == [2]


def test_two_interleaved_requests_keep_their_own_scale(model: SpeechLM) -> None:
    config = GenerationConfig(max_new_tokens=6)
    alone = [[step.logits for step in decode(model, batch_of(row), config=config, stop_ids=NEVER)] for row in (0, 1)]
    one, other = (decode(model, batch_of(row), config=config, stop_ids=NEVER) for row in (0, 1))
    for step, (first, second) in enumerate(zip(one, other, strict=True)):
        assert torch.equal(first.logits, alone[0][step])
        assert torch.equal(second.logits, alone[1][step])


def test_a_row_that_stops_takes_its_scale_along(model: SpeechLM) -> None:
    config = GenerationConfig(max_new_tokens=8)
    free = generate(model, batch_of(0, 1, 2), config=config, stop_ids=NEVER)
    stop = free[0][0]
    stopped = generate(model, batch_of(0, 1, 2), config=config, stop_ids=frozenset({stop}))
    assert stopped == [ids[: ids.index(stop) + 1] if stop in ids else ids for ids in free]
    assert len(stopped[0]) == 1
    assert max(map(len, stopped)) > 1

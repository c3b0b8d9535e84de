"""Rows that join a running batch, each at its own step, and leave it in any order: none notices the others."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from tiny_models import GROUPED, TINY, TOKENIZER, tiny_speech_lm

from sonant.batch import Batch, collate, make_example
from sonant.chat.messages import Conversation, user
from sonant.errors import RequestError
from sonant.generate.engine import RunningBatch, decode, generate
from sonant.generate.sampling import GenerationConfig
from sonant.models.speech_lm import SpeechLM

NEVER: frozenset[int] = frozenset()
PROMPTS = ["Say it: ", "and now something that is rather longer than the others", "why?", "a little more, perhaps"]
LLM = GROUPED | {"max_position_embeddings": 128}
GREEDY = [GenerationConfig(max_new_tokens=n) for n in (9, 6, 12, 8)]
DRAWN = [
    GenerationConfig(max_new_tokens=9, temperature=1.0, seed=1),
    GenerationConfig(max_new_tokens=6, temperature=1.5, top_k=20, seed=2),
    GenerationConfig(max_new_tokens=12, repetition_penalty=1.3),
    GenerationConfig(max_new_tokens=8, temperature=0.7, top_p=0.8, seed=1),
]


@pytest.fixture(scope="module", params=["plain", "prompt-aware"])
def model(request: pytest.FixtureRequest) -> SpeechLM:
    prompt_lora = {"form": "residual", "hidden_dim": 8} if request.param == "prompt-aware" else None
    adapter = {"kind": "stack_mlp"}
    return tiny_speech_lm(seed=0, moved=0.4, encoders=[TINY], adapter=adapter, llm=LLM, prompt_lora=prompt_lora)


def batch_of(*rows: int) -> Batch:
    talks = [Conversation((user(PROMPTS[row]),), id=f"row {row}") for row in rows]
    return collate([make_example(talk, TOKENIZER, (), for_generation=True) for talk in talks])


@dataclass
class Played:
    """What came of a script: the tokens of each prompt, and the widest cache that a step ended with."""

    said: dict[int, list[int]]
    width: int


def play(
    model: SpeechLM,
    configs: Sequence[GenerationConfig],
    *,
    joins: dict[int, list[int]],
    leaves: dict[int, int] | None = None,
    lora: bool = True,
) -> Played:
    """joins: which prompts join before which step; leaves: which prompt is dropped before which step."""
    running, who = RunningBatch(model, stop_ids=NEVER, lora=lora), dict[int, int]()
    played = Played({row: [] for row in range(len(PROMPTS))}, 0)
    for step in range(40):
        if prompts := joins.get(step):
            rows = running.join(batch_of(*prompts), [configs[prompt] for prompt in prompts])
            who |= {row.number: prompt for row, prompt in zip(rows, prompts, strict=True)}
        if leaves and step in leaves:
            running.leave([number for number, prompt in who.items() if prompt == leaves[step]])
        if not running.rows:
            continue
        taken = running.step()
        for number, token in zip(taken.rows, taken.token_ids.tolist(), strict=True):
            played.said[who[number]].append(token)
        played.width = max([played.width, *(lines.cache.width for lines in running._groups)])
    assert not running.rows
    return played


def alone(model: SpeechLM, configs: Sequence[GenerationConfig], *, lora: bool = True) -> dict[int, list[int]]:
    return {
        row: generate(model, batch_of(row), config=config, stop_ids=NEVER, lora=lora)[0]
        for row, config in enumerate(configs)
    }


@pytest.mark.parametrize("configs", [GREEDY, DRAWN], ids=["greedy", "drawn, each in its way"])
def test_rows_that_join_at_different_steps_say_what_each_says_alone(
    model: SpeechLM, configs: Sequence[GenerationConfig]
) -> None:
    expected = alone(model, configs)
    assert play(model, configs, joins={0: [0], 2: [1], 3: [2, 3]}).said == expected
    assert play(model, configs, joins={0: [3, 1], 7: [2], 30: [0]}).said == expected  # the batch was empty in between


def test_the_logits_of_a_row_in_changing_company_are_those_of_the_row_alone(model: SpeechLM) -> None:
    expected = [step.logits[0] for step in decode(model, batch_of(2), config=GREEDY[2], stop_ids=NEVER)]
    running = RunningBatch(model, stop_ids=NEVER)
    running.join(batch_of(0), GREEDY[:1])
    running.step()
    (row,) = running.join(batch_of(2), GREEDY[2:3])
    found: list[torch.Tensor] = []
    while running.rows:
        if len(found) == 3:
            running.join(batch_of(1), GREEDY[1:2])  # longer: its cache is the wider one
        step = running.step()
        if row.number in step.rows:
            found.append(step.logits[step.rows.index(row.number)])
    torch.testing.assert_close(torch.stack(found), torch.stack(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("leaver", range(4))
def test_a_row_that_is_dropped_takes_nothing_with_it(model: SpeechLM, leaver: int) -> None:
    expected = alone(model, DRAWN)
    played = play(model, DRAWN, joins={0: [1], 1: [0, 3], 2: [2]}, leaves={4: leaver})
    dropped = played.said.pop(leaver)
    assert dropped == expected.pop(leaver)[: len(dropped)]
    assert len(dropped) < 5
    assert played.said == expected


def test_a_row_may_leave_before_its_first_step_and_twice(model: SpeechLM) -> None:
    running = RunningBatch(model, stop_ids=NEVER)
    first, second = running.join(batch_of(0, 1), GREEDY[:2])
    running.leave([second.number])
    assert [row.number for row in running.rows] == [first.number]
    running.leave([second.number])
    assert running.step().rows == [first.number]
    running.leave([first.number])
    assert running.rows == []


def test_columns_that_no_row_has_left_are_cut_off(model: SpeechLM) -> None:
    """A cache that only grew would, under steady load, hold as many columns as there were steps since the start."""
    longest = int(batch_of(1).token_lengths) + 1
    played = play(model, [GenerationConfig(max_new_tokens=4)] * 4, joins={s: [s // 2 % 4] for s in range(0, 30, 2)})
    assert played.width <= longest + 4


def test_without_lora_every_row_hears_the_base_model(model: SpeechLM) -> None:
    expected = alone(model, GREEDY, lora=False)
    assert play(model, GREEDY, joins={0: [0], 1: [1], 2: [2], 3: [3]}, lora=False).said == expected
    assert expected != alone(model, GREEDY)


def test_a_prompt_that_does_not_fit_joins_nobody_and_disturbs_nobody(model: SpeechLM) -> None:
    running = RunningBatch(model, stop_ids=NEVER)
    (row,) = running.join(batch_of(0), GREEDY[:1])
    running.step()
    with pytest.raises(RequestError, match="this LLM holds 128"):
        running.join(batch_of(2, 3), [GREEDY[2], GenerationConfig(max_new_tokens=120)])
    while running.rows:
        running.step()
    assert row.drawing.said == alone(model, GREEDY)[0]


def test_a_step_says_whose_last_token_it_was(model: SpeechLM) -> None:
    said = alone(model, GREEDY)
    stop = frozenset({said[0][2]})
    running = RunningBatch(model, stop_ids=stop)
    rows = running.join(batch_of(0, 1), GREEDY[:2])
    ended: dict[int, int] = {}
    while running.rows:
        step = running.step()
        ended |= {row: len(rows[row].drawing.said) for row, over in zip(step.rows, step.over, strict=True) if over}

    def until_stop(ids: list[int]) -> int:
        return ids.index(min(stop)) + 1 if min(stop) in ids else len(ids)

    assert ended == {row: until_stop(said[row]) for row in (0, 1)}
    assert [row.num_read for row in rows] == [int(batch_of(row).token_lengths) for row in (0, 1)]

import dataclasses
import io
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from tiny_models import TOKENIZER, tiny_assistant

from sonant.batch import collate, make_example
from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.generate.assistant import Assistant
from sonant.generate.choices import choice_scores
from sonant.generate.engine import decode
from sonant.generate.sampling import GenerationConfig
from sonant.testing import tone

CHOICES = ("yes", "no", "perhaps so")
PROMPTS = [
    Conversation((user("one speaker?"),), id="a"),
    Conversation((user("is there one speaker, or are there two of them in this long question?"),), id="b"),
    Conversation((user("hi"), assistant("yes"), user("again?")), id="c"),
]


def clip(seconds: float) -> AudioPart:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(seconds), 16_000, format="WAV")
    return AudioPart(data=buffer.getvalue())


def build(**more: Any) -> Assistant:
    size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "max_position_embeddings": 256}
    llm = {**size, "initializer_range": 0.3}
    return tiny_assistant(seed=3, moved=0.2, llm=llm, adapter={"kind": "stack_mlp", "stack": 2}, **more)


@pytest.fixture(scope="module")
def listener() -> Assistant:
    return build()


@torch.no_grad()
def by_hand(listener: Assistant, prompt: Conversation, choice: str) -> float:
    """Token after token through the bare LLM: the sum of the log-probabilities of the answer and its end."""
    whole = dataclasses.replace(prompt, messages=(*prompt.messages, assistant(choice)))
    ids = make_example(whole, TOKENIZER, ()).token_ids.tolist()
    start = len(make_example(prompt, TOKENIZER, (), for_generation=True).token_ids)
    end = ids.index(TOKENIZER.end_of_turn_id, start)
    logits = listener.model.llm(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return float(sum(logits[place - 1, ids[place]] for place in range(start, end + 1)))


def test_a_choice_scores_what_its_tokens_and_the_end_of_the_turn_score_one_by_one(listener: Assistant) -> None:
    """The earlier answer of the third prompt is part of the question."""
    scores = choice_scores(listener, PROMPTS, CHOICES)
    expected = [[by_hand(listener, prompt, choice) for choice in CHOICES] for prompt in PROMPTS]
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_scores_are_the_same_alone_and_in_a_batch(listener: Assistant) -> None:
    heard = [Conversation((user("who? ", clip(seconds)),), id=str(seconds)) for seconds in (0.1, 0.3)]
    done: list[int] = []
    together = choice_scores(listener, PROMPTS + heard, CHOICES, progress=done.append)
    alone = choice_scores(listener, PROMPTS + heard, CHOICES, batch_size=1, progress=done.append)
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)  # sums of logarithms, to -80
    assert done == [5, 1, 1, 1, 1, 1]


def test_without_lora_the_base_llm_is_asked_and_lora_is_back_afterwards(listener: Assistant) -> None:
    trained = choice_scores(listener, PROMPTS, CHOICES)
    base = choice_scores(listener, PROMPTS, CHOICES, lora=False)
    assert not np.allclose(trained, base, atol=1e-2)
    np.testing.assert_array_equal(choice_scores(listener, PROMPTS, CHOICES), trained)


def test_the_likeliest_of_all_single_tokens_is_what_greedy_decoding_says_first(listener: Assistant) -> None:
    """Scores and generation read the prompt alike: seen at the first token of an answer."""
    letters = [chr(code) for code in range(97, 123)]
    (prompt,) = PROMPTS[:1]
    batch = collate([listener.example(prompt)])
    (step,) = decode(listener.model, batch, config=GenerationConfig(max_new_tokens=1), stop_ids=frozenset())
    first = step.logits[0].log_softmax(-1)
    ids = [TOKENIZER.encode_text(letter)[0] for letter in letters]
    ends = []
    for letter, token in zip(letters, ids, strict=True):
        whole = dataclasses.replace(prompt, messages=(*prompt.messages, assistant(letter)))
        example = make_example(whole, TOKENIZER, ()).token_ids.tolist()
        place = example.index(token, len(listener.example(prompt).token_ids))
        with torch.no_grad():
            after = listener.model.llm(input_ids=torch.tensor([example])).logits[0, place].log_softmax(-1)
        ends.append(float(after[TOKENIZER.end_of_turn_id]))
    expected = [float(first[token]) + end for token, end in zip(ids, ends, strict=True)]
    np.testing.assert_allclose(choice_scores(listener, [prompt], letters)[0], expected, atol=1e-4)


def test_every_prompt_scales_lora_for_itself() -> None:
    """With a prompt adapter, alone and in a batch are still the same, and the scale is there."""
    scaled = build(prompt_lora={"form": "residual", "hidden_dim": 8})
    together = choice_scores(scaled, PROMPTS, CHOICES)
    np.testing.assert_allclose(choice_scores(scaled, PROMPTS, CHOICES, batch_size=1), together, atol=1e-4)
    with torch.no_grad():
        for parameter in scaled.model.prompt_adapter.up.parameters():
            parameter.zero_()  # s == 1
    assert not np.allclose(choice_scores(scaled, PROMPTS, CHOICES), together, atol=1e-3)

"""What prompts share is read once, and answers are those of prompts read alone."""

import io
from dataclasses import dataclass, field
from typing import Any

import pytest
import soundfile
import torch
from tiny_models import GROUPED, TINY, TOKENIZER, tiny_speech_lm

from sonant.batch import Batch, collate, make_example
from sonant.chat.messages import AudioPart, Conversation, user
from sonant.generate.engine import RunningBatch, generate
from sonant.generate.prefill import distinct
from sonant.generate.sampling import GenerationConfig
from sonant.models.speech_lm import SpeechLM
from sonant.testing import tone

NEVER: frozenset[int] = frozenset()
PLAIN = GenerationConfig(max_new_tokens=6)
LISTEN = "Listen to what is said and answer in a few words: "


def built(**llm: Any) -> SpeechLM:
    return tiny_speech_lm(seed=0, encoders=[TINY], adapter={"kind": "stack_mlp"}, llm=GROUPED | llm, lora=None)


@pytest.fixture(scope="module")
def model() -> SpeechLM:
    return built()


def clip(seconds: float) -> AudioPart:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(seconds, 300 + 100 * seconds), 16_000, format="WAV")
    return AudioPart(data=buffer.getvalue())


def asking(id: str, *parts: str | AudioPart) -> Conversation:
    return Conversation((user(*parts),), id=id)


SHORT, OTHER = clip(0.3), clip(0.5)
HEARD = [asking("a", LISTEN, SHORT), asking("b", LISTEN, OTHER, " and then?"), asking("c", LISTEN, SHORT, " why?")]


def batch_of(*conversations: Conversation) -> Batch:
    specs = built().feature_specs
    return collate([make_example(c, TOKENIZER, specs, for_generation=True) for c in conversations])


@dataclass
class Reading:
    """A running batch of which is counted how many positions its LLM reads."""

    model: SpeechLM
    sizes: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.running = RunningBatch(self.model, stop_ids=NEVER)
        read = self.running._read
        self.running._read = lambda embeds, *rest: self.sizes.append(embeds[..., 0].numel()) or read(embeds, *rest)

    def answers(self, *conversations: Conversation) -> list[list[int]]:
        rows = self.running.join(batch_of(*conversations), [PLAIN] * len(conversations))
        while self.running.rows:
            self.running.step()
        return [row.drawing.said for row in rows]


def alone(model: SpeechLM, *conversations: Conversation) -> list[list[int]]:
    return [generate(model, batch_of(c), config=PLAIN, stop_ids=NEVER)[0] for c in conversations]


def test_a_beginning_that_all_share_is_read_once(model: SpeechLM) -> None:
    reading = Reading(model)
    assert reading.answers(*HEARD) == alone(model, *HEARD)
    batch = batch_of(*HEARD)
    opening, width = int(batch.audio_position.min()), model.embed(batch).inputs_embeds.shape[1]
    assert reading.sizes[:2] == [opening, 3 * (width - opening)]  # a row of it, three rows of the rest


def test_a_beginning_is_known_to_those_who_come_later(model: SpeechLM) -> None:
    reading = Reading(model)
    reading.answers(HEARD[0])
    first = reading.sizes[0]
    reading.sizes.clear()
    assert reading.answers(HEARD[2]) == alone(model, HEARD[2])
    assert reading.sizes[0] < first
    talk = asking("d", LISTEN + "no recording")  # goes on differently, and has more before it ends
    assert reading.answers(talk) == alone(model, talk)


def test_beginnings_that_differ_are_told_apart(model: SpeechLM) -> None:
    others = [asking("e", "Do not " + LISTEN.lower(), SHORT), asking("f", LISTEN.upper(), SHORT), *HEARD]
    reading = Reading(model)
    for talk in [*others, *others]:
        assert reading.answers(talk) == alone(model, talk)
    assert reading.answers(*others) == alone(model, *others)


def test_an_llm_that_counts_columns_reads_every_prompt_whole() -> None:
    windowed = built(model_type="mistral", sliding_window=24)
    reading = Reading(windowed)
    assert reading.answers(*HEARD) == alone(windowed, *HEARD)
    assert len(reading.sizes) == PLAIN.max_new_tokens


def test_several_answers_to_one_prompt_read_it_once(model: SpeechLM, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded: list[int] = []
    whole = model.embed
    monkeypatch.setattr(model, "embed", lambda batch: embedded.append(batch.num_rows) or whole(batch))
    again = [asking(f"draw {n}", LISTEN, SHORT) for n in range(3)]
    configs = [GenerationConfig(max_new_tokens=6, temperature=1.0, seed=n) for n in range(4)]
    running = RunningBatch(model, stop_ids=NEVER)
    rows = running.join(batch_of(again[0], HEARD[1], *again[1:]), configs)
    while running.rows:
        running.step()
    assert embedded == [2]
    asked = [again[0], HEARD[1], *again[1:]]
    for row, talk, config in zip(rows, asked, configs, strict=True):
        assert row.drawing.said == generate(model, batch_of(talk), config=config, stop_ids=NEVER)[0]
    assert len({tuple(row.drawing.said) for row in rows}) > 2


def test_prompts_are_the_same_only_if_all_that_is_read_and_heard_is() -> None:
    louder = clip(0.3)
    assert louder == SHORT
    quiet = io.BytesIO()
    soundfile.write(quiet, 0.5 * tone(0.3, 330.0), 16_000, format="WAV")
    talks = [
        asking("0", LISTEN, SHORT),
        asking("1", LISTEN, OTHER),
        asking("2", SHORT, LISTEN),
        asking("3", LISTEN, AudioPart(data=quiet.getvalue())),
        asking("4", LISTEN, louder),
        asking("5", LISTEN),
        asking("6", LISTEN, SHORT, SHORT),
        asking("7", LISTEN),
    ]
    found = distinct(batch_of(*talks))
    assert found.index is not None
    assert found.index.tolist() == [0, 1, 2, 3, 0, 4, 5, 4]
    assert found.batch.ids == ("0", "1", "2", "3", "5", "6")
    expected = batch_of(*(talks[row] for row in (0, 1, 2, 3, 5, 6)))
    for name in ("token_ids", "token_lengths", "audio_row", "audio_position"):
        assert torch.equal(getattr(found.batch, name), getattr(expected, name)), name
    for spec, features in expected.features.items():
        assert torch.equal(found.batch.features[spec], features)
    assert distinct(expected).index is None

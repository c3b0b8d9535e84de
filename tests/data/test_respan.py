from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sonant.batch import Example
from sonant.chat.messages import AudioPart, Conversation, Part, TextPart, assistant, user
from sonant.chat.render import render
from sonant.chat.tokenizer import ChatTokenizer
from sonant.data.blend import Source
from sonant.data.check import Limits, check
from sonant.data.loader import BatchStream
from sonant.data.manifest import Manifest, write
from sonant.data.measure import RowSizes
from sonant.data.plan import PlanConfig
from sonant.data.respan import as_written, respan, spoken_where
from sonant.models.parts import resolve_part


def clip(text: str, **extra: object) -> AudioPart:
    return AudioPart(f"{text}.flac", duration_s=0.4, transcript=text, extra={"optional": True, **extra})


def row(*turns: list[Part | str]) -> Conversation:
    return Conversation(tuple(m for parts in turns for m in (user(*parts), assistant("ok"))), id="r", task="chat")


def texts(conversation: Conversation) -> list[str]:
    """What is read and heard in each turn, in order."""
    return [
        "".join(p.text if isinstance(p, TextPart) else p.transcript or "" for p in m.parts)
        for m in conversation.messages
    ]


SHOPPING = row(
    ["- ", clip("Buy milk."), " ", clip("Two bottles."), "\n\t", clip("Thanks!"), " :)"], ["And ", clip("eggs.")]
)


@given(st.integers(0, 10_000), st.lists(st.lists(st.text(max_size=3), max_size=5), min_size=1, max_size=2))
@settings(max_examples=50)
def test_the_text_stays_byte_equal_and_at_least_one_clip_is_heard(seed: int, turns: list[list[str]]) -> None:
    stored = row(*([TextPart("\n"), *map(clip, turn), TextPart(" ")] for turn in turns))
    drawn = respan(stored, np.random.default_rng(seed))
    assert texts(drawn) == texts(stored)
    assert drawn.audio_parts or not stored.audio_parts
    assert not any("optional" in part.extra for part in drawn.audio_parts)


def test_written_neighbours_become_one_text() -> None:
    assert spoken_where(SHOPPING, [False, True, False, False]).messages[0].parts == (
        TextPart("- Buy milk. "),
        AudioPart("Two bottles..flac", duration_s=0.4, transcript="Two bottles."),
        TextPart("\n\tThanks! :)"),
    )
    assert as_written(SHOPPING).messages[0].parts == (TextPart("- Buy milk. Two bottles.\n\tThanks! :)"),)


def test_what_an_assistant_says_is_never_optional() -> None:
    stored = Conversation((user("read this"), assistant("One.", clip("One."))))
    assert respan(stored, np.random.default_rng(0)) is stored
    assert as_written(stored) == stored


def test_a_row_without_optional_clips_is_itself_and_draws_nothing() -> None:
    plain = row(["say ", AudioPart("a.wav", transcript="x")], ["bye", "!"])
    rng = np.random.default_rng(3)
    assert respan(plain, rng) is plain
    assert rng.random() == np.random.default_rng(3).random()


def test_every_sentence_is_as_likely_and_there_are_several_runs() -> None:
    stored, rng, draws = row([clip(str(i)) for i in range(6)]), np.random.default_rng(0), 3000
    heard: Counter[str] = Counter()
    runs: Counter[int] = Counter()
    for _ in range(draws):
        drawn = respan(stored, rng)
        flags = [isinstance(part, AudioPart) for part in drawn.messages[0].parts]
        heard.update(part.transcript or "" for part in drawn.audio_parts)
        runs[sum(flag and not before for before, flag in zip([False, *flags], flags, strict=False))] += 1
    # 0 to 3 cuts alike; without one, half of the rows would be silent and are spoken whole: 1/4 + 3/4 / 2
    assert all(heard[str(i)] / draws == pytest.approx(5 / 8, abs=0.03) for i in range(6))
    assert set(runs) == {1, 2}
    assert runs[2] / draws == pytest.approx(1 / 8 + 1 / 4, abs=0.03)  # 2 cuts begun spoken, or 3 cuts


def test_the_size_of_a_row_is_never_less_than_that_of_what_is_drawn() -> None:
    tokenizer = ChatTokenizer.from_folder(resolve_part("tiny/llm"))
    sizes = RowSizes(lambda r: len(render(r, tokenizer).token_ids), lambda seconds: round(seconds * 5))
    long = row(["1. ", clip("where is the red house?"), " ", clip("7 x 8?"), "\n", clip("a"), clip("go."), "ing"])
    for seed in range(30):
        for stored in (SHOPPING, long):
            assert sizes.length(respan(stored, np.random.default_rng(seed))) <= sizes.length(stored)


def test_the_doctor_counts_the_text_and_the_audio_of_an_optional_clip(tmp_path: Path) -> None:
    tokenizer = ChatTokenizer.from_folder(resolve_part("tiny/llm"))
    text_tokens = len(render(as_written(SHOPPING), tokenizer).token_ids)
    write(tmp_path / "rows.jsonl", [SHOPPING])
    for context, codes in ((text_tokens + 4, set()), (text_tokens + 3, {"too-long"})):
        limits = Limits(context=context, audio_tokens=lambda seconds: 1)
        report = check([tmp_path / "rows.jsonl"], tokenizer=tokenizer, limits=limits)
        assert set(report.counts) & {"too-long"} == codes


def test_spans_differ_by_epoch_and_a_resumed_stream_draws_the_same(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", [row([clip(f"{i} {j}.") for j in range(5)]) for i in range(6)])

    def example(stored: Conversation, rng: np.random.Generator) -> Example:
        drawn = respan(stored, rng)
        heard = np.array([int(p.transcript[2]) for p in drawn.audio_parts if p.transcript] or [9], np.int64)
        none = np.zeros(0, np.int64)
        return Example("", "", heard, np.ones(len(heard), np.float32), none, none, [], {}, 0.0, "")

    sizes = RowSizes(lambda r: 10, lambda s: 1)
    plan = PlanConfig(token_budget=30, micro_batches=1, window=16, seed=1)
    stream = BatchStream(Source("s", Manifest(tmp_path / "rows.jsonl")), example, sizes=sizes, plan=plan)

    def seen(epoch: int, step: int, count: int) -> list[object]:
        steps = stream.steps(epoch, step)
        return [[b.token_ids.tolist() for b in next(steps).batches] for _ in range(count)]

    num_steps = stream.plan.epoch(0).num_steps
    whole = seen(0, 0, 2 * num_steps)
    assert seen(0, 2, 2 * num_steps - 2) == whole[2:]
    drawn = [
        sorted(map(str, (r for step in e for b in step for r in b))) for e in (whole[:num_steps], whole[num_steps:])
    ]
    assert drawn[0] != drawn[1]

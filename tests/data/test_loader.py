import itertools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sonant.batch import Example, StepBatches
from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.data.blend import Group, Source
from sonant.data.loader import BatchStream, LoaderConfig
from sonant.data.manifest import Manifest, write
from sonant.data.measure import RowSizes
from sonant.data.plan import PlanConfig
from sonant.errors import AudioError, ConfigError, ManifestError, TrainingError

SIZES = RowSizes(text_tokens=lambda c: sum(len(m.text) for m in c.messages), audio_tokens=lambda s: round(10 * s))


def make_example(conversation: Conversation, rng: np.random.Generator) -> Example:
    """A row that shows what it was made from: its id as bytes, then a draw of its generator."""
    if "broken" in conversation.id:
        raise AudioError(f"{conversation.id}.wav: is cut off")
    token_ids = np.array([*conversation.id.encode(), rng.integers(256, 1 << 40)], np.int64)
    mask = np.ones(len(token_ids), np.float32)
    none = np.zeros(0, np.int64)
    return Example(conversation.id, conversation.task, token_ids, mask, none, none, [], {}, 0.0, conversation.reference)


def source(folder: Path, name: str, ids: Sequence[str], *, task: str = "", audio: bool = False) -> Source:
    rng = np.random.default_rng(len(ids))
    rows = [
        Conversation(
            (
                user("x" * int(rng.integers(1, 9)), *([AudioPart("a.wav", duration_s=1.0)] if audio else [])),
                assistant("ok"),
            ),
            id=id,
            task=task if i % 2 else "",
        )
        for i, id in enumerate(ids)
    ]
    write(folder / f"{name}.jsonl", rows)
    return Source(name, Manifest(folder / f"{name}.jsonl"))


def stream_of(root: Source | Group, *, loader: LoaderConfig | None = None, **plan: Any) -> BatchStream:
    config = PlanConfig(**{"token_budget": 60, "micro_batches": 4, "window": 16, "seed": 5, **plan})
    return BatchStream(root, make_example, sizes=SIZES, plan=config, loader=loader)


def seen(steps: Sequence[StepBatches]) -> list[Any]:
    return [(s.epoch, s.step, [(b.ids, b.token_ids.tolist()) for b in s.batches]) for s in steps]


def take(stream: BatchStream, count: int, **where: Any) -> list[StepBatches]:
    return list(itertools.islice(stream.steps(**where), count))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Group:
    folder = tmp_path_factory.mktemp("loader")
    a = source(folder, "a", [f"a{i}" for i in range(40)], task="asr")
    return Group("all", [a, source(folder, "b", [f"b{i}" for i in range(9)])])


@pytest.fixture(scope="module")
def uninterrupted(data: Group) -> list[Any]:
    return seen(take(stream_of(data, loader=LoaderConfig(workers=0)), 12))


@given(cut=st.integers(0, 11), workers=st.sampled_from([0, 1, 3]), prefetch=st.integers(1, 9))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_resuming_anywhere_with_any_workers_gives_the_same_batches(
    data: Group, uninterrupted: list[Any], cut: int, workers: int, prefetch: int
) -> None:
    stream = stream_of(data, loader=LoaderConfig(workers=workers, prefetch=prefetch))
    epoch, step, _ = uninterrupted[cut]
    assert {epoch for epoch, _, _ in uninterrupted} >= {0, 1}  # the cut may lie in any epoch
    assert seen(take(stream, 12 - cut, epoch=epoch, step=step)) == uninterrupted[cut:]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_together_see_what_one_rank_sees(data: Group, uninterrupted: list[Any], world_size: int) -> None:
    ranks = [seen(take(stream_of(data), 12, rank=r, world_size=world_size)) for r in range(world_size)]
    for i, (epoch, step, batches) in enumerate(uninterrupted):
        assert all(ranks[r][i][:2] == (epoch, step) for r in range(world_size))
        assert [ranks[j % world_size][i][2][j // world_size] for j in range(4)] == batches


def test_going_on_after_the_last_step_of_an_epoch_begins_the_next(data: Group, uninterrupted: list[Any]) -> None:
    last = max(step for epoch, step, _ in uninterrupted if epoch == 0)
    assert seen(take(stream_of(data), 1, step=last + 1)) == [uninterrupted[last + 1]]
    with pytest.raises(TrainingError, match=r"epoch 0 has .* steps, so it cannot go on at step 99"):
        stream_of(data).steps(step=99)
    with pytest.raises(TrainingError, match="3 ranks cannot share 4 micro-batches"):
        stream_of(data).steps(world_size=3)


def test_a_row_draws_anew_each_time_it_is_seen(data: Group) -> None:
    draws: dict[str, list[int]] = {}
    for step in take(stream_of(data), 12):
        for batch in step.batches:
            for id, ids, length in zip(batch.ids, batch.token_ids, batch.token_lengths, strict=True):
                draws.setdefault(id, []).append(int(ids[length - 1]))
    repeated = [values for values in draws.values() if len(values) > 1]
    assert repeated
    assert all(len(set(values)) == len(values) for values in repeated)


def test_shares_and_padding_are_those_of_the_batches(data: Group) -> None:
    stream = stream_of(data)
    num_steps = stream.plan.epoch(0).num_steps
    ids = [id for step in take(stream, num_steps) for batch in step.batches for id in batch.ids]
    length = dict(zip([f"a{i}" for i in range(40)] + [f"b{i}" for i in range(9)], stream.lengths.tolist(), strict=True))
    total = sum(length[id] for id in ids)
    shares = stream.shares()
    assert shares["b"] == pytest.approx(sum(length[id] for id in ids if id[0] == "b") / total)
    assert shares["b"] == pytest.approx(0.5, abs=0.03)  # half of the tokens, though it has a fifth of the rows
    assert stream.shares(by="task").keys() == {"a", "asr", "b"}
    assert 0 <= stream.padding_share < 0.5
    with pytest.raises(ConfigError, match="shares by 'speaker' do not exist"):
        stream.shares(by="speaker")


def test_weights_can_be_measured_in_supervised_tokens(data: Group) -> None:
    sizes = RowSizes(SIZES.text_tokens, SIZES.audio_tokens, target_tokens=lambda c: len(c.reference))
    stream = BatchStream(data, make_example, sizes=sizes, plan=PlanConfig())
    ids = [id for batch in take(stream, stream.plan.epoch(0).num_steps) for b in batch.batches for id in b.ids]
    assert sum(id[0] == "b" for id in ids) / len(ids) == pytest.approx(0.5, abs=0.01)  # every answer has two


def test_lengths_count_audio_and_too_long_rows_are_refused_at_their_line(tmp_path: Path) -> None:
    one = source(tmp_path, "s", ["first", "second"], audio=True)
    assert (stream_of(one).lengths > 10).all()
    with pytest.raises(ManifestError, match=r"s\.jsonl:1: row 'first' has \d+ tokens, token_budget is 9"):
        stream_of(one, token_budget=9)


def test_a_broken_row_leaves_its_batch_is_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ids = [f"row{i}" for i in range(30)] + ["broken"]
    stream = stream_of(source(tmp_path, "s", ids), token_budget=200)
    num_steps = stream.plan.epoch(0).num_steps
    with caplog.at_level(logging.WARNING, "sonant.data.loader"):
        steps = take(stream, num_steps)
    got = [id for step in steps for batch in step.batches for id in batch.ids]
    assert sorted(got) == sorted(ids[:-1])  # nothing repeated in its place
    assert (stream.num_broken, stream.num_seen) == (1, 31)
    assert stream.quarantine == {f"{tmp_path / 's.jsonl'}:31": "broken.wav: is cut off"}
    assert "s.jsonl:31: broken.wav: is cut off" in caplog.text


def test_too_many_broken_rows_stop_the_run(tmp_path: Path) -> None:
    ids = [f"row{i}" for i in range(30)] + ["broken1", "broken2"]
    stream = stream_of(source(tmp_path, "s", ids))
    with pytest.raises(
        TrainingError, match=r"2 of the \d+ rows seen are broken \(max_broken_share=0.01\); the last: .*:3"
    ):
        take(stream, 50)
    bears = stream_of(source(tmp_path, "s", ids), loader=LoaderConfig(max_broken_share=0.1))
    take(bears, 50)
    assert len(bears.quarantine) == 2


def test_a_micro_batch_without_rows_becomes_one_of_no_weight(tmp_path: Path) -> None:
    steps = take(stream_of(source(tmp_path, "s", ["good", "broken"]), micro_batches=4), 1)
    weights = sorted(batch.num_target_tokens for batch in steps[0].batches)
    assert weights[:3] == [0, 0, 0]
    assert weights[3] > 0
    assert sorted(batch.ids for batch in steps[0].batches) == [("",), ("",), ("",), ("good",)]


def test_mistakes_in_code_are_not_taken_for_broken_rows(data: Group) -> None:
    def wrong(conversation: Conversation, rng: np.random.Generator) -> Example:
        raise ZeroDivisionError

    stream = BatchStream(data, wrong, sizes=SIZES, plan=PlanConfig())
    with pytest.raises(ZeroDivisionError):
        next(stream.steps())


def test_every_micro_batch_of_a_modality_step_is_of_one_kind(tmp_path: Path) -> None:
    speech = source(tmp_path, "speech", [f"s{i}" for i in range(60)], audio=True)
    text = source(tmp_path, "text", [f"t{i}" for i in range(20)])
    stream = stream_of(Group("all", [speech, text]), mixing="modality", micro_batches=2, audio_share=0.6)
    kinds = [{id[0] for batch in step.batches for id in batch.ids} for step in take(stream, 60)]
    assert all(len(kind) == 1 for kind in kinds)
    assert 0.45 < sum(kind == {"s"} for kind in kinds) / 60 < 0.75


def test_batches_are_ordinary_tensors(data: Group) -> None:
    batch = take(stream_of(data), 1)[0].batches[0]
    assert batch.token_ids.dtype == torch.int64
    assert stream_of(data).micro_batches == 4


def test_a_thread_of_the_loader_computes_alone_and_the_model_keeps_its_threads(data: Group) -> None:
    # A team of OpenMP threads for each of both has libgomp put all of them to sleep between two products.
    before, found = torch.get_num_threads(), set()

    def counting(conversation: Conversation, rng: np.random.Generator) -> Example:
        found.add(torch.get_num_threads())
        return make_example(conversation, rng)

    sizes = RowSizes(text_tokens=lambda row: 5, audio_tokens=lambda seconds: 0)
    stream = BatchStream(data, counting, sizes=sizes, plan=PlanConfig(token_budget=40), loader=LoaderConfig(workers=2))
    try:
        torch.set_num_threads(2)
        take(stream, 3)
        assert (found, torch.get_num_threads()) == ({1}, 2)
    finally:
        torch.set_num_threads(before)

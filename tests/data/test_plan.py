import itertools
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sonant.data.plan
from sonant.config import load_config
from sonant.data.plan import EpochPlan, Plan, PlanConfig, padding_share
from sonant.errors import ConfigError, TrainingError


def plan_of(lengths: Any, **settings: Any) -> Plan:
    lengths = np.asarray(lengths, np.int64)
    return Plan([np.arange(len(lengths))], lengths, shares=[1.0], config=PlanConfig(**settings))


def seen(plan: EpochPlan, step: int, rank: int = 0, world_size: int = 1) -> list[list[int]]:
    return [rows.tolist() for rows, _ in plan.step(step, rank=rank, world_size=world_size)]


plans = {
    "lengths": st.lists(st.integers(1, 64), min_size=1, max_size=120),
    "groups": st.sampled_from([1, 2, 3, 4, 6, 8]),
    "window": st.integers(1, 50),
    "max_rows": st.none() | st.integers(1, 9),
    "epoch": st.integers(0, 3),
}


@given(**plans)
@settings(max_examples=80, deadline=None)
def test_each_row_comes_exactly_once_an_epoch_within_the_budget(
    lengths: list[int], groups: int, window: int, max_rows: int | None, epoch: int
) -> None:
    plan = plan_of(lengths, token_budget=100, micro_batches=groups, window=window, max_rows=max_rows).epoch(epoch)
    steps = [seen(plan, step) for step in range(plan.num_steps)]
    assert all(len(batches) == groups for batches in steps)
    batches = list(itertools.chain.from_iterable(steps))
    assert sorted(itertools.chain.from_iterable(batches)) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) * max((lengths[row] for row in batch), default=0) <= 100
        assert len(batch) <= (max_rows or len(batch))


@given(**plans)
@settings(max_examples=40, deadline=None)
def test_ranks_together_see_the_plan_whatever_their_number(
    lengths: list[int], groups: int, window: int, max_rows: int | None, epoch: int
) -> None:
    plan = plan_of(lengths, token_budget=100, micro_batches=groups, window=window, max_rows=max_rows).epoch(epoch)
    for step in range(plan.num_steps):
        whole = seen(plan, step)
        for world_size in (w for w in range(1, groups + 1) if groups % w == 0):
            parts = [seen(plan, step, rank, world_size) for rank in range(world_size)]
            assert [parts[i % world_size][i // world_size] for i in range(groups)] == whole


@given(**plans | {"groups": st.sampled_from([2, 3, 4, 6, 8])})
@settings(max_examples=40, deadline=None)
def test_levelling_changes_no_step_and_levels_the_places(
    lengths: list[int], groups: int, window: int, max_rows: int | None, epoch: int
) -> None:
    made = {"token_budget": 100, "micro_batches": groups, "window": window, "max_rows": max_rows}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sonant.data.plan, "_level", lambda steps, loads: None)
        plain = plan_of(lengths, **made).epoch(epoch)
    plan = plan_of(lengths, **made).epoch(epoch)
    places = [0] * groups
    heaviest = 0
    for step in range(plan.num_steps):
        batches = seen(plan, step)
        assert sorted(batches) == sorted(seen(plain, step))
        loads = [sum(lengths[row] for row in batch) for batch in batches]
        places, heaviest = [a + b for a, b in zip(places, loads, strict=True)], max(heaviest, *loads)
    assert max(places) - min(places) <= heaviest


def test_ranks_hear_equally_much_although_half_the_rows_are_text() -> None:
    dice = np.random.default_rng(0)
    lengths = dice.integers(5, 200, 20_000)
    audio = lengths * (dice.random(len(lengths)) < 0.5)
    config = PlanConfig(token_budget=1000, micro_batches=16, window=500)
    plan = Plan([np.arange(len(lengths))], lengths, shares=[1.0], config=config, loads=audio).epoch(0)
    heard = [
        sum(
            int(audio[rows].sum())
            for step in range(plan.num_steps)
            for rows, _ in plan.step(step, rank=r, world_size=8)
        )
        for r in range(8)
    ]
    assert max(heard) <= 1.0005 * min(heard)


@pytest.mark.parametrize(("asked", "ranks", "micro_batches"), [(4, 1, 4), (1, 8, 8), (10, 8, 16), (64, 8, 64)])
def test_micro_batches_are_rounded_up_to_what_ranks_can_share(asked: int, ranks: int, micro_batches: int) -> None:
    assert PlanConfig(micro_batches=asked, share_among=ranks).micro_batches == micro_batches
    assert PlanConfig(share_among=ranks).micro_batches == ranks


def test_a_world_size_that_does_not_divide_the_step_is_refused() -> None:
    plan = plan_of([1] * 20, micro_batches=6).epoch(0)
    with pytest.raises(TrainingError, match=r"4 ranks cannot share 6 micro-batches .* start 1 or 2 or 3 or 6 ranks"):
        plan.step(0, rank=0, world_size=4)
    with pytest.raises(TrainingError, match="rank 2 does not exist among 2"):
        plan.step(0, rank=2, world_size=2)


def test_the_plan_is_a_function_of_seed_and_epoch_alone() -> None:
    lengths = np.random.default_rng(0).integers(1, 99, 500)
    asked_in_order = plan_of(lengths, token_budget=400, seed=3)
    orders = [asked_in_order.epoch(e).rows.tolist() for e in range(4)]
    assert plan_of(lengths, token_budget=400, seed=3).epoch(3).rows.tolist() == orders[3]
    assert len({tuple(order) for order in orders}) == 4
    assert plan_of(lengths, token_budget=400, seed=4).epoch(0).rows.tolist() != orders[0]


def test_padding_share_is_padding_over_padded_size() -> None:
    # 3 + 1 in 2 x 3 positions, 2 in 1 x 2: two of eight positions are padding.
    assert padding_share([np.array([3, 1]), np.array([2])]) == pytest.approx(2 / 8)
    assert padding_share([np.array([5, 5])]) == 0.0
    assert padding_share([np.array([], np.int64)]) == 0.0


def test_sorting_inside_windows_saves_padding() -> None:
    lengths = np.random.default_rng(0).integers(10, 500, 5000)
    mixed, by_window = (plan_of(lengths, token_budget=4000, window=w) for w in (8, 1000))
    assert by_window.epoch(0).padding_share(lengths) < 0.05 < 0.2 < mixed.epoch(0).padding_share(lengths)


def test_a_row_longer_than_the_budget_is_refused_with_both_numbers() -> None:
    with pytest.raises(ConfigError, match="row 1 has 300 tokens, more than token_budget=100"):
        plan_of([5, 300], token_budget=100)
    with pytest.raises(ConfigError, match="the sources hold no rows"):
        plan_of([])


def test_fewer_rows_than_micro_batches_leave_some_empty() -> None:
    plan = plan_of([5, 6], micro_batches=4).epoch(0)
    assert plan.num_steps == 1
    assert sorted(seen(plan, 0)) == [[], [], [0], [1]]


def test_realised_shares_are_reported_by_label() -> None:
    plan = plan_of([10, 30, 60]).epoch(0)
    assert plan.shares(np.array(["a", "b", "a"]), np.array([10, 30, 60])) == pytest.approx({"a": 0.7, "b": 0.3})


def modality_plan(num_audio: int, num_text: int, **settings: Any) -> tuple[Plan, Any]:
    has_audio = np.arange(num_audio + num_text) < num_audio
    lengths = np.random.default_rng(0).integers(5, 100, len(has_audio))
    members = [np.arange(num_audio), np.arange(num_audio, len(has_audio))]
    config = PlanConfig(mixing="modality", token_budget=400, **settings)
    return Plan(members, lengths, shares=[0.5, 0.5], config=config, has_audio=has_audio), has_audio


def modalities(plan: EpochPlan, has_audio: Any) -> list[bool]:
    kinds = []
    for step in range(plan.num_steps):
        rows = [row for batch in seen(plan, step) for row in batch]
        assert len(set(has_audio[rows])) == 1  # all ranks agree, because all micro-batches of a step do
        kinds.append(bool(has_audio[rows[0]]))
    return kinds


def test_ten_thousand_modality_draws_give_the_published_shares() -> None:
    plan, has_audio = modality_plan(17_000, 500, max_rows=4, max_text_rows=1, micro_batches=2)
    kinds: list[bool] = []
    for epoch in itertools.count():
        kinds += modalities(plan.epoch(epoch), has_audio)
        if len(kinds) >= 10_000:
            break
    assert np.mean(kinds[:10_000]) == pytest.approx(0.85, abs=0.015)
    assert 0.0 < np.mean(kinds[:500]) < 1.0  # in random order, not one after the other


@pytest.mark.parametrize(("num_audio", "num_text", "share"), [(40, 3, 0.85), (7, 900, 0.85), (30, 30, 0.3)])
def test_small_corpora_keep_the_modality_shares_too(num_audio: int, num_text: int, share: float) -> None:
    plan, has_audio = modality_plan(num_audio, num_text, micro_batches=4, audio_share=share)
    assert np.mean(modalities(plan.epoch(1), has_audio)) == pytest.approx(share, abs=0.015)


def test_mixing_by_modality_needs_both() -> None:
    with pytest.raises(ConfigError, match="found no rows without audio"):
        modality_plan(10, 0)


def test_settings_are_checked_when_read() -> None:
    with pytest.raises(ConfigError, match="token_budget"):
        load_config(PlanConfig, [], overrides=["token_budget=0"])


def test_a_million_rows_are_planned_in_a_second() -> None:
    lengths = np.random.default_rng(0).integers(10, 500, 1_000_000)
    started = time.process_time()
    plan = plan_of(lengths, token_budget=4096, micro_batches=8).epoch(0)
    assert time.process_time() - started < 1.0
    assert (np.bincount(plan.rows, minlength=1_000_000) == 1).all()

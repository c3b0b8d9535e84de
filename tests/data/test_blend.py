import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sonant.chat.messages import Conversation, user
from sonant.data.blend import Blend, Group, Source, leaves, token_shares
from sonant.data.manifest import Manifest, write
from sonant.errors import ConfigError


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    path: Path = tmp_path_factory.mktemp("blend") / "m.jsonl"
    write(path, [Conversation((user("hello"),))])
    return Manifest(path)


def tree(manifest: Manifest, temperature: float) -> Group:
    def source(name: str, weight: float = 1.0) -> Source:
        return Source(name, manifest, weight)

    speech = Group("speech", [source("large", 1.0), source("small", 2.0)], weight=3.0, temperature=temperature)
    return Group("all", [speech, source("text", 1.0)])


SIZES = {"large": 900.0, "small": 100.0, "text": 50.0}


@pytest.mark.parametrize(
    ("temperature", "large", "small"),
    [(0.0, 1 / 3, 2 / 3), (1.0, 900 / 1100, 200 / 1100), (0.5, 30 / 50, 20 / 50)],
)
def test_nested_weights_multiply_and_the_temperature_bends_sizes(
    manifest: Manifest, temperature: float, large: float, small: float
) -> None:
    root = tree(manifest, temperature)
    assert [leaf.name for leaf in leaves(root)] == ["large", "small", "text"]
    shares = token_shares(root, lambda leaf: SIZES[leaf.name])
    assert shares == pytest.approx([0.75 * large, 0.75 * small, 0.25])


def test_wrong_trees_are_refused_with_the_name(manifest: Manifest) -> None:
    a = Source("a", manifest)
    with pytest.raises(ConfigError, match="two sources are named 'a'"):
        token_shares(Group("all", [a, a]), lambda _: 1.0)
    with pytest.raises(ConfigError, match=r"'b' has weight 0\.0; weights are above 0"):
        token_shares(Group("all", [a, Source("b", manifest, 0.0)]), lambda _: 1.0)
    with pytest.raises(ConfigError, match="group 'none' has no members"):
        token_shares(Group("none", []), lambda _: 1.0)


@given(counts=st.lists(st.integers(1, 40), min_size=1, max_size=4), seed=st.integers(0, 9), weights=st.data())
@settings(max_examples=40, deadline=None)
def test_every_source_cycles_through_whole_shuffles_across_epochs(
    counts: list[int], seed: int, weights: st.DataObject
) -> None:
    shares = weights.draw(st.lists(st.floats(0.05, 1), min_size=len(counts), max_size=len(counts)))
    edges = np.cumsum([0, *counts])
    sizes = np.random.default_rng(seed).integers(1, 50, edges[-1])
    blend = Blend([np.arange(a, b) for a, b in itertools.pairwise(edges)], sizes, shares=shares, seed=seed)
    epochs = [blend.epoch(e) for e in range(4)]
    rows = np.concatenate([rows for rows, _ in epochs])
    cycles = np.concatenate([cycles for _, cycles in epochs])
    assert len(set(zip(rows.tolist(), cycles.tolist(), strict=True))) == len(rows)  # never the same shuffle twice
    for (a, b), quota in zip(itertools.pairwise(edges), blend.quotas, strict=True):
        seen = Counter(rows[(rows >= a) & (rows < b)].tolist())
        assert sum(seen.values()) == 4 * quota
        # No row is lost: each was seen as often as whole cycles fit, or once more.
        assert all(seen[row] in (4 * quota // (b - a), 4 * quota // (b - a) + 1) for row in range(a, b))


def test_one_source_is_seen_exactly_once_an_epoch_in_another_order_each_time() -> None:
    sizes = np.arange(1, 101)
    blend = Blend([np.arange(100)], sizes, shares=[5.0], seed=1)
    first, second = blend.epoch(0)[0], blend.epoch(1)[0]
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(100))
    assert first.tolist() != second.tolist()


def test_shares_are_measured_in_tokens_and_hold_in_every_stretch_of_an_epoch() -> None:
    sizes = np.concatenate([np.full(3000, 10), np.full(3000, 90)])
    blend = Blend([np.arange(3000), np.arange(3000, 6000)], sizes, shares=[0.3, 0.7], seed=0)
    rows, _ = blend.epoch(0)
    assert sizes[rows].sum() == pytest.approx(sizes.sum(), rel=0.001)
    for stretch in np.array_split(rows, 10):
        assert sizes[stretch[stretch < 3000]].sum() / sizes[stretch].sum() == pytest.approx(0.3, abs=0.01)

import pytest
import torch

from sonant.generate.sampling import (
    Drawing,
    GenerationConfig,
    draw,
    keep_top_k,
    keep_top_p,
    loops,
    penalise_repetition,
)

LOGITS = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))


def test_greedy_takes_the_likeliest_token() -> None:
    assert draw(LOGITS, [Drawing.begun(GenerationConfig(), name="a")]).tolist() == [0]


def test_top_k_keeps_the_k_best() -> None:
    assert keep_top_k(LOGITS, 2).isinf().tolist() == [[False, False, True, True]]
    assert keep_top_k(LOGITS, 0) is LOGITS


def test_top_p_keeps_the_smallest_set_that_reaches_p() -> None:
    assert keep_top_p(LOGITS, 0.6).isinf().tolist() == [[False, False, True, True]]
    assert keep_top_p(LOGITS, 0.01).isinf().tolist() == [[False, True, True, True]]


def test_repetition_penalty_divides_positive_and_multiplies_negative_scores() -> None:
    logits = torch.tensor([[2.0, -2.0, 1.0]])
    assert penalise_repetition(logits, [[0, 1]], penalty=2.0).tolist() == [[1.0, -4.0, 1.0]]
    assert logits.tolist() == [[2.0, -2.0, 1.0]]


@pytest.mark.parametrize(
    "drawn",
    [{"temperature": 1e-40}, {"temperature": 1e-320}, {"temperature": 1.0, "top_p": 1e-50}],
)
def test_the_coldest_and_the_narrowest_draw_is_the_likeliest_token(drawn: dict[str, float]) -> None:
    # In float32 they are 0: not a number came of it, and a step of all who were answered together failed.
    answers = [Drawing.begun(GenerationConfig.model_validate(drawn), name="a")] * 2
    assert draw(torch.tensor([[1e4, 2e4, -1e4, 0.0], [0.1, 0.3, 0.2, 0.0]]), answers).tolist() == [1, 1]


@pytest.mark.parametrize("penalty", [1e-39, 1e39])
def test_a_penalty_that_no_float_can_bear_is_refused(penalty: float) -> None:
    with pytest.raises(ValueError, match="repetition_penalty"):
        GenerationConfig(repetition_penalty=penalty)


def test_sampling_follows_the_distribution() -> None:
    answer = Drawing.begun(GenerationConfig(temperature=1.0), name="a")
    draws = torch.cat([draw(LOGITS, [answer]) for _ in range(2000)])
    shares = torch.bincount(draws, minlength=4) / len(draws)
    assert torch.allclose(shares, LOGITS.exp()[0], atol=0.04)


def test_an_answer_draws_the_same_alone_and_in_company_that_is_drawn_in_other_ways() -> None:
    warm, hot, greedy = (GenerationConfig(temperature=t, seed=3) for t in (1.0, 5.0, 0.0))
    together = [Drawing.begun(config, name=name) for config, name in ((hot, "a"), (warm, "b"), (greedy, "c"))]
    alone = Drawing.begun(warm, name="b")
    for _ in range(20):
        drawn = draw(LOGITS.expand(3, 4), together).tolist()
        assert drawn[1:] == [int(draw(LOGITS, [alone])), 0]


def test_a_penalty_knows_what_its_own_answer_has_said() -> None:
    config = GenerationConfig(repetition_penalty=3.0)
    said, silent = Drawing.begun(config, name="a"), Drawing.begun(config, name="b")
    said.said.append(0)
    assert draw(torch.tensor([[2.0, 1.0], [2.0, 1.0]]), [said, silent]).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ([7, 7, 7], True),
        ([7, 7], False),
        ([1, 7, 7, 7], True),
        ([7, 7, 7, 1], False),  # it was noticed before, or there was no guard
        ([1, 2, 1, 2, 1, 2], True),
        ([1, 2, 1, 2, 1], False),
        ([1, 2, 1, 2, 3, 2], False),
        (list(range(12)) * 3, True),
        (list(range(13)) * 3, False),  # longer than what is looked for
        ([], False),
    ],
)
def test_a_loop_is_a_stretch_that_stands_so_many_times_in_a_row_at_the_end(said: list[int], found: bool) -> None:
    assert loops(said, times=3) is found


def test_the_guard_is_off_by_default_and_twice_is_the_least_that_repeats() -> None:
    assert GenerationConfig().max_repeats is None
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        GenerationConfig(max_repeats=1)

import pytest
import torch

from sonant.generate.sampling import GenerationConfig, Sampler, keep_top_k, keep_top_p, loops, penalise_repetition

LOGITS = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))


def test_greedy_takes_the_likeliest_token() -> None:
    sampler = Sampler(GenerationConfig(), [0])
    assert sampler(LOGITS, rows=[0], previous=[[]]).tolist() == [0]


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


def test_sampling_follows_the_distribution() -> None:
    sampler = Sampler(GenerationConfig(temperature=1.0), [0])
    draws = torch.cat([sampler(LOGITS, rows=[0], previous=[[]]) for _ in range(2000)])
    shares = torch.bincount(draws, minlength=4) / len(draws)
    assert torch.allclose(shares, LOGITS.exp()[0], atol=0.04)


def test_a_row_draws_the_same_alone_and_in_company() -> None:
    config = GenerationConfig(temperature=1.0, seed=3)
    together, alone = Sampler(config, [7, 8]), Sampler(config, [8])
    for _ in range(20):
        both = together(LOGITS.expand(2, 4), rows=[0, 1], previous=[[], []])
        assert both[1:].tolist() == alone(LOGITS, rows=[0], previous=[[]]).tolist()


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

import pytest
import torch

from sonant.train.dry_run import HEAD
from sonant.train.fit import largest_that_fits, longest_by_memory, part_of
from sonant.train.machine import Machine, calibrated

MACHINE = Machine("a toy", flops_per_s=100.0, bf16_flops_per_s=400.0, bytes_per_s=10.0, call_s=0.5)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("encoders.1.model.layers.3", "encoders.1"),
        ("llm.model.layers.0.self_attn.q_proj.lora_A.default.weight", "lora"),
        ("llm.lm_head", HEAD),
        ("llm.model.norm", "llm"),
        ("adapter.mlp.0", "adapter"),
        ("", HEAD),
    ],
)
def test_a_name_tells_its_part(name: str, part: str) -> None:
    assert part_of(name) == part


@pytest.mark.parametrize("limit", [0.5, 3.0, 70.0])
def test_the_largest_that_fits_is_found_to_a_few_percent(limit: float) -> None:
    assert largest_that_fits(lambda x: x <= limit, first=10.0, most=1000.0) == pytest.approx(limit, rel=0.03)


def test_what_always_fits_ends_at_the_most_and_what_never_fits_at_nothing() -> None:
    assert largest_that_fits(lambda x: True, first=10.0, most=1000.0) == 1000.0
    assert largest_that_fits(lambda x: False, first=10.0, most=1000.0) == 0.0


def test_an_operation_takes_the_longer_of_computing_and_moving() -> None:
    assert MACHINE.seconds(200, 5, torch.float32) == 2.5
    assert MACHINE.seconds(200, 5, torch.bfloat16) == 1.0
    assert MACHINE.seconds(0, 50, torch.float32) == 5.5


def test_a_calibrated_machine_predicts_what_was_measured() -> None:
    slow = calibrated(MACHINE, predicted_s=2.5, measured_s=5.0)
    assert slow.seconds(200, 5, torch.float32) == 5.0
    assert slow.calibrated


def test_the_longest_row_follows_from_length_and_its_square() -> None:
    def memory(seconds: float) -> int:
        return round(1000 + 20 * seconds + 3 * seconds**2)

    found = longest_by_memory(memory, usable_bytes=memory(50.0), first=10.0, most=600.0)
    assert found == pytest.approx(50.0, rel=1e-3)
    assert longest_by_memory(memory, usable_bytes=memory(5000.0), first=10.0, most=600.0) == 600.0
    assert longest_by_memory(memory, usable_bytes=900.0, first=10.0, most=600.0) == 0.0
    linear = longest_by_memory(lambda s: round(100 * s), usable_bytes=9000.0, first=10.0, most=600.0)
    assert linear == pytest.approx(90.0)

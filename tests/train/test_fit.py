from dataclasses import replace

import pytest
import torch

from sonant.errors import ConfigError
from sonant.train.cost import StepTime
from sonant.train.dry_run import HEAD, Call
from sonant.train.fit import largest_that_fits, longest_by_memory, part_of
from sonant.train.machine import Machine, calibrated

MACHINE = Machine("a toy", flops_per_s=100.0, bf16_flops_per_s=400.0, bytes_per_s=10.0, call_s=0.5)
PRODUCT, SUM = Call("aten.mm", 200, 5, torch.float32), Call("aten.add", 0, 50, torch.float32)


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
    assert MACHINE.seconds(PRODUCT) == 2.5
    assert MACHINE.seconds(replace(PRODUCT, dtype=torch.bfloat16)) == 1.0
    assert MACHINE.seconds(SUM) == 5.5
    assert replace(MACHINE, efficiency=0.5).seconds(SUM) == 10.5


def test_a_calibrated_machine_repeats_the_step_that_was_measured_and_scales_each_kind_on_its_own() -> None:
    calls = {PRODUCT: 2, SUM: 1}
    slow = calibrated(MACHINE, calls, StepTime(seconds=16.0, by_kind={"aten.mm": 9.0, "aten.add": 3.0, "aten.any": 1}))
    assert slow.calibrated
    assert sum(n * slow.seconds(call) for call, n in calls.items()) == pytest.approx(16.0)
    more = slow.seconds(replace(PRODUCT, flops=400)) - slow.seconds(PRODUCT)
    assert more == pytest.approx(2.0 * (9.0 - 2 * 0.5) / 4.0)  # twice as long as by the rates, without the calls
    assert slow.efficiency == pytest.approx((2 * 2.0 + 5.0) / 16.0)
    other = Call("aten.mul", 0, 20, torch.float32)
    assert slow.seconds(other) == pytest.approx(2.0 / slow.efficiency + slow.call_s)


def test_no_machine_is_faster_than_its_peak() -> None:
    quick = calibrated(MACHINE, {PRODUCT: 1}, StepTime(seconds=0.1, by_kind={"aten.mm": 0.1}))
    assert quick.efficiency == 1.0
    for change in ({"efficiency": 1.2}, {"efficiency": 0.0}, {"flops_per_s": 0.0}, {"bytes_per_s": -1.0}):
        with pytest.raises(ConfigError, match="above 0"):
            replace(MACHINE, **change)  # type: ignore[arg-type]


def test_the_longest_row_follows_from_length_and_its_square() -> None:
    def memory(seconds: float) -> int:
        return round(1000 + 20 * seconds + 3 * seconds**2)

    found = longest_by_memory(memory, usable_bytes=memory(50.0), first=10.0, most=600.0)
    assert found == pytest.approx(50.0, rel=1e-3)
    assert longest_by_memory(memory, usable_bytes=memory(5000.0), first=10.0, most=600.0) == 600.0
    assert longest_by_memory(memory, usable_bytes=900.0, first=10.0, most=600.0) == 0.0
    linear = longest_by_memory(lambda s: round(100 * s), usable_bytes=9000.0, first=10.0, most=600.0)
    assert linear == pytest.approx(90.0)

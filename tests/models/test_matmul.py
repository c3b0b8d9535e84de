from collections.abc import Iterator

import pytest
import torch

from sonant.models import matmul
from sonant.models.matmul import fast_matmul


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    matmul._error_of_medium.cache_clear()  # it is measured once in a process
    yield
    matmul._error_of_medium.cache_clear()
    assert torch.get_float32_matmul_precision() == before


def test_what_auto_chooses_is_as_exact_as_fp32() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(300, 500), torch.randn(500, 200)
    exact = a.double() @ b.double()
    with fast_matmul() as chosen:
        assert torch.get_float32_matmul_precision() == chosen
        torch.testing.assert_close((a @ b).double(), exact, rtol=0, atol=1e-5 * float(exact.abs().max()))


@pytest.mark.parametrize("bits", [8, 11])  # of bfloat16's and of TF32's fraction
def test_auto_refuses_kernels_that_round_their_inputs(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No such processor is at hand: the product is replaced by one that rounds, as AMX and NVIDIA's do."""
    multiply = torch.Tensor.__matmul__

    def rounding(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if a.dtype == torch.float32 and torch.get_float32_matmul_precision() == "medium":
            return multiply(*(torch.ldexp((x.frexp()[0] * 2**bits).round() / 2**bits, x.frexp()[1]) for x in (a, b)))
        return multiply(a, b)

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounding)
    with fast_matmul() as chosen:
        assert chosen == "highest" == torch.get_float32_matmul_precision()
    with fast_matmul("medium") as chosen:  # asked for, it is given
        assert chosen == "medium"


def test_the_setting_returns_after_an_exception() -> None:
    with pytest.raises(RuntimeError, match="inside"), fast_matmul("medium"):
        raise RuntimeError("inside")


@pytest.mark.parametrize(("kind", "rounds"), [("highest", False), ("medium", True)])
def test_convolutions_on_nvidia_round_where_products_do(kind: matmul.Matmul, rounds: bool) -> None:
    """torch lets them round to TF32 whatever products do: "highest" was not as exact as it says."""
    before = torch.backends.cudnn.allow_tf32
    with fast_matmul(kind):
        assert torch.backends.cudnn.allow_tf32 is rounds
    assert torch.backends.cudnn.allow_tf32 is before

"""Linear layers whose weights are laid out before give what torch's give, and are themselves again afterwards."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sonant.models import prepared
from sonant.models.prepared import prepared_linear, prepared_linears


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """However small a product, oneDNN makes it."""
    monkeypatch.setattr(prepared, "_LEAST", 1)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def two_layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 40), nn.GELU(), nn.Linear(40, 8, bias=False))


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 24), (17, 24), (2, 5, 24), (0, 24), (24,)], ids=str)
def test_it_is_the_product_that_torch_gives(shape: tuple[int, ...], bias: bool) -> None:
    weight, x = random(40, 24), random(*shape)
    added = random(40) if bias else None
    torch.testing.assert_close(prepared_linear(weight, added)(x), F.linear(x, weight, added), atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("always")
def test_weights_and_inputs_may_lie_in_any_order() -> None:
    weight, x = random(24, 40).t(), random(3, 24, 7).transpose(1, 2)
    torch.testing.assert_close(prepared_linear(weight)(x), F.linear(x, weight), atol=1e-5, rtol=1e-5)


def test_on_both_sides_of_what_is_too_small_the_product_is_the_same() -> None:
    weight = random(256, 512)
    linear = prepared_linear(weight)
    for rows in (1, 3, 4, 5, 64):  # from 4 on it is 2^19 numbers
        x = random(rows, 512)
        torch.testing.assert_close(linear(x), F.linear(x, weight), atol=2e-4, rtol=1e-4)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_another_precision_is_left_to_torch(dtype: torch.dtype) -> None:
    layers, x = two_layers().to(dtype), random(3, 24).to(dtype)
    expected = layers(x)
    with prepared_linears(layers) as able:
        assert not able
        assert torch.equal(layers(x), expected)


@pytest.mark.usefixtures("always")
@torch.no_grad()
def test_under_autocast_a_layer_does_what_torch_does_there() -> None:
    layers, x = two_layers(), random(3, 24)
    with torch.autocast("cpu", torch.bfloat16):
        expected = layers(x)
        with prepared_linears(layers):
            assert torch.equal(layers(x), expected)


@pytest.mark.usefixtures("always")
@torch.no_grad()
def test_two_threads_may_answer_by_one_model_at_a_time() -> None:
    layers, x = two_layers(), random(3, 24)
    expected, both = layers(x), threading.Barrier(2)

    def answer(_: int) -> Tensor:
        for _ in range(200):
            both.wait(10)
            with prepared_linears(layers):
                found: Tensor = layers(x)
        return found

    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(answer, range(2)):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert not any("forward" in vars(layer) for layer in layers)


@pytest.mark.usefixtures("always")
@torch.no_grad()
def test_inside_the_block_layers_are_prepared_and_afterwards_they_are_as_before() -> None:
    layers, x = two_layers(), random(3, 24)
    names, expected = list(layers.state_dict()), layers(x)
    with prepared_linears(layers) as able:
        assert able
        assert list(layers.state_dict()) == names
        torch.testing.assert_close(layers(x), expected, atol=1e-5, rtol=1e-5)
        nn.init.zeros_(layers[2].weight)  # type: ignore[arg-type]
        torch.testing.assert_close(layers(x), expected, atol=1e-5, rtol=1e-5)  # laid out before
    assert not layers(x).any()


def test_after_an_exception_layers_are_as_before() -> None:
    layers = two_layers()
    with pytest.raises(KeyError), prepared_linears(layers):
        raise KeyError
    assert not any("forward" in vars(layer) for layer in layers)


@pytest.mark.usefixtures("always")
@torch.no_grad()
def test_a_block_inside_another_leaves_the_layers_to_the_outer_one() -> None:
    layers, x = two_layers(), random(3, 24)
    expected = layers(x)
    with prepared_linears(layers):
        with prepared_linears(layers) as able:
            assert able
        nn.init.zeros_(layers[0].weight)  # type: ignore[arg-type]
        torch.testing.assert_close(layers(x), expected, atol=1e-5, rtol=1e-5)


def test_many_weights_are_not_held_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = two_layers()
    monkeypatch.setattr(prepared, "_MOST_BYTES", 4 * (24 + 8) * 40 - 1)
    with prepared_linears(layers) as able:
        assert not able
        assert not any("forward" in vars(layer) for layer in layers)


def test_gradients_pass_again_after_the_block() -> None:
    layers, x = two_layers(), random(3, 24)
    with prepared_linears(layers), torch.no_grad():
        layers(x)
    layers(x).sum().backward()
    assert layers[0].weight.grad is not None

"""Linear layers that only answer: on a CPU their weights are laid out once, in the order in which oneDNN reads them.

Microseconds of a product of `rows` on one core (AMD, Zen 5):

    weight                                512 x 2048                192 x 192
    rows                             1      8      256         1      8     256
    MKL, which torch takes          63    295    6,040         4     10     204
    oneDNN (`fast_matmul`)         138    192    2,710        27     29     102
    oneDNN, laid out before         62    100    2,600        13     15      98

`fast_matmul` is a setting of the whole process and pays where rows are many; this is a layer's own, as exact as fp32,
and leaves to torch what is so small that oneDNN would prepare for longer than it multiplies.
"""

import contextlib
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEAST = 2**19  # numbers multiplied in one call
_MOST_BYTES = 2**28  # of weights that a module holds twice

Linear = Callable[[Tensor], Tensor]


def prepared_linear(weight: Tensor, bias: Tensor | None = None) -> Linear:
    """Returns a function of x (.., in) that gives F.linear(x, weight, bias) (.., out); it has no gradients.

    What changes `weight` (out, in) later is not heard of.
    """

    def plain(x: Tensor) -> Tensor:
        return F.linear(x, weight, bias)

    if not _is_known(weight):
        return plain
    ops = torch.ops.mkldnn
    laid_out, multiply = ops._reorder_linear_weight(weight.detach().contiguous()), ops._linear_pointwise.default
    least_rows = _LEAST / weight.numel()

    def linear(x: Tensor) -> Tensor:
        if x.numel() < least_rows * x.shape[-1] or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
            return plain(x)
        found: Tensor = multiply(x, laid_out, bias, "none", [], "")
        return found

    return linear


@contextlib.contextmanager
def prepared_linears(*modules: nn.Module) -> Iterator[bool]:
    """Has linear layers compute by `prepared_linear` inside the block; yields whether all do.

    None does above 256 MB, or where one is on another device or of another precision. Laying out takes a millisecond
    for some millions of numbers. Nothing inside the block may train these weights.
    """
    linears = [each for module in modules for each in module.modules() if type(each) is nn.Linear]
    few = sum(each.weight.nbytes for each in linears) <= _MOST_BYTES
    able = few and all(_is_known(each.weight) for each in linears)
    prepared = [each for each in linears if able and "forward" not in vars(each)]  # else it is another's, or ready
    try:
        for each in prepared:
            vars(each)["forward"] = prepared_linear(each.weight, each.bias)
        yield able
    finally:
        for each in prepared:
            vars(each).pop("forward", None)  # another thread that answered meanwhile may have been the first


def _is_known(weight: Tensor) -> bool:
    """Whether this torch has oneDNN's products of weights laid out before, which no public name of torch's gives."""
    plain = type(weight) in (Tensor, nn.Parameter)  # no shard of one
    there = plain and weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.numel() > 0
    names = ("_reorder_linear_weight", "_linear_pointwise")
    return there and torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)

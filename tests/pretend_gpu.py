"""A GPU that is pretended: tensors that say they lie on it and compute on the CPU. What mixes the two is found out.

`OnGPU` is a tensor by another name; within `PretendGPU` what is made of such tensors is one, too, and what torch would
refuse on a machine with a GPU is noted in `faults`, with the line of ours that did it. What kernels do is not tested.
"""

import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from sonant.batch import Batch

M = TypeVar("M", bound=nn.Module)
GPU = torch.device("cuda", 0)
# These take tensors of both: lengths of a CTC loss, indices, what is copied from one to the other.
_BOTH = {"ctc_loss", "_ctc_loss", "copy_", "to", "type_as", "__get__", "__set__", "as_subclass", "split"}


class OnGPU(Tensor):
    """Says that it lies on a GPU."""

    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)


def on_gpu(tensor: Tensor) -> Tensor:
    return tensor.as_subclass(OnGPU)


def model_on_gpu(model: M) -> M:
    """Moves parameters and buffers, in place; what is shared stays so."""
    moved: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) not in moved:
                other: Any = on_gpu(parameter.detach()).requires_grad_(parameter.requires_grad)
                other._is_param = True
                moved[id(parameter)] = other
            if parameter is not None:
                module._parameters[name] = moved[id(parameter)]
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else on_gpu(buffer)
    return model


def batch_on_gpu(batch: Batch) -> Batch:
    return batch._mapped(on_gpu)


class PretendGPU(TorchFunctionMode):
    """Within, all that is made of tensors on the GPU, or asked for there, lies there."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name, given = getattr(func, "__name__", str(func)), dict(kwargs or {})
        tensors = [each for each in tree_leaves((args, given)) if isinstance(each, Tensor)]
        here = any(not isinstance(each, OnGPU) and each.dim() and each.numel() for each in tensors)
        there = any(isinstance(each, OnGPU) for each in tensors)
        if fault := _fault(name, args, given, here=here, there=there):
            self.faults.append(f"{name}: {fault}, in {_line_of_ours()}")
        to, args, given = _destination(name, args, given, there=there)
        with torch._C.DisableTorchFunctionSubclass():
            out = func(*args, **given)
        return out if name == "__set__" else tree_map(lambda each: _placed(each, to), out)


def _fault(name: str, args: Sequence[Any], given: Mapping[str, Any], *, here: bool, there: bool) -> str:
    """Why torch would refuse it; "" if it would not."""
    if name == "numpy" and there:
        return "an array of a tensor on the GPU"
    if given.get("generator") is not None and (there or _is_gpu(given.get("device"))):
        return "chance of the CPU for a tensor on the GPU"
    if name in ("__getitem__", "__setitem__"):
        return "a tensor on the CPU indexed by one on the GPU" if there and not isinstance(args[0], OnGPU) else ""
    return "both devices" if here and there and name not in _BOTH else ""


def _destination(
    name: str, args: Sequence[Any], given: dict[str, Any], *, there: bool
) -> tuple[torch.device, Sequence[Any], dict[str, Any]]:
    """Where the outcome lies, and the arguments without a GPU among them."""
    to = GPU if there else torch.device("cpu")
    if name in ("cpu", "cuda"):
        to = torch.device(name)
    for each in [*(args[1:] if name == "to" else ()), given.get("device")]:
        if isinstance(each, str | torch.device):
            to = torch.device(each)
        elif isinstance(each, Tensor):
            to = each.device
    if _is_gpu(given.get("device")):
        given["device"] = torch.device("cpu")
    return to, [torch.device("cpu") if _is_gpu(each) else each for each in args], given


def _line_of_ours() -> str:
    stack = [line for line in traceback.extract_stack() if "/sonant/" in line.filename]
    return f"{stack[-1].filename}:{stack[-1].lineno}" if stack else "no line of ours"


def _is_gpu(value: Any) -> bool:
    return isinstance(value, str | torch.device) and str(value).startswith("cuda")


def _placed(value: Any, to: torch.device) -> Any:
    if not isinstance(value, Tensor):
        return value
    return on_gpu(value) if to.type == "cuda" else value.as_subclass(Tensor)

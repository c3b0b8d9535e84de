"""One training step without numbers: the real code over tensors that have shapes and no memory.

    weights, features   shapes alone ─┐
    lengths, ids, masks real numbers ─┴─▶ loss(model, batch), backward ─▶ operations, bytes moved, most bytes held

How a model is padded, packed, checkpointed or cast is nowhere said a second time: what the code does is counted. What
it decides by its integers it decides as ever. What it decides by what it heard is guessed (see `_guess`).
"""

import contextlib
import re
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
import torch.utils.flop_counter as flop_counter
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn.modules import module as every_module
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from sonant.batch import Batch
from sonant.models.matmul import fast_matmul
from sonant.train.trainer import Loss

GRADIENTS = "gradients"
HEAD = "logits and loss"  # what belongs to no other part
_RUN = 4  # places: a recogniser is taken to hear a new token every fourth of its frames
_aten = torch.ops.aten
_ATTENTION = re.compile(r"aten\._scaled_dot_product_(?:flash|efficient|cudnn)_attention(?:_for_cpu)?(_backward)?")
_BY_MASK = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._unsafe_index.Tensor}


@dataclass(frozen=True)
class Call:
    """One operation: what it computes and how much it reads and writes."""

    kind: str  # as "aten.mm"
    flops: int
    moved_bytes: int
    dtype: torch.dtype  # of its result


@dataclass
class DryStep:
    """What a step would do; bytes are beside weights and optimiser.

    peak: part -> bytes held at the moment when most are held, the weights' gradients as a part of their own.
    calls: part -> kind of operation -> how often.
    """

    peak_bytes: int = 0
    peak: dict[str, int] = field(default_factory=dict)
    calls: dict[str, Counter[Call]] = field(default_factory=dict)

    @property
    def flops(self) -> dict[str, int]:
        """Returns part -> operations of matrix products, convolutions and attention."""
        return {part: sum(call.flops * n for call, n in calls.items()) for part, calls in self.calls.items()}


def kind_of(func: Any) -> str:
    """Returns the kind of an operation of torch, as "aten.mm"; a GPU's attention by the name it has on a CPU."""
    name = str(func._overloadpacket)
    if found := _ATTENTION.fullmatch(name):
        return f"aten._scaled_dot_product_flash_attention_for_cpu{found[1] or ''}"
    return name


def shapes_of(model: nn.Module) -> FakeTensorMode:
    """Gives `model`, in place, weights that are shapes alone, shared where they were; returns what such tensors need.

    Of a model from the meta device or with weights, which are forgotten. Integers stay what they are.
    """
    mode, seen = FakeTensorMode(allow_non_fake_inputs=True), dict[tuple[Any, ...], Tensor]()

    def shape(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return torch.zeros(tensor.shape, dtype=tensor.dtype) if tensor.is_meta else tensor
        key = (tensor.untyped_storage()._cdata, tensor.shape, tensor.dtype)
        if key not in seen:
            seen[key] = empty(mode, *tensor.shape, dtype=tensor.dtype)
        return seen[key]

    parameters: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, old in module._parameters.items():
            if old is not None and id(old) not in parameters:
                parameters[id(old)] = nn.Parameter(shape(old), requires_grad=old.requires_grad)
            module._parameters[name] = None if old is None else parameters[id(old)]
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else shape(buffer)
    return mode


def empty(mode: FakeTensorMode, *size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Returns a tensor of this shape without memory."""
    with mode:
        return torch.empty(size, dtype=dtype)


def dry_step(
    model: nn.Module,
    loss: Loss,
    batches: Sequence[Batch],
    *,
    parts: Callable[[str], str] = lambda name: name.split(".")[0],
    bf16: bool = False,
    fused_attention: bool = False,
) -> DryStep:
    """Returns what forward and backward of all `batches`, one after the other, would compute and hold.

    Weights and features must be shapes (`shapes_of`, `empty`), all else real. Gradients are None before and after.

    parts: name of a module -> the part that what it does is counted for.
    bf16: under autocast.
    fused_attention: no attention weights are kept, as on a GPU; else as this machine does it now (by products of
        matrices within `sonant.models.matmul.fast_matmul`; its fused kernels know neither dropout nor a bias that
        trains).
    """
    counting = _Counting()
    model.zero_grad(set_to_none=True)
    names = {id(module): parts(name) for name, module in model.named_modules() if name}
    attention = _fused_attention() if fused_attention else contextlib.nullcontext()
    with _told_of_parts(counting, model, names), attention, counting:
        for batch in batches:
            counting.part = HEAD
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                total = loss(model, batch).total
            total.backward()
            del total
    model.zero_grad(set_to_none=True)
    return counting.step


@contextlib.contextmanager
def _told_of_parts(counting: "_Counting", model: nn.Module, names: Mapping[int, str]) -> Iterator[None]:
    """Within, `counting.part` is the part whose module computes, or whose output's gradient has just become known."""
    before: list[str] = []

    def enter(module: nn.Module, *_: Any) -> None:
        before.append(counting.part)
        counting.part = names.get(id(module)) or counting.part

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        part, counting.part = counting.part, before.pop()
        if id(module) not in names:
            return  # the whole model, whose output is that of its last part
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                tensor.register_hook(lambda gradient: setattr(counting, "part", part))

    def is_gradient(parameter: Tensor) -> None:
        if parameter.grad is not None:
            counting.rename(parameter.grad, GRADIENTS)

    hooks = [p.register_post_accumulate_grad_hook(is_gradient) for p in model.parameters() if p.requires_grad]
    hooks += [
        every_module.register_module_forward_pre_hook(enter),
        every_module.register_module_forward_hook(leave, always_call=True),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Counting(TorchDispatchMode):
    """Counts operations over shapes, and follows each piece of memory from its making to its end."""

    def __init__(self) -> None:
        super().__init__()
        self.part, self.step = HEAD, DryStep()
        self._held: dict[int, tuple[str, int]] = {}  # memory -> whose it is, and its size
        self._by_part: Counter[str] = Counter()
        self._total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:
            return torch.device("cpu")
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not any(isinstance(tensor, FakeTensor) for tensor in given):
            return func(*args, **kwargs)
        if func is _aten._local_scalar_dense.default:
            return torch.ones((), dtype=args[0].dtype).item()  # what is reported of a loss
        if func in _BY_MASK:
            args = (args[0], [i for index in args[1] for i in _places(index)], *args[2:])
        out = _CTC.get(func, func)(*args, **kwargs)
        if isinstance(out, Tensor) and not out.is_floating_point():
            return _guess(func, out)
        before = {
            tensor.untyped_storage()._cdata for tensor in given
        }  # weights, features: a view of them is nothing new
        for tensor in tree_leaves(out):
            if isinstance(tensor, FakeTensor) and tensor.untyped_storage()._cdata not in before:
                self._hold(tensor)
        if not func.is_view:
            self._count(func, args, kwargs, out, given)
        return tree_map(lambda leaf: leaf if not _unknown(leaf) else _guess(func, leaf), out)

    def _count(self, func: Any, args: Any, kwargs: Any, out: Any, given: Sequence[Tensor]) -> None:
        results = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        moved = sum(t.numel() * t.element_size() for t in (*given, *results))
        flops = _FLOPS.get(func._overloadpacket)
        operations = int(flops(*args, **kwargs, out_val=out)) if flops is not None else 0
        call = Call(kind_of(func), operations, moved, results[0].dtype if results else torch.float32)
        self.step.calls.setdefault(self.part, Counter())[call] += 1

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._held:
            return
        size = storage.nbytes()
        self._held[key] = (self.part, size)
        self._by_part[self.part] += size
        self._total += size
        weakref.finalize(storage, self._let_go, key)
        if self._total > self.step.peak_bytes:
            self.step.peak_bytes, self.step.peak = self._total, dict(self._by_part)

    def rename(self, tensor: Tensor, part: str) -> None:
        """Counts memory as another part's from now on."""
        key = tensor.untyped_storage()._cdata
        if key in self._held:
            old, size = self._held[key]
            self._held[key] = (part, size)
            self._by_part[old] -= size
            self._by_part[part] += size

    def _let_go(self, key: int) -> None:
        part, size = self._held.pop(key)
        self._by_part[part] -= size
        self._total -= size


@contextlib.contextmanager
def _fused_attention() -> Iterator[None]:
    """Within, attention is as a GPU's kernels do it: its weights are never kept. (Backward would leave a mode.)"""
    usual = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = _fused
    try:
        with fast_matmul("highest"):  # else packed rows are attended by products of matrices on a CPU
            yield
    finally:
        F.scaled_dot_product_attention = usual


def _fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    mask = None if attn_mask is None else attn_mask.detach()
    kernel = _aten._scaled_dot_product_flash_attention_for_cpu
    attended: Tensor = kernel(query, key, value, 0.0, is_causal, attn_mask=mask, scale=scale)[0]
    return attended


def _attention_flops(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return int(flop_counter.sdpa_flop_count(query, _with_heads(key, query), _with_heads(value, query)))


def _attention_backward_flops(
    grad: Any, query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any
) -> int:
    key, value = _with_heads(key, query), _with_heads(value, query)
    return int(flop_counter.sdpa_backward_flop_count(grad, query, key, value))


def _with_heads(shape: Any, query: Any) -> Any:
    """Keys and values of fewer heads are multiplied as often as queries have heads."""
    return (*shape[:-3], query[-3], *shape[-2:])


# torch counts the attention kernels of GPUs only; from shapes.
CPU_ATTENTION: dict[Any, Any] = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}
_FLOPS: dict[Any, Any] = {
    **flop_counter.flop_registry,
    **{kernel: flop_counter.shape_wrapper(count) for kernel, count in CPU_ATTENTION.items()},
}


def _ctc(log_probs: Tensor, targets: Tensor, lengths: Tensor, target_lengths: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    """CTC's losses (A,) and what backward keeps (A, T, 2 N + 1), of which torch knows no shapes."""
    steps, clips, _classes = log_probs.shape
    return log_probs.new_empty(clips), log_probs.new_empty(clips, steps, 2 * int(target_lengths.max()) + 1)


_CTC: dict[Any, Callable[..., Any]] = {
    _aten._ctc_loss.Tensor: _ctc,
    _aten._ctc_loss_backward.Tensor: lambda grad, log_probs, *_: torch.empty_like(log_probs),
}


def _places(index: Tensor | None) -> Sequence[Tensor | None]:
    """An index by a mask of known values, as the places where it is true: how many is part of the shape."""
    known = index is not None and index.dtype == torch.bool and not isinstance(index, FakeTensor)
    return index.nonzero().unbind(1) if known and index is not None else [index]


def _unknown(leaf: Any) -> bool:
    return isinstance(leaf, FakeTensor) and not leaf.is_floating_point()


def _guess(func: Any, out: Tensor) -> Tensor:
    """Returns numbers in place of those that only real features would have given.

    argmax gives a new class every `_RUN` places, as if speech were heard; a comparison is true; all else is 0.

        best class   0 0 0 0 1 1 1 1 2 2 ...
    """
    if "argmax" in str(func) and out.dim():
        size = out.shape[-1]
        return (torch.arange(size) // _RUN).expand(out.shape).contiguous()
    return torch.full(out.shape, int(out.dtype == torch.bool), dtype=out.dtype)

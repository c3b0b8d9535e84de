"""Processes that train together: ranks from torchrun's environment, DDP or FSDP2, and small talk between ranks.

Gradients travel over the default group (NCCL on GPUs, gloo on CPUs). Two more gloo groups carry JSON between ranks:
`talk` for the main thread (token counts, decisions), `saving` for the thread that writes checkpoints. Their
collectives would get mixed up in one group, and neither wants a GPU.
"""

import contextlib
import functools
import inspect
import itertools
import json
import os
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from sonant.errors import TrainingError
from sonant.models.quantized import is_quantized

Parallel = Literal["auto", "none", "ddp", "fsdp2"]
PATIENCE = timedelta(hours=4)  # how long the other ranks wait while rank 0 validates or saves
_JOINED = itertools.count()  # how often this process has joined the others: as often as each of them


@dataclass(frozen=True)
class Ranks:
    """Who we are among the processes of a run."""

    device: torch.device
    rank: int = 0
    world_size: int = 1
    talk: dist.ProcessGroup | None = None
    saving: dist.ProcessGroup | None = None


@contextlib.contextmanager
def joined(device: Literal["auto", "cpu", "cuda"]) -> Iterator[Ranks]:
    """Yields this process's ranks; joins the group torchrun prepared and leaves it at the end.

    A command of several stages joins several times; all ranks do so equally often.
    """
    cuda = torch.cuda.is_available() if device == "auto" else device == "cuda"
    if cuda and not torch.cuda.is_available():
        raise TrainingError("device cuda was asked for, but torch sees no GPU; use device auto or cpu")
    where = own_gpu() if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(where)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 and not dist.is_initialized():
        yield Ranks(where)
        return
    ours = not dist.is_initialized()
    if ours:
        store, rank, world_size = _meeting()
        # The store outlives the group: a second one would read the addresses of the first, and wait for the dead.
        place = PrefixStore(f"sonant {next(_JOINED)}", store)
        dist.init_process_group("nccl" if cuda else "gloo", store=place, rank=rank, world_size=world_size)
    groups = [dist.new_group(backend="gloo", timeout=PATIENCE) for _ in range(2)]
    try:
        yield Ranks(where, dist.get_rank(), dist.get_world_size(), groups[0], groups[1])
    finally:
        if ours:
            dist.destroy_process_group()


@functools.cache
def _meeting() -> tuple[Store, int, int]:
    """Where the processes of torchrun meet, this one's rank, and how many there are."""
    return next(rendezvous("env://"))


def own_gpu() -> torch.device:
    """Returns this process's GPU among those of its machine."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def take_gpu(device: Literal["auto", "cpu", "cuda"]) -> None:
    """Makes this process's own GPU the one that is meant where none is named: a quantised LLM is loaded there."""
    if device != "cpu" and torch.cuda.is_available():
        torch.cuda.set_device(own_gpu())


def led(act: Callable[[], None]) -> None:
    """Runs `act` on rank 0 while the others wait: what it writes they may read then. Its Exception is raised on all."""
    with joined("cpu") as ranks:
        on_rank_zero(act, ranks=ranks, group=ranks.talk)


def leads() -> bool:
    """Returns whether this process is the one that writes and speaks: rank 0 of torchrun, or alone."""
    return os.environ.get("RANK", "0") == "0"


def check_world_size(world_size: int, *, micro_batches: int) -> None:
    """Returns if each rank can have equally many of a step's micro-batches. Raises: TrainingError with the sizes."""
    if micro_batches % world_size:
        fit = [str(n) for n in range(1, micro_batches + 1) if micro_batches % n == 0]
        raise TrainingError(
            f"{world_size} processes cannot share the {micro_batches} micro-batches of a step evenly; "
            f"start {', '.join(fit)} processes or change the number of micro-batches"
        )


def gather_json(value: Any, *, group: dist.ProcessGroup | None) -> list[Any]:
    """Returns the values of all ranks, in rank order; JSON, never pickle. One process: [value]."""
    if group is None:
        return [value]
    raw = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size(group))]
    dist.all_gather(sizes, torch.tensor([raw.numel()]), group=group)
    longest = max(int(size) for size in sizes)
    texts = [torch.zeros(longest, dtype=torch.uint8) for _ in sizes]
    dist.all_gather(texts, nn.functional.pad(raw, (0, longest - raw.numel())), group=group)
    return [json.loads(bytes(text[: int(n)].tolist())) for text, n in zip(texts, sizes, strict=True)]


def on_each_rank(act: Callable[[], Any], *, group: dist.ProcessGroup | None) -> list[Any]:
    """Returns the JSON values of `act` of all ranks, in rank order; an Exception of any rank is raised on all."""
    value, error = None, None
    try:
        value = act()
    except Exception as caught:
        error = caught
    told = gather_json([value, None if error is None else str(error)], group=group)
    if error is not None:
        raise error
    for rank, (_, message) in enumerate(told):
        if message is not None:
            raise TrainingError(f"rank {rank} stopped: {message}")
    return [value for value, _ in told]


def on_rank_zero(act: Callable[[], Any], *, ranks: Ranks, group: dist.ProcessGroup | None) -> Any:
    """Returns on every rank the JSON value of `act`, which runs on rank 0 only; its Exception is raised on all."""
    return on_each_rank(act if ranks.rank == 0 else lambda: None, group=group)[0]


def refuse_sharding(*, quantized: bool) -> None:
    """Raises TrainingError, for an LLM that is `quantized`."""
    if quantized:
        raise TrainingError("train.parallel=fsdp2 cannot shard a quantised LLM (model.llm.quantize); use ddp")


def parallelize(module: nn.Module, *, layers_of: nn.Module, how: Parallel, ranks: Ranks) -> nn.Module:
    """Returns `module` on its device, ready to train with the other ranks.

    none:  as it is (always with one process).
    ddp:   every rank holds everything, gradients are averaged; frozen parameters take no part.
    fsdp2: parameters, gradients and optimiser state are sharded; each layer of `layers_of.llm` (or of `layers_of`) is
           gathered on its own, the rest together.

    Ranks must exchange the same gradients in the same order, whatever their micro-batches hold: a trained parameter
    takes part in each forward or in none (a head that only another recipe uses), and what goes into an LLM layer needs
    a gradient on all ranks or on none.

    Raises: TrainingError if `how` is not for so many processes, or not for what `layers_of.llm` is.
    """
    if ranks.world_size == 1 or how == "none":
        if ranks.world_size > 1:
            raise TrainingError(f"parallel none, but {ranks.world_size} processes were started; use ddp or fsdp2")
        return module.to(ranks.device)
    if how != "fsdp2":
        # Batch-norm statistics are averaged by `average_buffers`. Newer torch has another word for it.
        known = inspect.signature(DistributedDataParallel).parameters
        options: dict[str, Any] = {
            "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False
        }
        # Parameters that rest would be waited for; those that look for them say once that there were none.
        warnings.filterwarnings("ignore", "find_unused_parameters=True was specified")
        return DistributedDataParallel(
            module.to(ranks.device), gradient_as_bucket_view=True, find_unused_parameters=True, **options
        )
    refuse_sharding(quantized=is_quantized(getattr(layers_of, "llm", layers_of)))
    mesh = init_device_mesh(ranks.device.type, (ranks.world_size,))
    for layer in llm_layers(layers_of):
        fully_shard(layer, mesh=mesh)
    fully_shard(module, mesh=mesh)
    return module.to(ranks.device)


def llm_layers(model: nn.Module) -> list[nn.Module]:
    """Returns the layers that FSDP2 gathers one by one: the LLM's.

    Only those: a speech encoder may drop layers at random, and ranks that gather different layers would hang.
    """
    root = getattr(model, "llm", model)
    lists = [m for name, m in root.named_modules() if name.split(".")[-1] == "layers" and isinstance(m, nn.ModuleList)]
    return list(lists[0]) if lists else []


@contextlib.contextmanager
def gradients_shared(module: nn.Module, *, when: bool) -> Iterator[None]:
    """Within, a backward pass exchanges gradients with the other ranks only `when` it is the step's last.

    FSDP2 does so in each: until it has, every rank holds the gradients of all.
    """
    if isinstance(module, DistributedDataParallel) and not when:
        with module.no_sync():
            yield
    else:
        yield


@contextlib.contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Within, every rank holds whole plain parameters, so that rank 0 alone may generate with the model or save it."""
    sharded = [m for m in module.modules() if isinstance(m, FSDPModule)]
    for part in sharded:
        part.unshard()
    # FSDP2 works through hooks: left in, they would count these forwards among those of training, on this rank only,
    # and shard everything again before `state_dict` reads it.
    hooks: list[tuple[nn.Module, str]]
    hooks = [(m, name) for m in sharded for name in ("_forward_pre_hooks", "_forward_hooks")]
    hooks += [(m, "_state_dict_pre_hooks") for m in module.modules()] if sharded else []
    before = [getattr(m, name) for m, name in hooks]
    for m, name in hooks:
        setattr(m, name, OrderedDict())
    try:
        yield
    finally:
        for (m, name), hook in zip(hooks, before, strict=True):
            setattr(m, name, hook)
        for part in sharded:
            part.reshard()


def running_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Returns the persistent floating-point buffers by name: batch-norm statistics and the like."""
    saved = model.state_dict().keys()
    return {name: b for name, b in model.named_buffers() if name in saved and b.is_floating_point()}


def average_buffers(buffers: dict[str, Tensor], *, ranks: Ranks) -> None:
    """Replaces each buffer by its mean over the ranks, in one message."""
    if ranks.world_size == 1 or not buffers:
        return
    flat = torch.cat([b.detach().float().flatten() for b in buffers.values()])
    dist.all_reduce(flat)
    flat /= ranks.world_size
    sizes = [b.numel() for b in buffers.values()]
    for buffer, mean in zip(buffers.values(), flat.split(sizes), strict=True):
        buffer.copy_(mean.view_as(buffer))

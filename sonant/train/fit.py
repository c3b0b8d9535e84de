"""Will it fit? Parameters, memory and time of a training step on N devices of M bytes, part by part.

weights      every parameter and buffer, at its type           sharded with fsdp2
             (what a quantised LLM rounds: in 8 or 4 bits)
gradients    of what trains                                    sharded with fsdp2
optimiser    AdamW's two states of what trains, and its mean    sharded with fsdp2
             if weights are averaged
held         most that forward and backward hold beside them, followed through the real code (`dry_step`)
batch        what is heard and how answers sound
gathered     fsdp2: what is whole on every device for a while
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import Tensor, nn

from sonant.batch import Batch
from sonant.models.build import SpeechLMConfig
from sonant.models.quantized import quantized_bytes
from sonant.models.speech_lm import SpeechLM
from sonant.train.distributed import llm_layers, refuse_sharding
from sonant.train.dry_run import GRADIENTS, HEAD, Call, DryStep, dry_step
from sonant.train.machine import Machine
from sonant.train.trainer import Loss, TrainConfig

BATCH = "batch"  # features and mels, on the device before a step begins
_ADAM_STATES = 2  # numbers of the optimiser for each trained parameter
_GPU_SHARE = 0.95  # of a device's memory: the rest is the driver's, and lost between pieces
GB = 1e9


@dataclass(frozen=True)
class Devices:
    """What is trained on; memory_bytes None: as much as it takes."""

    machine: Machine
    count: int = 1
    memory_bytes: int | None = None
    kind: Literal["cpu", "gpu"] = "gpu"

    @property
    def usable_bytes(self) -> float:
        """Returns what a step may hold on each."""
        return float("inf") if self.memory_bytes is None else _GPU_SHARE * self.memory_bytes


@dataclass(frozen=True)
class PartFit:
    """One part of a model on one device. parameters and trained are of the whole model, bytes of a device."""

    part: str
    parameters: int
    trained: int
    weight_bytes: int
    optimizer_bytes: int
    held_bytes: int  # at the moment when most is held; of the row "gradients": those that exist then
    flops: int  # of all micro-batches of a device in a step
    seconds: float


@dataclass(frozen=True)
class Fit:
    """A step on every device: what it holds and how long it takes."""

    parts: tuple[PartFit, ...]
    gathered_bytes: int
    micro_batches: int  # of a device
    rows: int  # of a micro-batch
    positions: int  # tokens and frames of a row
    step_s: float
    audio_s: float  # of all devices in a step
    tokens: int
    calibrated: bool

    @property
    def memory_bytes(self) -> int:
        """Returns the most that a device holds."""
        return self.gathered_bytes + sum(p.weight_bytes + p.optimizer_bytes + p.held_bytes for p in self.parts)

    @property
    def audio_s_per_s(self) -> float:
        """Returns seconds of audio trained in a second."""
        return self.audio_s / self.step_s

    @property
    def tokens_per_s(self) -> float:
        """Returns positions of the LLM trained in a second."""
        return self.tokens / self.step_s

    def as_json(self) -> dict[str, Any]:
        """Returns the numbers as JSON values."""
        rates = {name: getattr(self, name) for name in ("memory_bytes", "audio_s_per_s", "tokens_per_s")}
        return asdict(self) | rates


@dataclass(frozen=True, eq=False)
class Step:
    """What a device is to do: micro-batches of `rows` rows of `positions` tokens and frames, so many a step."""

    model: nn.Module  # of shapes
    loss: Loss
    batch: Batch
    positions: int
    micro_batches: int  # of one device
    train: TrainConfig


def fit_step(step: Step, devices: Devices) -> Fit:
    """Returns what a step takes on each device.

    Time is that of the operations, one after another, and of AdamW; exchange between devices is not in it, and waiting
    for data neither.
    """
    sharded = devices.count > 1 and step.train.parallel == "fsdp2"
    # Where gradients live on from an earlier micro-batch or in buckets (DDP), backward begins with all of them.
    kept = step.micro_batches > 1 or devices.count > 1
    dry = dry_step(
        step.model,
        step.loss,
        [step.batch] * (2 if kept else 1),
        parts=part_of,
        bf16=step.train.precision == "bf16",
        fused_attention=devices.kind == "gpu",
    )
    times = step.micro_batches / (2 if kept else 1)
    shards = devices.count if sharded else 1
    rounded = _rounded(step.model)
    refuse_sharding(quantized=sharded and bool(rounded))
    parts = _parts(step, dry, rounded, devices=devices, times=times, shards=shards)
    update_s = _update_seconds(sum(p.optimizer_bytes for p in parts), devices.machine)
    tokens = step.batch.num_rows * step.positions
    whole = step.micro_batches * devices.count
    return Fit(
        parts=parts,
        gathered_bytes=_gathered(step.model) if sharded else 0,
        micro_batches=step.micro_batches,
        rows=step.batch.num_rows,
        positions=step.positions,
        step_s=sum(p.seconds for p in parts) + update_s,
        audio_s=step.batch.audio_duration_s * whole,
        tokens=tokens * whole,
        calibrated=devices.machine.calibrated,
    )


def part_of(name: str) -> str:
    """Returns the part of a model that a module or parameter of this name belongs to.

    The LLM's LoRA and its last layer, which makes logits, are parts of their own.
    """
    first, *rest = name.split(".")
    if "lora_" in name:
        return "lora"
    if first == "encoders" and rest:
        return f"encoders.{rest[0]}"
    if not first or (first == "llm" and rest[:1] in (["lm_head"], ["embed_out"])):
        return HEAD
    return first


def longest_by_memory(memory_of: Callable[[float], int], *, usable_bytes: float, first: float, most: float) -> float:
    """Returns the largest value up to `most` whose memory is usable, 0.0 if none is: by the parabola through three.

    Memory grows with a row's length and, by attention, with its square; nothing larger than 3 `first` is tried, since
    masks of long rows are real.
    """
    step = min(first, most / 3)
    m1, m2, m3 = (float(memory_of(n * step)) for n in (1, 2, 3))
    square = max(0.0, (m3 - 2 * m2 + m1) / 2)  # of the number of steps
    linear = (m3 - m1) / 2 - 4 * square
    at_zero = m1 - linear - square
    room = usable_bytes - at_zero
    if room <= 0:
        return 0.0
    if square > 1e-6 * abs(linear):
        steps = (math.sqrt(linear**2 + 4 * square * room) - linear) / (2 * square)
    else:
        steps = room / linear if linear > 0 else math.inf
    return min(most, steps * step)


def largest_that_fits(fits: Callable[[float], bool], *, first: float, most: float, within: float = 0.03) -> float:
    """Returns the largest value up to `most` that fits, to a share `within`; 0.0 if not a hundredth of `first` does.

    What fits must fit at every smaller value.
    """
    low, high = 0.0, first
    while high < most and fits(high):
        low, high = high, 2 * high
    high = min(high, most)
    if high == most and low < most and fits(most):
        return most
    while high - low > within * high and high > 0.01 * first:
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _parts(
    step: Step, dry: DryStep, rounded: Mapping[str, int], *, devices: Devices, times: float, shards: int
) -> tuple[PartFit, ...]:
    weights, trained, weight_bytes, states = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    gradients, copies = 0, _ADAM_STATES + (step.train.average_last > 0)
    for name, parameter in step.model.named_parameters():
        part = part_of(name)
        weights[part] += parameter.numel()
        weight_bytes[part] += -(-rounded.get(name, _bytes(parameter)) // shards)
        if parameter.requires_grad:
            trained[part] += parameter.numel()
            gradients += _bytes(parameter)
            states[part] += -(-copies * _bytes(parameter) // shards)
    for name, buffer in _own_buffers(step.model):
        weight_bytes[part_of(name)] += _bytes(buffer)
    held = Counter(dry.peak)
    # The update comes when all gradients are there, and little else.
    if sum(held.values()) < gradients:
        held = Counter({GRADIENTS: gradients})
    held[BATCH] = _batch_bytes(step.batch)
    held[GRADIENTS] = -(-held[GRADIENTS] // shards)
    names = list(dict.fromkeys([*weights, *dry.calls, *held]))
    return tuple(
        PartFit(
            name,
            weights[name],
            trained[name],
            weight_bytes[name],
            states[name],
            held[name],
            round(times * dry.flops.get(name, 0)),
            times * seconds_of(dry.calls.get(name, Counter()), devices.machine),
        )
        for name in names
    )


def _rounded(model: nn.Module) -> Mapping[str, int]:
    """Name -> bytes of what training would round as it loads the LLM; a plan's shapes have the type before."""
    if not isinstance(model, SpeechLM) or not isinstance(model.config, SpeechLMConfig):
        return {}
    how = model.config.llm.quantize
    return {} if how is None else {f"llm.{name}": n for name, n in quantized_bytes(model.llm, how).items()}


def seconds_of(calls: Mapping[Call, int], machine: Machine) -> float:
    """Returns how long the operations take, one after another."""
    return sum(n * machine.seconds(call) for call, n in calls.items())


def _update_seconds(optimizer_bytes: int, machine: Machine) -> float:
    """AdamW reads weight, gradient and both states and writes all but the gradient; the norm reads the gradient."""
    return 4 * optimizer_bytes / machine.bytes_per_s


def _gathered(model: nn.Module) -> int:
    """What fsdp2 makes whole: all that is no LLM layer, from forward to the end, and two layers, one ahead."""
    layers = llm_layers(model)
    inside = {id(p) for layer in layers for p in layer.parameters()}
    rest = sum(_bytes(p) for p in model.parameters() if id(p) not in inside)
    sizes = sorted(sum(map(_bytes, layer.parameters())) for layer in layers)
    return rest + sum(sizes[-2:])


def _own_buffers(model: nn.Module) -> Iterable[tuple[str, Tensor]]:
    """Buffers that are no parameter under another name, each once."""
    seen = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    for name, buffer in model.named_buffers():
        if buffer.untyped_storage()._cdata not in seen:
            seen.add(buffer.untyped_storage()._cdata)
            yield name, buffer


def _batch_bytes(batch: Batch) -> int:
    sounds = [] if batch.spoken is None else [batch.spoken.mels]
    return sum(map(_bytes, [*batch.features.values(), *sounds]))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()

"""One training step at 1 B and 3 B parameters, random weights: share of the GPU's arithmetic, tokens/s, memory.

A Whisper-small encoder of 12 layers, an MLP adapter and the LLM with LoRA on every linear layer; encoder, adapter and
LoRA train, all rows are equally long. FLOPs are those of the step without recomputation (MFU counts useful work only),
over the product of the largest matrices this machine multiplies in a second, measured here. `python -m bench.gpu tiny`
takes the same road at toy size, also on a CPU.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.figure import Figure, reported, show
from sonant.audio.features import FeatureSpec
from sonant.batch import Batch
from sonant.models.build import SpeechLMConfig, build_speech_lm
from sonant.models.freeze import FreezePlan, GroupConfig
from sonant.models.losses import TokenLoss
from sonant.models.speech_lm import SpeechLM
from sonant.train.optim import clip_gradients, make_optimizer, name_groups, trained
from sonant.train.recompute import recompute_layers


@dataclass(frozen=True)
class Size:
    """An LLM, the rows of a micro-batch and what each holds."""

    llm: Mapping[str, int]
    encoder: Mapping[str, int]
    rows: int = 16
    text_tokens: int = 64
    clip_s: float = 15.0

    @property
    def architecture(self) -> dict[str, Any]:
        """The LLM's settings."""
        ids = {f"{name}_token_id": None for name in ("pad", "bos", "eos")}
        return {"model_type": "llama", **self.llm, **ids, "max_position_embeddings": 4096}


def _llm(width: int, ffn: int, layers: int, heads: int, keys: int, vocabulary: int) -> dict[str, int]:
    shape = {"hidden_size": width, "intermediate_size": ffn, "num_hidden_layers": layers, "vocab_size": vocabulary}
    return {**shape, "num_attention_heads": heads, "num_key_value_heads": keys, "head_dim": width // heads}


def _whisper(width: int, layers: int) -> dict[str, int]:
    heads = max(1, width // 64)
    return {"d_model": width, "encoder_layers": layers, "encoder_attention_heads": heads, "encoder_ffn_dim": 4 * width}


SIZES = {
    "1 B": Size(_llm(2048, 8192, 16, 32, 8, 128_256), _whisper(768, 12)),  # as Llama 3.2 1 B and 3 B
    "3 B": Size(_llm(3072, 8192, 28, 24, 8, 128_256), _whisper(768, 12)),
    "tiny": Size(_llm(64, 128, 2, 4, 2, 200), _whisper(64, 2), rows=2, text_tokens=12, clip_s=1.0),
}
STEPS, WARMUP = 10, 3


def measure() -> list[Figure]:
    if not torch.cuda.is_available():
        return [Figure("MFU, tokens/s and memory at 1 B and 3 B", "report", "no GPU here: not measured")]
    return [figure for name in ("1 B", "3 B") for how in ("none", "layers") for figure in step_of(name, how=how)]


def step_of(name: str, *, how: str) -> list[Figure]:
    """Returns the figures of one size, its layers keeping their insides (`none`) or computing them again (`layers`)."""
    size = SIZES[name]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, groups = _model(size, device)
    batch, loss = _batch(size, size.rows).to(device), TokenLoss()

    def forward_backward(rows: Batch) -> None:
        with torch.autocast(device.type, torch.bfloat16):
            total = loss(model, rows).total
        (total / loss.weight(rows)).backward()

    with FlopCounterMode(display=False) as counter:
        forward_backward(_batch(size, 1).to(device))
    flops = counter.get_total_flops() * size.rows  # rows are alike
    if how == "layers":
        recompute_layers(model)
    optimizer = make_optimizer(model, name_groups(model, groups, weight_decay=0.0), betas=(0.9, 0.98))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        forward_backward(batch)
        clip_gradients(trained(optimizer), max_norm=1.0)
        optimizer.step()

    seconds = _seconds(step, device)
    peak = _gemm_flops_per_s(device, 8192 if device.type == "cuda" else 256)
    tokens = size.rows * (size.text_tokens + model.audio_tokens(size.clip_s))
    what = f"{name} ({sum(p.numel() for p in model.parameters()) / 1e9:.2f} B in all), checkpointing {how}: "
    memory = (
        [reported(what + "memory", [torch.cuda.max_memory_allocated() / 1e9], "GB")] if device.type == "cuda" else []
    )
    return [
        reported(what + "MFU", [100 * flops / seconds / peak], f"% of {peak / 1e12:.3g} TFLOP/s measured"),
        reported(what + "LLM positions", [tokens / seconds], "tokens/s"),
        reported(what + "audio", [size.rows * size.clip_s / seconds], "audio-s/s"),
        *memory,
    ]


def _model(size: Size, device: torch.device) -> tuple[SpeechLM, list[dict[str, Any]]]:
    torch.manual_seed(0)
    config = {
        "encoders": [{"kind": "whisper", "architecture": {**size.encoder, "num_mel_bins": 80}}],
        "adapter": {"kind": "stack_mlp", "stack": 4},
        "llm": {"architecture": size.architecture, "dtype": "bfloat16"},
        "lora": {"rank": 32},
    }
    with device:
        model = build_speech_lm(SpeechLMConfig.model_validate(config)).train()
    patterns = {"encoder": "encoders.*", "adapter": "adapter.*", "lora": "llm.*lora_*"}
    return model, FreezePlan({n: GroupConfig(patterns=(p,), lr=1e-4) for n, p in patterns.items()}).apply(model)


def _batch(size: Size, rows: int) -> Batch:
    spec, length = FeatureSpec.whisper(num_mels=80), size.text_tokens
    frames = round(100 * size.clip_s)
    clips, dice = torch.arange(rows), torch.Generator().manual_seed(0)
    tokens = torch.randint(1, size.llm["vocab_size"], (rows, length), generator=dice)
    return Batch(
        ids=tuple(map(str, range(rows))),
        tasks=("asr",) * rows,
        token_ids=tokens,
        token_lengths=torch.full((rows,), length),
        loss_mask=(torch.arange(length) >= length // 2).float().repeat(rows, 1),
        prompt_ids=tokens[:, :1],
        prompt_lengths=torch.ones_like(clips),
        audio_row=clips,
        audio_position=torch.full((rows,), 2),
        transcript_ids=torch.zeros(rows, 0, dtype=torch.int64),
        transcript_lengths=torch.zeros_like(clips),
        features={spec: torch.randn(rows, frames, 80, generator=dice)},
        feature_lengths={spec: torch.full((rows,), frames)},
        audio_duration_s=rows * size.clip_s,
    )


def _seconds(step: Callable[[], None], device: torch.device) -> float:
    for _ in range(WARMUP):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    for _ in range(STEPS):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / STEPS


def _gemm_flops_per_s(device: torch.device, size: int) -> float:
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    out = torch.empty_like(a)

    def product() -> None:
        torch.mm(a, b, out=out)

    return 2 * size**3 / _seconds(product, device)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("size", choices=SIZES)
    name = parser.parse_args().size
    show(f"gpu_{name.replace(' ', '')}", [figure for how in ("none", "layers") for figure in step_of(name, how=how)])


if __name__ == "__main__":
    main()

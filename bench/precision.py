"""What a step costs in each precision, and whether the loss goes the same way over 500 steps.

BENCH_PEERS=FOLDER names the folder of the peers' harness; the model is theirs: an encoder of Whisper's class, an
adapter, LoRA of rank 16, all trained. Noise is what another order of the same rows changes in fp32.
"""

import json
import os
import shutil
import statistics
import time
from itertools import islice
from pathlib import Path

import torch

from bench.figure import RUNS, Figure, at_most, reported
from bench.peers_ours import TOKENS, build, rows_of
from sonant.chat.tokenizer import ChatTokenizer
from sonant.data.loader import BatchStream, LoaderConfig
from sonant.data.manifest import write
from sonant.data.plan import PlanConfig
from sonant.data.training_set import DataConfig, Ears, make_stream
from sonant.models.freeze import FreezePlan, GroupConfig
from sonant.models.losses import TokenLoss
from sonant.models.matmul import fast_matmul
from sonant.models.speech_lm import SpeechLM
from sonant.train.trainer import TrainConfig, train

FOLDER = RUNS / "precision"
STEPS, LAST, TIMED = 500, 100, 12
ARMS = {
    "fp32": {"matmul": "highest"},
    "fp32, another order": {"matmul": "highest"},
    "fp32, fast where exact": {"matmul": "auto"},
    "bf16 by autocast": {"matmul": "auto", "precision": "bf16"},
}


def measure() -> list[Figure]:
    if "BENCH_PEERS" not in os.environ:
        return [Figure("precision", "BENCH_PEERS: folder of the peers' harness", "it is not set")]
    data = Path(os.environ["BENCH_PEERS"]) / "data"
    shutil.rmtree(FOLDER, ignore_errors=True)
    write(FOLDER / "clips.jsonl", rows_of(data))
    runs = {name: _train(data, name, order=int("order" in name)) for name in ARMS}
    losses = {name: statistics.mean(curve[-LAST:]) for name, (curve, _) in runs.items()}
    apart = {name: 100 * abs(loss / losses["fp32"] - 1) for name, loss in losses.items()}
    noise = apart["fp32, another order"]
    what = f"mean loss of the last {LAST} of {STEPS} steps against fp32"
    return [
        *[reported(f"{name}: CPU time of a step", [1000 * cpu_s], "ms") for name, (_, cpu_s) in runs.items()],
        reported(
            "all weights in bf16, forward and backward alone, no fp32 masters", [1000 * _bf16_weights(data)], "ms"
        ),
        reported(f"{what}: another order", [noise], "%"),
        *[at_most(f"{what}: {name}", noise, [apart[name]], "%") for name in list(ARMS)[2:]],
    ]


def _train(data: Path, name: str, *, order: int) -> tuple[list[float], float]:
    """Loss of each step and CPU seconds of one, loading included."""
    model = build(data, "whisper")
    groups = FreezePlan(
        {n: GroupConfig(patterns=(p,), lr=1e-4) for n, p in (("ears", "encoders.*"), ("adapter", "adapter.*"))}
        | {"lora": GroupConfig(patterns=("llm.*lora_*",), lr=1e-4)}
    ).apply(model)
    config = TrainConfig.model_validate(
        {"steps": STEPS, "schedule": "constant", "save_every": STEPS, "log_every": STEPS, **ARMS[name]}
    )
    run = FOLDER / name.replace(", ", "_").replace(" ", "_")
    began = time.process_time()
    train(model, _stream(data, model, order=order), loss=TokenLoss(), config=config, groups=groups, run_dir=run)
    cpu_s = (time.process_time() - began) / STEPS
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    curve = [line["loss"] for line in lines if "loss" in line]
    assert len(curve) == STEPS, f"{name} was stopped after {len(curve)} steps"
    return curve, cpu_s


def _bf16_weights(data: Path) -> float:
    """CPU seconds of a forward and backward pass: what holding weights in bf16 could win at most."""
    model, loss = build(data, "whisper").to(torch.bfloat16).train(), TokenLoss()
    steps = _stream(data, model, order=0).steps()
    batches = [batch for step in islice(steps, TIMED) for batch in step.batches]
    seconds = []
    with fast_matmul():
        for _ in range(3):
            began = time.process_time()
            for batch in batches:
                (loss(model, batch).total / loss.weight(batch)).backward()
                model.zero_grad()
            seconds.append((time.process_time() - began) / len(batches))
    return min(seconds)


def _stream(data: Path, model: SpeechLM, *, order: int) -> BatchStream:
    settings = DataConfig.model_validate(
        {
            "root": str(FOLDER),
            "speech": {"clips": {"manifest": "clips.jsonl"}},
            "plan": PlanConfig(token_budget=TOKENS, seed=order),
            "loader": LoaderConfig(workers=1),
        }
    )
    ears = Ears(model.feature_specs, model.audio_tokens, positions=model.positions)
    return make_stream(settings, ChatTokenizer.from_folder(data / "llm"), ears)

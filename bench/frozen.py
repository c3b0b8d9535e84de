"""Training with a frozen encoder on the peers' clips: run in every step, cached as it goes, read in later epochs.

BENCH_PEERS=FOLDER names the folder of the peers' harness: clips, LLM, results. The model is theirs: a frozen
encoder of 3.8M parameters, an adapter that stacks four frames, LoRA of rank 16.
"""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from bench.figure import RUNS, Figure, at_least, at_most, reported
from bench.peers_ours import REPEATS, STEPS, TOKENS, WARMUP, build, rates, rows_of
from sonant.audio.features import FeatureSpec
from sonant.batch import make_example
from sonant.chat.tokenizer import ChatTokenizer
from sonant.data.frame_shards import Precision
from sonant.data.manifest import write
from sonant.data.training_set import DataConfig, Ears, make_stream
from sonant.models.build import SpeechLMConfig
from sonant.models.freeze import FreezePlan, GroupConfig
from sonant.models.losses import TokenLoss
from sonant.recipes.fitting import ModelSettings, kept
from sonant.recipes.staged import frames_on_disk
from sonant.train.trainer import TrainConfig, train

FOLDER = RUNS / "frozen"
GROUPS = {
    "adapter": GroupConfig(patterns=("adapter.*",), lr=1e-4),
    "lora": GroupConfig(patterns=("llm.*lora_*",), lr=1e-4),
}
PEER = "hf_cached_grouped"


def measure() -> list[Figure]:
    if "BENCH_PEERS" not in os.environ:
        return [Figure("training with a frozen encoder", "BENCH_PEERS: folder of the peers' harness", "it is not set")]
    peers = Path(os.environ["BENCH_PEERS"])
    shutil.rmtree(FOLDER, ignore_errors=True)
    write(FOLDER / "clips.jsonl", rows_of(peers / "data"))
    alone = _train(peers, "alone", epochs=2)
    half = _train(peers, "half", epochs=2, frames="half")
    whole = _train(peers, "whole", epochs=2, frames="whole", precision="float32")
    later = _train(peers, "later", steps=REPEATS * STEPS + WARMUP, frames="half")[WARMUP:]
    speed, middle = rates(later, STEPS), len(half) // 2
    reached = speed["audio_s_per_s"]["median"]
    figures = [
        reported("encoder frozen, run in every step", [_speed(alone[middle:])], "audio-s/s"),
        reported("first epoch, which fills the cache", [_speed(half[:middle])], "audio-s/s"),
        reported("later epochs, frames from the cache", [reached], "audio-s/s"),
        at_most("later epochs: what the loop waits for data", 3, [100 * speed["data_share"]], "% of a step"),
        at_most("losses, float16 frames against no cache, largest difference", 0.5, [_apart(half, alone)], "%"),
        at_most("losses, float32 frames against no cache, largest difference", 0.01, [_apart(whole, alone)], "%"),
        *_data(peers),
    ]
    theirs = peers / "results" / f"{PEER}.json"
    if theirs.exists():
        peer = json.loads(theirs.read_text())["train"]["audio_s_per_s"]["median"]
        figures.append(at_least("against the plain loop, cached and grouped", 1.6, [reached / peer], "x"))
    return figures


def _train(
    peers: Path,
    name: str,
    *,
    epochs: int = 0,
    steps: int = 0,
    frames: str | None = None,
    precision: Precision = "float16",
) -> list[dict[str, Any]]:
    """The log's lines of a run of so many epochs or steps."""
    model = build(peers / "data", "whisper")
    assert isinstance(model.config, SpeechLMConfig)
    settings = ModelSettings(model=model.config, frames=frames, frames_precision=precision)
    cached = frames_on_disk(model, settings, GROUPS, root=str(FOLDER), say=lambda text: None)
    data = DataConfig.model_validate(
        {"root": str(FOLDER), "speech": {"clips": {"manifest": "clips.jsonl"}}, "plan": {"token_budget": TOKENS}}
    )
    ears = Ears(model.specs_given(cached), model.audio_tokens, cached=cached, positions=model.positions)
    stream = make_stream(data, ChatTokenizer.from_folder(peers / "data" / "llm"), ears)
    steps = steps or sum(stream.plan.epoch(epoch).num_steps for epoch in range(epochs))
    config = TrainConfig(steps=steps, schedule="constant", save_every=steps, log_every=steps)
    groups = FreezePlan(GROUPS).apply(model)
    with kept(cached):
        train(model, stream, loss=TokenLoss(), config=config, groups=groups, run_dir=FOLDER / name)
    return [json.loads(line) for line in (FOLDER / name / "log.jsonl").read_text().splitlines()]


def _speed(lines: list[dict[str, Any]]) -> float:
    return sum(x["audio_s_per_s"] * x["seconds"] for x in lines) / sum(x["seconds"] for x in lines)


def _apart(some: list[dict[str, Any]], others: list[dict[str, Any]]) -> float:
    return max(100 * abs(a["loss"] - b["loss"]) / b["loss"] for a, b in zip(some, others, strict=False))


def _data(peers: Path) -> list[Figure]:
    """CPU time of making rows, beside what the peers' feature extractor takes for its part, padded to the longest."""
    import soundfile
    from transformers import WhisperFeatureExtractor

    rows = sorted(rows_of(peers / "data"), key=lambda row: row.audio_parts[0].duration_s or 0)
    total_s = sum(row.audio_parts[0].duration_s or 0 for row in rows)
    extractor, tokenizer = WhisperFeatureExtractor(feature_size=80), ChatTokenizer.from_folder(peers / "data" / "llm")
    paths = [str(row.audio_parts[0].path) for row in rows]

    def theirs() -> None:
        for start in range(0, len(paths), 8):
            waves = [soundfile.read(path, dtype="float32")[0] for path in paths[start : start + 8]]
            extractor(waves, sampling_rate=16_000, padding="longest", return_tensors="pt", return_attention_mask=True)

    def ours() -> None:
        for row in rows:
            make_example(row, tokenizer, [FeatureSpec.whisper()])

    return [
        at_most("rows made with Whisper's log mels, CPU", 0.3, [_cpu_ms(ours) / total_s], "ms per audio-s"),
        reported("transformers' WhisperFeatureExtractor, CPU, text not counted", [_cpu_ms(theirs) / total_s], "ms"),
    ]


def _cpu_ms(job: Any) -> float:
    """The least CPU time of five calls, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = []
    for _ in range(5):
        started = time.process_time()
        job()
        found.append(1e3 * (time.process_time() - started))
    torch.set_num_threads(threads)
    return min(found)

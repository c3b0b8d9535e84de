"""Sonant's own runs among the peers': the same clips, LLM and sizes; called by `bench.peers`, one process a run.

    python -m bench.peers_ours FOLDER RESULT.json --encoder whisper|parakeet [--frozen] [--text] [--decode 8 32]

Trains by `sonant.train.trainer.train` itself, so that a step holds all that a user's step holds: clipping, the log, the
guard against what is not finite. What each step took is read from its log. Writes RESULT.json in the form of the
peers' `common.write_result`.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from sonant.audio.features import FeatureSpec
from sonant.batch import CachedFrames, collate, make_example
from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.chat.tokenizer import ChatTokenizer
from sonant.data.manifest import write
from sonant.data.plan import PlanConfig
from sonant.data.training_set import DataConfig, Ears, SourceConfig, make_stream
from sonant.generate.engine import generate
from sonant.generate.sampling import GenerationConfig
from sonant.models.build import SpeechLMConfig, build_speech_lm
from sonant.models.freeze import FreezePlan, GroupConfig
from sonant.models.losses import TokenLoss
from sonant.models.speech_lm import SpeechLM
from sonant.recipes.fitting import ModelSettings, kept
from sonant.recipes.staged import frames_on_disk
from sonant.train import distributed
from sonant.train.trainer import TrainConfig, train

WHISPER = {
    "kind": "whisper",
    "architecture": {
        "d_model": 256,
        "encoder_layers": 4,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 1024,
        "num_mel_bins": 80,
        "dropout": 0.0,
    },
}
PARAKEET = {
    "kind": "parakeet",
    "architecture": {
        "hidden_size": 192,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 768,
        "num_mel_bins": 80,
        "subsampling_conv_channels": 64,
        "conv_kernel_size": 9,
        "dropout": 0.0,
        "dropout_positions": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "layerdrop": 0.0,
    },
}
STACK = {"whisper": 4, "parakeet": 1}  # LLM positions at AUDIO_RATE_HZ
AUDIO_RATE_HZ = 12.5
TOKENS = 800  # of a step, padding included: about 37 s of audio, as the peers' steps hold
WARMUP, STEPS, REPEATS = 6, 32, 3
DECODE_CLIPS, NEW_TOKENS = 64, 32


def rows_of(data: Path) -> list[Conversation]:
    """Returns the clips of the peers as conversations."""
    lines = [json.loads(line) for line in (data / "clips.jsonl").read_text().splitlines()]
    return [
        Conversation(
            (
                user(AudioPart(path=str(data / r["audio"]), duration_s=r["duration_s"]), r["prompt"]),
                assistant(r["text"]),
            ),
            id=r["id"],
            task="asr",
        )
        for r in lines
    ]


def text_rows_of(data: Path) -> list[Conversation]:
    """Returns the text-only rows of the peers."""
    lines = [json.loads(line) for line in (data / "text_chat.jsonl").read_text().splitlines()]
    return [Conversation((user(r["prompt"]), assistant(r["answer"])), id=r["id"], task="text") for r in lines]


def build(data: Path, encoder: str) -> SpeechLM:
    """Returns the model of the peers: encoder of 3.8M parameters, projector, the same LLM with LoRA of rank 16."""
    torch.manual_seed(0)
    config = {
        "encoders": [WHISPER if encoder == "whisper" else PARAKEET],
        "adapter": {"kind": "stack_mlp", "stack": STACK[encoder]},
        "llm": {"path": str(data / "llm")},
        "lora": {"rank": 16, "alpha": 32},
    }
    return build_speech_lm(SpeechLMConfig.model_validate(config))


def train_steps(model: SpeechLM, data: Path, run: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns the log's lines of the measured steps; with a frozen encoder those after its frames are cached."""
    if distributed.leads():
        shutil.rmtree(run, ignore_errors=True)
        write(run / "clips.jsonl", rows_of(data))
        write(run / "text.jsonl", text_rows_of(data))
    if dist.is_initialized():
        dist.barrier()
    patterns = {"adapter": ("adapter.*",), "lora": ("llm.*lora_*",)}
    if not args.frozen:
        patterns["encoder"] = ("encoders.*",)
    groups = {n: GroupConfig(patterns=p, lr=1e-4) for n, p in patterns.items()}
    cached: Mapping[FeatureSpec, CachedFrames] = {}
    if args.frozen:
        assert isinstance(model.config, SpeechLMConfig)
        settings = ModelSettings(model=model.config, frames="frames")
        cached = frames_on_disk(model, settings, groups, root=str(run), say=lambda text: None)
    trained = FreezePlan(groups).apply(model)
    stream = make_stream(
        DataConfig(
            root=str(run),
            speech={"clips": SourceConfig(manifest="clips.jsonl")},
            text={"text": SourceConfig(manifest="text.jsonl")} if args.text else {},
            text_share=0.2,
            plan=PlanConfig(token_budget=TOKENS // args.ranks, micro_batches=args.ranks),
        ),
        ChatTokenizer.from_folder(data / "llm"),
        Ears(model.specs_given(cached), model.audio_tokens, cached=cached, positions=model.positions),
    )
    first = WARMUP + (stream.plan.epoch(0).num_steps if args.frozen else 0)
    steps = first + args.steps * REPEATS
    config = TrainConfig(
        steps=steps,
        schedule="constant",
        save_every=steps,
        log_every=steps,
        betas=(0.9, 0.999),
        precision=args.precision,
        matmul=args.matmul,
    )
    with kept(cached):
        train(model, stream, loss=TokenLoss(), config=config, groups=trained, run_dir=run)
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()][first:]


def spread(values: Iterable[float]) -> dict[str, float]:
    """Returns median, smallest and largest, as the peers' harness does."""
    values = list(values)
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


def rates(lines: list[dict[str, Any]], steps: int) -> dict[str, Any]:
    """Returns the peers' `Repeats.summary` of the steps, in repeats of `steps`."""
    repeats = [lines[i : i + steps] for i in range(0, len(lines), steps)]
    audio = [sum(x["audio_s_per_s"] * x["seconds"] for x in r) / sum(x["seconds"] for x in r) for r in repeats]
    tokens = [sum(x["tokens_per_s"] * x["seconds"] for x in r) / sum(x["seconds"] for x in r) for r in repeats]
    positions = [token + AUDIO_RATE_HZ * heard for token, heard in zip(tokens, audio, strict=True)]
    return {
        "steps_per_repeat": [len(r) for r in repeats],
        "audio_s_per_step": statistics.mean(x["audio_s_per_s"] * x["seconds"] for x in lines),
        "audio_s_per_s": spread(audio),
        "positions_per_s": spread(positions),  # of the LLM: text and audio
        "ms_per_step": spread(1e3 * statistics.median(x["seconds"] for x in r) for r in repeats),
        "data_share": sum(x["data_s"] for x in lines) / sum(x["seconds"] for x in lines),
        "first_loss": lines[0]["loss"],
        "last_loss": lines[-1]["loss"],
    }


def decode(model: SpeechLM, data: Path, *, batch_size: int) -> dict[str, Any]:
    """Returns clips a second of greedy decoding, exactly NEW_TOKENS each, loading and features included."""
    tokenizer = ChatTokenizer.from_folder(data / "llm")
    questions = [row.prompt() for row in rows_of(data)[:DECODE_CLIPS]]
    config = GenerationConfig(max_new_tokens=NEW_TOKENS, max_repeats=None)

    def answer(some: list[Conversation]) -> None:
        for start in range(0, len(some), batch_size):
            made = [
                make_example(c, tokenizer, model.feature_specs, for_generation=True) for c in some[start:][:batch_size]
            ]
            said = generate(model, collate(made), config=config, stop_ids=frozenset())
            assert all(len(answer) == NEW_TOKENS for answer in said)

    questions.sort(key=lambda row: row.audio_parts[0].duration_s or 0)  # as Assistant.replies does
    answer(questions[:8])
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        answer(questions)
        seconds.append(time.perf_counter() - started)
    return {"clips_per_s": spread(len(questions) / s for s in seconds), "batch_size": batch_size}


def main() -> None:
    """Measures one run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--encoder", choices=["whisper", "parakeet"], required=True)
    parser.add_argument("--frozen", action="store_true")
    parser.add_argument("--text", action="store_true", help="text-only rows among the speech")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--matmul", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--decode", type=int, nargs="*", default=[], help="batch sizes of decoding, by one process")
    args = parser.parse_args()
    args.ranks = int(os.environ.get("WORLD_SIZE", "1"))
    torch.set_num_threads(args.threads // args.ranks)
    data = args.folder / "data"
    model = build(data, args.encoder)
    result: dict[str, Any] = {"system": "Sonant", "variant": args.result.stem, "ranks": args.ranks}
    if args.decode:
        result["decode"] = {n: decode(model.eval(), data, batch_size=n) for n in args.decode}
    else:
        with distributed.joined("cpu") as ranks:
            lines = train_steps(model, data, args.folder / "runs" / args.result.stem, args)
            rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            result["peak_rss_mb"] = sum(distributed.gather_json(rss_mb, group=ranks.talk))
        result["train"] = rates(lines, args.steps)
    if distributed.leads():
        args.result.write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps(result))


if __name__ == "__main__":
    main()

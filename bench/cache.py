"""Frames of a frozen encoder from disk: how fast they are written and read, what they weigh, that nothing changes."""

import random
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from bench.figure import RUNS, Figure, at_least, at_most, reported
from bench.heldout import NONE
from bench.resume import small_world
from sonant.audio.features import FeatureSpec
from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.chat.tokenizer import ChatTokenizer
from sonant.cli.train import preset_path
from sonant.config import load_config
from sonant.data.frame_cache import FrameCache, write_frame_cache
from sonant.data.manifest import Manifest, write
from sonant.data.training_set import Ears, make_stream
from sonant.generate.encode import clip_encoder
from sonant.models.build import build_speech_lm
from sonant.models.encoders.base import EncoderConfig
from sonant.models.encoders.identity import encoded_spec
from sonant.models.encoders.load import load_encoder
from sonant.models.freeze import FreezePlan
from sonant.models.losses import TokenLoss
from sonant.models.parts import resolve_part
from sonant.recipes.voicetextblender import VoiceTextBlender
from sonant.synth.world.make import WorldConfig, make_world

FOLDER = RUNS / "cache"
CLIPS, READS, STEPS = 1_000, 20_000, 12
LARGE = FeatureSpec.encoded("as wide as SeamlessM4T-v2, means of two frames", 1024, 25.0)


def measure() -> list[Figure]:
    shutil.rmtree(FOLDER, ignore_errors=True)
    return [*_tiny(), *_large(), *_stage()]


def _tiny() -> list[Figure]:
    make_world(FOLDER / "world", config=WorldConfig(train=NONE.model_copy(update={"asr": CLIPS}), dev=NONE, test=NONE))
    manifest = FOLDER / "world" / "train" / "asr.jsonl"
    encoder = load_encoder(EncoderConfig(kind="tiny", path="tiny/encoder"))
    began = time.perf_counter()
    report = write_frame_cache([manifest], FOLDER / "tiny", encode=clip_encoder(encoder), spec=encoded_spec(encoder))
    wall_s = time.perf_counter() - began
    parts = [part for row in Manifest(manifest) for part in row.audio_parts]
    return [
        reported("clips encoded by the tiny encoder and written", [report.new_clips / wall_s], "/ s"),
        at_least("clips read in random order, tiny encoder", 2000, [_read(FOLDER / "tiny", parts)], "/ s"),
    ]


def _large() -> list[Figure]:
    """An hour of frames of SeamlessM4T's width, from 10 s clips of no encoder."""
    clips = [AudioPart("none.wav", offset_s=10.0 * number, duration_s=10.0) for number in range(360)]
    write(
        FOLDER / "hour.jsonl",
        [
            Conversation((user(*clips), assistant("."))),
        ],
    )
    frames = torch.randn(250, LARGE.dim)
    began = time.perf_counter()

    def encode(parts: Sequence[AudioPart]) -> list[Tensor]:
        return [frames for _ in parts]

    report = write_frame_cache([FOLDER / "hour.jsonl"], FOLDER / "hour", encode=encode, spec=LARGE)
    wall_s = time.perf_counter() - began
    per_s = report.num_bytes / (report.frames / LARGE.frame_rate_hz)
    parts = Manifest(FOLDER / "hour.jsonl")[0].audio_parts
    what = "1024 wide at 25 Hz, clips of 10 s"
    return [
        at_most(f"{what}: size (25 x 1024 x 2 B = 51.2 kB)", 51.3, [per_s / 1000], "kB / s"),
        reported(f"{what}: size of 960 h", [per_s * 960 * 3600 / 1e9], "GB"),
        reported(f"{what}: an hour written, encoder not counted", [wall_s], "s"),
        reported(f"{what}: read in random order", [_read(FOLDER / "hour", parts, reads=2_000)], "/ s"),
    ]


def _read(folder: Path, parts: Sequence[AudioPart], *, reads: int = READS) -> float:
    """Clips read in a second, after the one look at each shard that verifies it."""
    cache = FrameCache(folder)
    for part in parts:
        cache(part)
    chosen = random.Random(0).choices(parts, k=reads)
    began = time.perf_counter()
    for part in chosen:
        cache(part)
    return reads / (time.perf_counter() - began)


def _stage() -> list[Figure]:
    world = small_world()
    encoder = load_encoder(EncoderConfig(kind="tiny", path="tiny/encoder"))
    manifests = sorted((world / "train").glob("*.jsonl"))
    write_frame_cache(manifests, FOLDER / "stage", encode=clip_encoder(encoder), spec=encoded_spec(encoder))
    heard, heard_s = _train(world, None)
    recalled, recalled_s = _train(world, FrameCache(FOLDER / "stage"))
    worst = max(abs(a - b) / a for a, b in zip(heard, recalled, strict=True))
    what = f"{STEPS} steps of the tiny preset, encoder frozen"
    return [
        at_most(f"{what}: losses with the cache and without, largest difference", 0.5, [100 * worst], "%"),
        reported(f"{what}: a step without, with", [heard_s / STEPS, recalled_s / STEPS], "s"),
    ]


def _train(world: Path, cache: FrameCache | None) -> tuple[list[float], float]:
    """Losses of the first steps, and the seconds they took."""
    torch.manual_seed(0)
    config = load_config(VoiceTextBlender, [preset_path("voicetextblender", "tiny")], overrides=[f"data.root={world}"])
    tokenizer = ChatTokenizer.from_folder(resolve_part("tiny/llm"))
    model = build_speech_lm(config.model).train()
    FreezePlan(config.groups).apply(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    cached = {} if cache is None else {cache.spec: cache}
    ears = Ears(model.specs_given(cached), model.audio_tokens, cached=cached)
    steps = make_stream(config.data, tokenizer, ears).steps()
    loss, losses = TokenLoss(), []
    began = time.perf_counter()
    for _ in range(STEPS):
        batches = next(steps).batches
        total = sum((loss(model, b).total for b in batches), torch.zeros(())) / sum(map(loss.weight, batches))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(total.item())
    return losses, time.perf_counter() - began

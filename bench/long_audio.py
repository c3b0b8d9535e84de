"""What a second of audio costs in clips of 3, 30, 100 and 300 s: the same 300 s each time, cut otherwise.

The model is of the peers' sizes (`bench.peers_ours`): Whisper's encoder 256 wide with four layers, frames stacked to
12.5 Hz, an LLM 256 wide with four layers and LoRA of rank 16; everything but the LLM's own weights is trained.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch

from bench.figure import RUNS, Figure, at_most, reported
from bench.peers_ours import WHISPER
from bench.resume import small_world
from sonant.audio.io import save
from sonant.batch import collate, make_example
from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.chat.tokenizer import ChatTokenizer
from sonant.data.manifest import Manifest
from sonant.generate.encode import clip_encoder
from sonant.models.build import SpeechLMConfig, build_speech_lm
from sonant.models.freeze import FreezePlan, GroupConfig
from sonant.models.losses import TokenLoss
from sonant.models.parts import resolve_part
from sonant.models.speech_lm import SpeechLM

TOTAL_S, CLIPS_S, REPEATS = 300, (3, 30, 100, 300), 5
WINDOW_S = 6.0  # overlap: a tenth; attention over 30 s costs an encoder only 256 wide as much again as all else
WORDS = 400  # some 900 tokens: three a second, as in the peers' clips
LLM = {
    "model_type": "llama",
    "vocab_size": 1024,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 8192,
}


def measure() -> list[Figure]:
    recording, words = _recording()
    model, tokenizer = _model(WINDOW_S), ChatTokenizer.from_folder(resolve_part("tiny/llm"))
    rows = {clip_s: _rows(recording, words, clip_s) for clip_s in CLIPS_S}
    trained = {clip_s: _cost(_step(model, tokenizer, rows[clip_s])) for clip_s in CLIPS_S}
    encoded = {clip_s: _cost(_encoding(model, rows[clip_s])) for clip_s in CLIPS_S}
    figures = []
    for what, costs in (("a training step", trained), ("encoding", encoded)):
        ratios = [long / short for long, short in zip(costs[300], costs[3], strict=True)]
        figures.append(at_most(f"{what}: cost a second at 300 s against 3 s: wall, CPU", 1.3, ratios, "x"))
        for clip_s, (wall_s, cpu_s) in costs.items():
            figures.append(reported(f"{what}, {clip_s} s clips: wall, CPU", [1000 * wall_s, 1000 * cpu_s], "ms / s"))
    slower = _model(WINDOW_S, stack=8)
    halved = [_cost(_step(slower, tokenizer, rows[clip_s])) for clip_s in (300, 3)]
    ratios = [long / short for long, short in zip(*halved, strict=True)]
    figures.append(reported("the same ratio of a step with half the positions (6.25 Hz): wall, CPU", ratios, "x"))
    whole = _cost(_encoding(_model(None), rows[300]))
    figures.append(reported("encoding, 300 s, windows of 30 s: wall, CPU", [1000 * x for x in whole], "ms / s"))
    return figures


def _recording() -> tuple[Path, list[str]]:
    """300 s of the small world's clips, one behind the other, and the words said in them."""
    samples: list[np.ndarray] = []
    words: list[str] = []
    manifest = Manifest(small_world() / "train" / "asr.jsonl")
    while sum(map(len, samples)) < TOTAL_S * 16_000:
        for row in manifest:
            samples.append(row.audio_parts[0].load(sample_rate_hz=16_000))
            words += row.reference.split()
    path = RUNS / "long_audio.wav"
    save(path, np.concatenate(samples)[: TOTAL_S * 16_000], sample_rate_hz=16_000)
    return path, words[:WORDS]


def _rows(recording: Path, words: Sequence[str], clip_s: int) -> list[Conversation]:
    """The recording cut into clips, each with its share of the words."""
    count = TOTAL_S // clip_s
    shares = [words[i * len(words) // count : (i + 1) * len(words) // count] for i in range(count)]
    return [
        Conversation(
            (
                user("transcribe:", AudioPart(str(recording), offset_s=float(i * clip_s), duration_s=float(clip_s))),
                assistant(" ".join(share)),
            )
        )
        for i, share in enumerate(shares)
    ]


def _model(window_s: float | None, *, stack: int = 4) -> SpeechLM:
    torch.manual_seed(0)
    config = {
        "encoders": [{**WHISPER, "window_s": window_s}],
        "adapter": {"kind": "stack_mlp", "stack": stack},
        "llm": {"architecture": LLM},
        "lora": {"rank": 16, "alpha": 32},
    }
    return build_speech_lm(SpeechLMConfig.model_validate(config))


def _step(model: SpeechLM, tokenizer: ChatTokenizer, rows: Sequence[Conversation]) -> Callable[[], object]:
    """One step as training makes it: sound read, features, forward, backward, update."""
    plan = {"all": GroupConfig(patterns=("encoders.*", "adapter.*", "llm.*lora_*"), lr=1e-5)}
    optimizer = torch.optim.AdamW(FreezePlan(plan).apply(model))
    loss = TokenLoss()

    def step() -> None:
        model.train()
        batch = collate([make_example(row, tokenizer, model.feature_specs) for row in rows])
        (loss(model, batch).total / loss.weight(batch)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _encoding(model: SpeechLM, rows: Sequence[Conversation]) -> Callable[[], object]:
    encode = clip_encoder(model.speech_encoders[0])
    parts = [row.audio_parts[0] for row in rows]
    return lambda: encode(parts)


def _cost(act: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds a second of audio, the median after one to warm up."""
    took = []
    for _ in range(REPEATS + 1):
        began, began_cpu = time.perf_counter(), time.process_time()
        act()
        took.append(((time.perf_counter() - began) / TOTAL_S, (time.process_time() - began_cpu) / TOTAL_S))
    wall_s, cpu_s = zip(*took[1:], strict=True)
    return median(wall_s), median(cpu_s)

"""Greedy decoding: clips a second against transformers' own `generate`, steps a second, and what a CTC guess saves.

Two models hear the same 64 clips of the quick start's world: one of the peers' size (LLM 256 wide, 4 layers, LoRA of
rank 16, random) says exactly 32 tokens, loading and features included; the quick start's own, which has learned to
transcribe, says what it hears. Against NeMo and the plain loops, on their clips: `bench.peers`.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from bench.figure import RUNS, Figure, reported
from bench.quickstart import trained
from sonant.batch import Batch, collate
from sonant.chat.messages import Conversation
from sonant.chat.tokenizer import ChatTokenizer
from sonant.data.manifest import Manifest
from sonant.generate.assistant import Assistant
from sonant.generate.engine import RunningBatch
from sonant.generate.sampling import GenerationConfig
from sonant.models.build import SpeechLMConfig, build_speech_lm
from sonant.models.lora import lora_layers

NUM_CLIPS, NUM_TOKENS, REPEATS = 64, 32, 3
LLM = {
    "model_type": "llama", "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 2048, "eos_token_id": None,
}  # fmt: skip
WHISPER = {
    "d_model": 256, "encoder_layers": 4, "encoder_attention_heads": 4, "encoder_ffn_dim": 1024, "num_mel_bins": 80,
}  # fmt: skip
Answers = list[list[int]]
T = TypeVar("T")


def measure() -> list[Figure]:
    run = trained(RUNS / "seed0", seed=0)
    manifest = Manifest(run / "world" / "test" / "asr.jsonl")
    rows = [manifest[i].prompt() for i in range(NUM_CLIPS)]
    with torch.no_grad():
        return [*_speed(run / "model", rows), *_drafts(Assistant.from_folder(run / "model"), rows)]


def _speed(folder: Path, rows: Sequence[Conversation]) -> list[Figure]:
    assistant = _random(ChatTokenizer.from_folder(folder))
    figures = []
    for size in (8, 32):
        (plain, expected), (own, said) = (_timed(partial(way, assistant, rows, size)) for way in (_plain, _own))
        same = sum(a == b for a, b in zip(expected, said, strict=True))
        faster, steps = plain / own, NUM_CLIPS // size * NUM_TOKENS / _steps_s(assistant, rows, size)
        figures += [
            reported(
                f"clips a second, batch {size}: transformers' generate / ours",
                [NUM_CLIPS / plain, NUM_CLIPS / own],
                "clips/s",
            ),
            Figure("the same: how much faster, answers alike", "report", f"{faster:.2f}x, {same} of {NUM_CLIPS}"),
            reported("the same: steps a second, prompts read", [steps], "steps/s"),
        ]
    return figures


def _drafts(assistant: Assistant, rows: Sequence[Conversation]) -> list[Figure]:
    figures = []
    for size in (1, 8, 32):
        plain, guessed = (GenerationConfig(max_new_tokens=64, drafts=drafts) for drafts in ("none", "ctc"))
        (plain_s, (expected, steps, _, _)), (guessed_s, (said, fewer, num_read, num_right)) = (
            _timed(partial(_transcribed, assistant, rows, size, config=config)) for config in (plain, guessed)
        )
        what = f"CTC guesses, batch {size}"
        figures += [
            Figure(f"{what}: same answers", "all", f"{said == expected}", said == expected),
            reported(f"{what}: share of guessed tokens that the LLM says", [num_right / num_read], ""),
            reported(f"{what}: times the LLM is run, without / with", [steps, fewer], ""),
            reported(
                f"{what}: clips a second, without / with", [NUM_CLIPS / plain_s, NUM_CLIPS / guessed_s], "clips/s"
            ),
        ]
    return figures


def _random(tokenizer: ChatTokenizer) -> Assistant:
    torch.manual_seed(0)
    values = {
        "encoders": [{"kind": "whisper", "architecture": WHISPER}],
        "adapter": {"kind": "stack_mlp", "stack": 4},
        "llm": {"architecture": {**LLM, "vocab_size": tokenizer.vocab_size, "pad_token_id": tokenizer.pad_id}},
        "lora": {"rank": 16, "alpha": 32},
    }
    model = build_speech_lm(SpeechLMConfig.model_validate(values))
    for layer in lora_layers(model.llm):
        torch.nn.init.normal_(next(layer.lora_B.parameters()), std=0.02)  # as after training
    return Assistant(model, tokenizer)


def _batches(assistant: Assistant, rows: Sequence[Conversation], size: int) -> Iterator[Batch]:
    """As `Assistant.replies` makes them, in the order of the rows."""
    for start in range(0, len(rows), size):
        yield collate([assistant.example(row) for row in rows[start : start + size]])


def _own(assistant: Assistant, rows: Sequence[Conversation], size: int) -> Answers:
    said: Answers = []
    for batch in _batches(assistant, rows, size):
        running = RunningBatch(assistant.model, stop_ids=frozenset())
        joined = running.join(batch, [GenerationConfig(max_new_tokens=NUM_TOKENS)] * batch.num_rows)
        while running.rows:
            running.step()
        said += [row.drawing.said for row in joined]
    return said


def _plain(assistant: Assistant, rows: Sequence[Conversation], size: int) -> Answers:
    """The loop that most people write around transformers, on the same model."""
    said: Answers = []
    for batch in _batches(assistant, rows, size):
        embeds, mask = assistant.model.embed(batch).left_padded()
        out: Tensor = assistant.model.llm.generate(  # type: ignore[operator]
            inputs_embeds=embeds,
            attention_mask=mask.long(),
            do_sample=False,
            min_new_tokens=NUM_TOKENS,
            max_new_tokens=NUM_TOKENS,
        )
        said += out.tolist()
    return said


def _steps_s(assistant: Assistant, rows: Sequence[Conversation], size: int) -> float:
    """Seconds of all steps, without what comes before them."""
    seconds = 0.0
    for batch in _batches(assistant, rows, size):
        running = RunningBatch(assistant.model, stop_ids=frozenset())
        running.join(batch, [GenerationConfig(max_new_tokens=NUM_TOKENS)] * batch.num_rows)
        started = time.perf_counter()
        while running.rows:
            running.step()
        seconds += time.perf_counter() - started
    return seconds


def _transcribed(
    assistant: Assistant, rows: Sequence[Conversation], size: int, *, config: GenerationConfig
) -> tuple[Answers, int, int, int]:
    """Answers, how often the LLM was run for more than prompts, guessed tokens that it read, and that it said."""
    said: Answers = []
    runs = num_read = num_right = 0
    for batch in _batches(assistant, rows, size):
        running = RunningBatch(assistant.model, stop_ids=assistant.tokenizer.stop_ids)
        joined = running.join(batch, [config] * batch.num_rows)
        while running.rows:
            running.leap()
            runs += 1
        said += [row.drawing.said for row in joined]
        num_read += sum(row.draft.num_read for row in joined)
        num_right += sum(row.draft.num_accepted for row in joined)
    return said, runs, num_read, num_right


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    """Median seconds, and what the work gave."""
    work()
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        made = work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), made

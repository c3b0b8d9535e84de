"""Answers do not depend on who shares the batch: 8 unequal clips together against each alone, on the trained model."""

import torch

from bench.figure import RUNS, Figure, at_most
from bench.quickstart import trained
from sonant.batch import collate, make_example
from sonant.data.manifest import Manifest
from sonant.generate.assistant import Assistant
from sonant.generate.engine import decode
from sonant.generate.sampling import GenerationConfig

CONFIG = GenerationConfig(max_new_tokens=32)


def measure() -> list[Figure]:
    run = trained(RUNS / "seed0", seed=0)
    assistant = Assistant.from_folder(run / "model")
    manifest = Manifest(run / "world" / "test" / "asr.jsonl")
    rows = [manifest[i].prompt() for i in range(len(manifest))]
    rows = sorted(rows, key=lambda row: len(row.audio_parts[0].transcript or ""))[:: max(1, len(rows) // 8)][:8]
    together = _steps(assistant, rows)
    worst, same = 0.0, 0
    for index, row in enumerate(rows):
        (alone,) = _steps(assistant, [row])
        same += [t for t, _ in alone] == [t for t, _ in together[index]]
        worst = max(
            [worst, *((a - b).abs().max().item() for (_, a), (_, b) in zip(alone, together[index], strict=False))]
        )
    return [
        Figure("a batch of 8 unequal clips against each alone: same answers", "8 of 8", f"{same} of 8", same == 8),
        at_most("the same: largest logit difference", 1e-4, [worst], ""),
    ]


def _steps(assistant: Assistant, rows: list) -> list[list[tuple[int, torch.Tensor]]]:
    batch = collate(
        [make_example(r, assistant.tokenizer, assistant.model.feature_specs, for_generation=True) for r in rows]
    )
    said: list[list[tuple[int, torch.Tensor]]] = [[] for _ in rows]
    for step in decode(assistant.model, batch, config=CONFIG, stop_ids=assistant.tokenizer.stop_ids):
        for row, token, logits in zip(step.rows, step.token_ids.tolist(), step.logits, strict=True):
            said[row].append((token, logits))
    return said

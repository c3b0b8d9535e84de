"""A model with the difficult traits of a speech LM, rows for it, and a script that trains it in any number of ranks.

Frozen weights beside LoRA-like ones, a batch norm, dropout; micro-batches of unequal token counts, one of each step
without audio, some without any supervised token, and whole steps of text only.
"""

import argparse
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sonant.batch import Batch, StepBatches
from sonant.train.trainer import TrainConfig, TrainResult, train

VOCABULARY, WIDTH, MELS, SPEC = 23, 12, 5, "toy"


class Layer(nn.Module):
    """A frozen weight and a low-rank one beside it."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.frozen = nn.Linear(WIDTH, WIDTH)
        self.lora_a = nn.Linear(WIDTH, 2, bias=False)
        self.lora_b = nn.Linear(2, WIDTH, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.frozen(x) + self.lora_b(self.lora_a(self.dropout(x))))


class LLM(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(Layer(dropout) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x @ self.embedding.weight.T


class ToySpeechLM(nn.Module):
    def __init__(self, *, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.adapter = nn.Sequential(nn.Linear(MELS, WIDTH, bias=False), nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, WIDTH))
        self.scale = nn.Parameter(torch.ones(3))
        self.llm = LLM(dropout)
        for name, parameter in self.llm.named_parameters():
            parameter.requires_grad_("lora" in name)

    def forward(self, batch: Batch) -> Tensor:
        """(B, L, V); each token of a row hears the sum of its frames."""
        x = self.llm.embedding(batch.token_ids)
        features = batch.features[SPEC]
        silent = len(features) == 0
        frames = torch.zeros(2, MELS) if silent else features.flatten(0, 1)
        heard = self.adapter(frames) * self.scale.mean()
        if silent:
            return self.llm(x + 0.0 * heard.sum())
        segments = heard.view(len(features), -1, WIDTH).sum(1)
        start = torch.zeros_like(x[:, 0]).index_add(0, batch.audio_row, segments.to(x.dtype))
        return self.llm(x + start[:, None])

    def groups(self, *, lora_start: int = 0) -> list[dict]:
        lora = [p for n, p in self.named_parameters() if "lora" in n]
        return [
            {"name": "adapter", "params": [*self.adapter.parameters(), self.scale], "lr": 3e-3, "weight_decay": 0.01},
            {"name": "lora", "params": lora, "lr": 1e-2, "weight_decay": 0.0, "start_step": lora_start},
        ]


@dataclass
class Sums:
    total: Tensor
    parts: dict[str, tuple[Tensor, float]]


class ToyLoss:
    def weight(self, batch: Batch) -> float:
        return batch.num_target_tokens

    def __call__(self, model: nn.Module, batch: Batch) -> Sums:
        logits = model(batch)[:, :-1]
        each = nn.functional.cross_entropy(logits.flatten(0, 1), batch.token_ids[:, 1:].flatten(), reduction="none")
        each = each.view(batch.num_rows, -1) * batch.loss_mask[:, 1:]
        parts = {}
        for task in sorted(set(batch.tasks)):
            rows = [i for i, t in enumerate(batch.tasks) if t == task]
            parts[task] = (each[rows].sum(), float(batch.loss_mask[rows, 1:].sum()))
        return Sums(each.sum(), parts)


class ToySource:
    """Epochs of 5 steps of 4 micro-batches, each made from (epoch, step, place) alone."""

    micro_batches, steps_per_epoch = 4, 5

    def __init__(self, *, delay_s: float = 0.0, stop_at: int | None = None) -> None:
        self.delay_s, self.stop_at = delay_s, stop_at

    def steps(self, epoch: int, step: int, *, rank: int, world_size: int) -> Iterator[StepBatches]:
        while True:
            if step == self.steps_per_epoch:
                epoch, step = epoch + 1, 0
            time.sleep(self.delay_s)
            if rank == 0 and epoch * self.steps_per_epoch + step + 1 == self.stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            places = range(rank, self.micro_batches, world_size)
            yield StepBatches(epoch, step, [self.micro_batch(epoch, step, place) for place in places])
            step += 1

    def micro_batch(self, epoch: int, step: int, place: int) -> Batch:
        random = torch.Generator().manual_seed(1000 * epoch + 10 * step + place)
        rows, longest = 2 + place % 2, 5 + 2 * place
        lengths = torch.randint(3, longest + 1, (rows,), generator=random)
        lengths[0] = longest
        here = torch.arange(longest) < lengths[:, None]
        tokens = torch.randint(1, VOCABULARY, (rows, longest), generator=random) * here
        mask = here * (torch.arange(longest) >= 2) * float(not (place == 1 and step % 2))
        silent = place == 2 or step == 3
        row = torch.arange(0 if silent else rows)
        return Batch(
            ids=tuple(f"{epoch}-{step}-{place}-{i}" for i in range(rows)),
            tasks=tuple(("asr", "qa")[i % 2] for i in range(rows)),
            token_ids=tokens,
            token_lengths=lengths,
            loss_mask=mask.float(),
            prompt_ids=tokens[:, :2],
            prompt_lengths=torch.full_like(lengths, 2),
            audio_row=row,
            audio_position=torch.zeros_like(row),
            transcript_ids=torch.zeros(len(row), 0, dtype=torch.int64),
            transcript_lengths=torch.zeros_like(row),
            features={SPEC: torch.randn(len(row), 4, MELS, generator=random)},
            feature_lengths={SPEC: torch.full_like(row, 4)},
            audio_duration_s=0.5 * len(row),
        )


def run(
    run_dir: Path,
    *,
    delay_s: float = 0.0,
    stop_at: int | None = None,
    dropout: float = 0.0,
    lora_start: int = 0,
    **settings: object,
) -> TrainResult:
    """Trains the toy on CPU."""
    model = ToySpeechLM(dropout=dropout)
    config = TrainConfig(**({"steps": 12, "device": "cpu", "log_rows": True, "warmup_steps": 3} | settings))

    def validate(step: int) -> dict[str, float]:
        assert not model.training
        with torch.no_grad():
            logits = model(ToySource().micro_batch(99, 0, 3))
        return {"size": float(logits.abs().mean()), "step": float(step)}

    def save_model(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: tensor.detach().flatten().tolist() for name, tensor in model.state_dict().items()}
        (folder / "model.txt").write_text(repr(state))

    return train(
        model,
        ToySource(delay_s=delay_s, stop_at=stop_at),
        loss=ToyLoss(),
        config=config,
        groups=model.groups(lora_start=lora_start),
        run_dir=run_dir,
        validate=validate,
        save_model=save_model,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run_dir", type=Path)
    for name, kind, default in (
        ("steps", int, 12),
        ("save-every", int, 4),
        ("validate-every", int, 6),
        ("parallel", str, "auto"),
        ("activation-checkpointing", str, "none"),
        ("dropout", float, 0.1),
        ("average-last", float, 0.5),
        ("delay-s", float, 0.0),
        ("stop-at", int, None),
    ):
        parser.add_argument(f"--{name}", type=kind, default=default)
    torch.set_num_threads(1)
    result = run(resume=True, keep=3, metric="size", **vars(parser.parse_args()))
    if os.environ.get("RANK", "0") == "0":
        print("stopped", result.stopped, "at", result.step)


if __name__ == "__main__":
    main()

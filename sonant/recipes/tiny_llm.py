"""The tiny world's language model: a Llama of 1.9 million parameters, from nothing, on written conversations.

    train.jsonl   80,000 conversations of `sonant world build`: questions .14, translation .22, repeat .34,
                  in context .15, multi-turn .15; in 15 % of the sentences a letter is wrong and the answer right
    loss          answers 1, everything else 0.1: what users write teaches the language, too
    shipped       float16 weights, tokenizer, chat template, provenance with scores: a standard Hugging Face folder

Repeating random words is what teaches it to copy words that it has never met, misspelt ones included; a speech model
built on it could not transcribe without. The errors in the questions prepare it for what a recogniser gets wrong.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import nn
from transformers import PreTrainedModel

from sonant.batch import Example, make_example
from sonant.chat.messages import Conversation
from sonant.chat.render import render
from sonant.chat.tokenizer import ChatTokenizer
from sonant.config import Config
from sonant.data.blend import Source
from sonant.data.loader import BatchStream, LoaderConfig
from sonant.data.manifest import Manifest
from sonant.data.measure import RowSizes
from sonant.data.plan import PlanConfig
from sonant.errors import TrainingError
from sonant.evaluate.run import group_by_task, score_task
from sonant.generate.assistant import Assistant
from sonant.models.freeze import FreezePlan, GroupConfig
from sonant.models.llm import LLMConfig, load_llm
from sonant.models.losses import TokenLoss
from sonant.models.parts import quiet_transformers
from sonant.models.speech_lm import SpeechLM
from sonant.train.trainer import TrainConfig, train


class TinyLLM(Config):
    """Every choice of a run; paths of manifests and of the tokenizer's folder have no default."""

    train_manifest: str
    dev_manifests: tuple[str, ...]
    test_manifests: tuple[str, ...] = ()
    tokenizer: str
    width: int = Field(default=192, gt=0)
    layers: int = Field(default=4, gt=0)
    heads: int = Field(default=4, gt=0)
    feed_forward: int = Field(default=512, gt=0)
    prompt_weight: float = Field(default=0.1, ge=0)
    lr: float = Field(default=1.5e-3, gt=0)
    dev_rows: int = Field(default=50, gt=0)  # of each task, at each validation
    plan: PlanConfig = PlanConfig(token_budget=4096, max_rows=24)
    loader: LoaderConfig = LoaderConfig(workers=0)
    train: TrainConfig = TrainConfig.model_validate(
        {"steps": 5000, "warmup_steps": 100, "final_lr_ratio": 0.02, "validate_every": 1000, "save_every": 1000}
    )


class TextLM(SpeechLM):
    """A speech language model without ears: so pretraining takes the road of everything else."""

    def __init__(self, llm: PreTrainedModel) -> None:
        nn.Module.__init__(self)
        self.encoders = nn.ModuleList()
        self.llm = llm
        self.prompt_adapter = self.speech_head = None
        self.own_parts = frozenset()


def main(config: TinyLLM, run_dir: Path, *, say: Callable[[str], None] = print) -> dict[str, float]:
    """Trains in `run_dir` and writes the finished part to run_dir/model; returns task -> score on the test manifests.

    Raises: SonantError where settings, data or tokenizer do not fit; TrainingError if the run was stopped half-way.
    """
    torch.manual_seed(config.train.seed)
    tokenizer = ChatTokenizer.from_folder(config.tokenizer)
    model = TextLM(load_llm(LLMConfig(architecture=architecture(config, tokenizer))))
    say(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters")
    result = train(
        model,
        make_stream(config, tokenizer),
        loss=TokenLoss(),
        config=config.train,
        groups=FreezePlan({"llm": GroupConfig(patterns=("llm.*",), lr=config.lr, weight_decay=0.01)}).apply(model),
        run_dir=run_dir,
        validate=lambda step: scores(model, tokenizer, config.dev_manifests, limit=config.dev_rows),
    )
    if result.stopped is not None:
        raise TrainingError(f"stopped by {result.stopped} at step {result.step}; start it again and it goes on")
    model.half().float()  # what is scored is what is shipped
    found = {"dev": scores(model, tokenizer, config.dev_manifests)}
    found["test"] = scores(model, tokenizer, config.test_manifests) if config.test_manifests else {}
    save_part(model.llm, tokenizer, run_dir / "model", provenance=provenance(config, found))
    return found["test"] or found["dev"]


def architecture(config: TinyLLM, tokenizer: ChatTokenizer) -> dict[str, Any]:
    """Returns the settings of a Llama of this size for this tokenizer."""
    return {
        "model_type": "llama",
        "vocab_size": tokenizer.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.heads,
        "intermediate_size": config.feed_forward,
        "tie_word_embeddings": True,
        "max_position_embeddings": 1024,
        "bos_token_id": None,
        "eos_token_id": tokenizer.end_of_turn_id,
        "pad_token_id": tokenizer.pad_id,
    }


def make_stream(config: TinyLLM, tokenizer: ChatTokenizer) -> BatchStream:
    """Returns batches of the training manifest, rows of like length together."""

    def example(row: Conversation, rng: np.random.Generator) -> Example:
        return make_example(row, tokenizer, (), prompt_weight=config.prompt_weight)

    def length(row: Conversation) -> int:
        return len(render(row, tokenizer).token_ids)

    sizes = RowSizes(text_tokens=length, audio_tokens=lambda duration_s: 0, target_tokens=lambda row: 1)
    source = Source("text", Manifest(config.train_manifest), weight=1.0)
    return BatchStream(source, example, sizes=sizes, plan=config.plan, loader=config.loader)


def scores(
    model: SpeechLM, tokenizer: ChatTokenizer, manifests: Sequence[str], *, limit: int | None = None
) -> dict[str, float]:
    """Returns task -> headline score (per cent of answers that are right) of greedy answers to the manifests' rows."""
    found = {}
    for task, rows in group_by_task(manifests, limit=limit).items():
        replies = Assistant(model, tokenizer).replies([row.prompt() for row in rows])
        result = score_task(task, rows, {"system": [reply.text for reply in replies]})
        found[task] = result.scores[result.headline]["system"].value
    return found


def provenance(config: TinyLLM, found: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Returns how the part was made: command, settings, hash of the data, versions, scores."""
    versions = {name: metadata.version(name) for name in ("torch", "transformers")}
    settings = config.model_dump(
        mode="json", exclude={"train_manifest", "dev_manifests", "test_manifests", "tokenizer"}
    )
    return {
        "part": "tiny/llm",
        "command": "sonant world build",
        "seed": config.train.seed,
        "data_sha256": hashlib.sha256(Path(config.train_manifest).read_bytes()).hexdigest(),
        "data": "synthetic text of sonant/synth/world/*.py; no outside source",
        "licence": "Apache-2.0",
        "versions": versions,
        "settings": settings,
        "scores": found,
    }


def save_part(
    llm: PreTrainedModel, tokenizer: ChatTokenizer, folder: str | os.PathLike[str], *, provenance: dict[str, Any]
) -> None:
    """Writes a standard Hugging Face folder with float16 weights, and provenance.json beside them."""
    with quiet_transformers():
        llm.half().save_pretrained(str(folder))
    llm.float()
    Path(folder, "model.safetensors").chmod(0o644)  # safetensors writes for its owner only
    tokenizer.save(folder)
    text = json.dumps(provenance, indent=2, ensure_ascii=False)
    Path(folder, "provenance.json").write_text(text + "\n", encoding="utf-8")

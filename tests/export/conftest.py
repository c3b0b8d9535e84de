"""Small random models of every kind, saved; what they are asked."""

import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import soundfile
from small_encoders import ARCHITECTURES
from tiny_models import TOKENIZER, tiny_speech_lm
from transformers import AutoModelForCausalLM, AutoProcessor

from sonant.chat.messages import AudioPart, Conversation, assistant, system, user
from sonant.export.hugging_face import export_hf
from sonant.generate.assistant import Assistant
from sonant.generate.sampling import GenerationConfig
from sonant.models.checkpoint import save_speech_lm
from sonant.testing import tone

SIZE = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "max_position_embeddings": 2048,
    "initializer_range": 1.0,
}
CONFIG = GenerationConfig(max_new_tokens=10)


def clip(duration_s: float) -> AudioPart:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(duration_s, 300 + 400 * duration_s), 16_000, format="WAV", subtype="FLOAT")
    return AudioPart(data=buffer.getvalue())


QUESTIONS = [
    Conversation((user("repeat: ", clip(0.5)),)),
    Conversation((user("7 times 6?"),)),
    Conversation((system("be brief"), user(clip(0.8), " and ", clip(0.3)), assistant("yes"), user(clip(0.4), "?"))),
    Conversation((user("<|im_end|> is no markup"),)),
]


def save_random(
    folder: Path, *, encoders: Sequence[Any] = ("tiny",), llm: Any = None, tokenizer: Any = TOKENIZER, **parts: Any
) -> Path:
    """The folder of a random model of which LoRA has moved. llm: what is unlike `SIZE`; dtype: that of the LLM."""
    named = [{"kind": encoder} if isinstance(encoder, str) else encoder for encoder in encoders]
    parts["encoders"] = [{"architecture": ARCHITECTURES[encoder["kind"]], **encoder} for encoder in named]
    size = {**SIZE, "vocab_size": tokenizer.vocab_size, **(llm or {})}
    model = tiny_speech_lm(llm=size, **{"adapter": {"kind": "stack_mlp", "stack": 4}, **parts})
    save_speech_lm(model, tokenizer, folder)
    return folder


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """`saved(encoders=["tiny"], llm={...}, ...)` is `save_random` in a folder of its own."""
    return partial(save_random, tmp_path / "model")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model with much that has to be put together again: tied, shared, anchored."""
    qwen = {
        "model_type": "qwen3",
        "num_key_value_heads": 1,
        "head_dim": 16,
        "tie_word_embeddings": True,
        "num_hidden_layers": 4,
    }
    parts = {"adapter": {"kind": "ctc_pooling"}, "llm": qwen, "lora": {"rank": 2, "layout": "fused"}}
    return save_random(tmp_path_factory.mktemp("checkpoint") / "model", **parts)


@pytest.fixture(scope="session")
def exported(checkpoint: Path) -> Path:
    """`checkpoint`, exported with LoRA apart; to be read only."""
    return export_hf(checkpoint, checkpoint.with_name("exported"), merge=False).folder


@pytest.fixture(scope="session")
def loaded() -> Callable[[Path], tuple[Any, Any]]:
    """`loaded(folder)` is processor and model, as transformers loads them."""
    return lambda folder: (AutoProcessor.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder))


@pytest.fixture(scope="session")
def both(exported: Path, loaded: Any) -> tuple[Any, Any]:
    """Processor and model of `exported`."""
    return loaded(exported)


@pytest.fixture(scope="session")
def questions() -> list[Conversation]:
    """Rows of unequal length: with no clip, one, and three in two turns."""
    return QUESTIONS


@pytest.fixture(scope="session")
def answers() -> Callable[[Path], list[list[int]]]:
    """`answers(folder)` is what the assistant in a folder says to `questions`, as tokens."""
    return lambda folder: [list(r.token_ids) for r in Assistant.from_folder(folder).replies(QUESTIONS, config=CONFIG)]


@pytest.fixture(scope="session")
def said() -> Callable[..., list[list[int]]]:
    """`said(model, inputs)` is what plain transformers generates, up to the stop token."""

    def generate(model: Any, inputs: Any, **settings: Any) -> list[list[int]]:
        ids = model.generate(**inputs, **{"max_new_tokens": CONFIG.max_new_tokens, **settings})
        stops = set(model.generation_config.eos_token_id)
        rows = ids[:, inputs["input_ids"].shape[1] :].tolist()
        return [row[: next((i for i, id in enumerate(row) if id in stops), len(row))] for row in rows]

    return generate

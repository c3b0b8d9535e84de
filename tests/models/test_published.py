"""The shapes of hub models that plans are made of, counted against sizes known from elsewhere."""

import pytest
import torch
from torch import nn

from sonant.models.encoders.base import EncoderConfig
from sonant.models.encoders.load import load_encoder
from sonant.models.llm import LLMConfig, load_llm
from sonant.models.parts import published_architectures

# As stated where they were published (model cards; specs and presets of our recipes), tied weights counted once.
LLMS = {
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "HuggingFaceTB/SmolLM2-360M": 361_821_120,
    "google/gemma-2b-it": 2_506_172_416,
    "meta-llama/Llama-2-7b-chat-hf": 6_738_415_616,
    "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248,
}
# Millions, as quoted: rounded, and of encoders alone.
ENCODERS_MILLIONS = {
    "openai/whisper-large-v2": ("whisper", 637, 1),
    "openai/whisper-large-v3": ("whisper", 637, 1),  # 48 more mels: 0.18
    "microsoft/wavlm-base": ("wavlm", 94.4, 0.1),
    "microsoft/wavlm-base-plus-sv": ("wavlm", 94.4, 0.1),
    "nvidia/parakeet-ctc-0.6b": ("parakeet", 609, 3),
    "facebook/seamless-m4t-v2-large": ("seamless", 580, 10),  # without its length adapter
}
UNCOUNTED = {"openai/whisper-small"}  # published with its decoder only


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("name", "parameters"), LLMS.items())
def test_an_llm_has_as_many_parameters_as_its_card_says(name: str, parameters: int) -> None:
    with torch.device("meta"):
        assert count(load_llm(LLMConfig(architecture=published_architectures()[name]))) == parameters


@pytest.mark.parametrize(("name", "known"), ENCODERS_MILLIONS.items())
def test_an_encoder_is_as_large_as_quoted(name: str, known: tuple[str, float, float]) -> None:
    kind, millions, off = known
    options = {"length_adapter": False} if kind == "seamless" else {}
    with torch.device("meta"):
        encoder = load_encoder(EncoderConfig(kind=kind, path=name, **options))
    assert isinstance(encoder, nn.Module)
    assert count(encoder) / 1e6 == pytest.approx(millions, abs=off)


def test_every_shape_is_counted_or_known_not_to_be() -> None:
    assert set(published_architectures()) == {*LLMS, *ENCODERS_MILLIONS, *UNCOUNTED}

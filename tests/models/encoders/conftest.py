"""Small random encoders of every kind."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_encoders import ARCHITECTURES
from torch import Tensor, nn

from sonant.models.encoders.base import EncoderConfig
from sonant.models.encoders.load import load_encoder


@pytest.fixture
def architecture() -> Callable[..., dict[str, Any]]:
    """Returns the settings of a small encoder of a kind, with changes."""
    return lambda kind, **changes: {**ARCHITECTURES[kind], **changes}


@pytest.fixture
def build(architecture: Callable[..., dict[str, Any]]) -> Callable[..., Any]:
    """Returns a small random encoder of a kind, in evaluation mode."""

    def build_(kind: str, **changes: Any) -> nn.Module:
        torch.manual_seed(0)
        encoder = load_encoder(EncoderConfig(kind=kind, architecture=architecture(kind, **changes)))
        assert isinstance(encoder, nn.Module)
        return encoder.eval()

    return build_


@pytest.fixture
def random_features() -> Callable[..., Tensor]:
    """Returns features (A, F, M) or (A, S) for clips of the longest of `lengths`; the padding is random too."""

    def random_features_(encoder: Any, lengths: list[int]) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        spec = encoder.feature_spec
        shape = [len(lengths), max(lengths)] + ([] if spec.kind == "waveform" else [spec.dim])
        return torch.randn(shape, generator=generator)

    return random_features_

"""The Conformer adapter: sizes by hand."""

from typing import Any

import pytest
import torch

from sonant.errors import ModelError
from sonant.models.adapters.base import build_adapter
from sonant.models.adapters.conformer import ConformerConfig


def test_the_conformer_adapter_has_the_published_sizes() -> None:
    with torch.device("meta"):
        adapter: Any = build_adapter(ConformerConfig(), in_dims=[1024], out_dim=2048)
    assert sum(weight.numel() for weight in adapter.conformer.parameters()) == 51_465_216
    assert sum(weight.numel() for weight in adapter.projection.parameters()) == 2_099_200


@pytest.mark.parametrize("config", [ConformerConfig(num_heads=3), ConformerConfig(num_heads=2, conv_kernel=4)])
def test_conformer_sizes_that_do_not_fit_are_refused(config: ConformerConfig) -> None:
    with pytest.raises(ModelError, match="multiple of twice the heads and the kernel odd"):
        build_adapter(config, in_dims=[8], out_dim=12)

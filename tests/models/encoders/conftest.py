"""Small random encoders of every kind."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sonant.models.encoders.base import EncoderConfig
from sonant.models.encoders.load import load_encoder

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "tiny": {
        "vocab_size": 30,
        "dim": 32,
        "num_layers": 2,
        "num_heads": 2,
        "feed_forward_dim": 64,
        "letter_layer": 1,
    },
    "whisper": {
        "d_model": 32,
        "encoder_layers": 2,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "num_mel_bins": 80,
        "max_source_positions": 20,  # windows of 40 mel frames
        "decoder_layers": 1,
        "decoder_attention_heads": 4,
        "decoder_ffn_dim": 16,
        "vocab_size": 60,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 1,
    },
    "wavlm": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "conv_dim": [16] * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
        "vocab_size": 12,
    },
    "seamless": {
        "hidden_size": 32,
        "speech_encoder_layers": 2,
        "speech_encoder_attention_heads": 4,
        "speech_encoder_intermediate_size": 64,
        "conv_depthwise_kernel_size": 7,
        "speech_encoder_chunk_size": 5,
        "speech_encoder_left_chunk_num": 1,
        "decoder_layers": 1,
        "decoder_attention_heads": 4,
        "decoder_ffn_dim": 16,
        "vocab_size": 60,
    },
    "parakeet": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "subsampling_conv_channels": 8,
    },
    "wav2vec2_bert": {
        "hidden_size": 32,
        "output_hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "conv_depthwise_kernel_size": 7,
        "add_adapter": True,
        "num_adapter_layers": 2,
        "vocab_size": 12,
    },
}


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

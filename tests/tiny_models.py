"""The one home of the tests' tiny random models: parts, whole models that LoRA has changed, assistants."""

from typing import Any

import torch

from sonant.generate.assistant import Assistant
from sonant.models.build import SpeechLMConfig, build_speech_lm
from sonant.models.speech_lm import SpeechLM
from sonant.testing import byte_tokenizer

TOKENIZER = byte_tokenizer()
WHISPER = {
    "d_model": 32,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "num_mel_bins": 80,
    "max_source_positions": 50,
}
WAVLM = {
    "kind": "wavlm",
    "architecture": {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "conv_dim": [8, 8],
        "conv_kernel": [10, 3],
        "conv_stride": [5, 2],
        "num_conv_pos_embeddings": 4,
        "num_conv_pos_embedding_groups": 2,
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
    },
}
TINY = {
    "kind": "tiny",
    "architecture": {
        "vocab_size": 30,
        "dim": 32,
        "num_layers": 1,
        "num_heads": 2,
        "feed_forward_dim": 32,
        "letter_layer": 1,
    },
}
LLAMA = {
    "model_type": "llama",
    "vocab_size": TOKENIZER.vocab_size,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.5,
}
GROUPED = LLAMA | {  # two layers, two heads to each key and value
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
}


def tiny_speech_lm(
    *, seed: int = 1, moved: float = 0.5, llm: dict[str, Any] | None = None, dtype: str = "float32", **parts: Any
) -> SpeechLM:
    """Returns a random model; LoRA, and what scales it, have moved as in training: they matter to what it says.

    moved: by how much; llm: what is unlike LLAMA; parts: of a SpeechLMConfig, else one WavLM, 32 of its frames in one
    vector, LoRA of rank 2.
    """
    values = {
        "encoders": [WAVLM],
        "adapter": {"kind": "stack_mlp", "stack": 32},
        "llm": {"architecture": LLAMA | (llm or {}), "dtype": dtype},
        "lora": {"rank": 2},
        **parts,
    }
    torch.manual_seed(seed)
    model = build_speech_lm(SpeechLMConfig.model_validate(values))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or name.startswith("prompt_adapter.up"):
                parameter.normal_(std=moved)
        if model.speech_head is not None and model.speech_head.stop is not None:
            model.speech_head.stop.bias.fill_(-9.0)  # untrained, it would stop at once or never
    return model


def tiny_assistant(**parts: Any) -> Assistant:
    """Returns an assistant around `tiny_speech_lm(**parts)`; with a speech head, it is heard by Griffin and Lim."""
    model = tiny_speech_lm(**parts)
    return Assistant(model, TOKENIZER, vocoder=None if model.speech_head is None else "griffin_lim")

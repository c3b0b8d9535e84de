"""Tiny random assistants for the certificate's tests: with LoRA that has moved, two encoders, a prompt, a voice."""

from typing import Any

import torch

from sonant.chat.messages import Conversation, user
from sonant.generate.assistant import Assistant
from sonant.models.build import SpeechLMConfig, build_speech_lm
from sonant.parity.questions import made_clip
from sonant.testing import byte_tokenizer

TOKENIZER = byte_tokenizer()
WAVLM = {
    "kind": "wavlm",
    "architecture": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
                     "conv_dim": [8, 8], "conv_kernel": [10, 3], "conv_stride": [5, 2], "num_conv_pos_embeddings": 4,
                     "num_conv_pos_embedding_groups": 2, "feat_extract_norm": "layer", "do_stable_layer_norm": True},
}  # fmt: skip
QUESTIONS = (
    Conversation((user("Say it: ", made_clip(0.1, seed=1)),), id="a clip"),
    Conversation((user(made_clip(0.3, seed=2), " and then ", made_clip(0.2, seed=3), " please"),), id="two clips"),
    Conversation((user("only text"),), id="text"),
)


def small_assistant(*, num_encoders: int = 1, **parts: Any) -> Assistant:
    """Returns an assistant that says something else to each question, and LoRA matters to it."""
    torch.manual_seed(1)
    config = SpeechLMConfig.model_validate(
        {
            "encoders": [WAVLM] * num_encoders,
            "adapter": {"kind": "stack_mlp", "stack": 32},
            "llm": {"architecture": {"model_type": "llama", "vocab_size": TOKENIZER.vocab_size, "hidden_size": 16,
                                     "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                                     "max_position_embeddings": 512, "initializer_range": 0.5}},
            "lora": {"rank": 2},
            **parts,
        }
    )  # fmt: skip
    model = build_speech_lm(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "prompt_adapter.up" in name:  # as after training
                parameter.normal_(std=0.5)
        if model.speech_head is not None and model.speech_head.stop is not None:
            model.speech_head.stop.bias.fill_(-9.0)  # untrained, it would stop at once or never
    return Assistant(model, TOKENIZER, vocoder=None if model.speech_head is None else "griffin_lim")

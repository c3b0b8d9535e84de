"""Whatever a model is made of: exported, plain `generate` says what the assistant says."""

from pathlib import Path
from typing import Any

import pytest

from sonant.export.hugging_face import export_hf
from sonant.testing import byte_tokenizer

pytestmark = pytest.mark.recipe  # dozens of models are saved, exported and loaded

BLOCK = {"out_dim": 16, "num_layers": 1, "num_heads": 2, "ffn_dim": 16}
PARTS: dict[str, dict[str, Any]] = {
    "speaker": {"encoders": ["tiny_speaker"]},
    "whisper": {"encoders": ["whisper"]},
    "whisper in 30 s": {"encoders": [{"kind": "whisper", "pad_to_30s": True}]},
    "wavlm": {"encoders": ["wavlm"]},
    "wavlm's weighted states": {"encoders": [{"kind": "wavlm", "weighted_states": True}]},
    "seamless": {"encoders": ["seamless"]},
    "seamless without its end": {"encoders": [{"kind": "seamless", "length_adapter": False}]},
    "parakeet": {"encoders": ["parakeet"]},
    "wav2vec2_bert": {"encoders": ["wav2vec2_bert"]},
    "averaged": {"encoders": [{"kind": "tiny", "average": 2}]},
    "two encoders of one kind of features": {"encoders": ["tiny", "tiny_speaker"]},
    "two encoders of unlike features": {"encoders": ["whisper", "wavlm"]},
    "linear": {"adapter": {"kind": "linear"}},
    "conformer": {"adapter": {"kind": "conformer", "dim": 32, "num_layers": 1, "num_heads": 4}},
    "ctc_pooling": {"adapter": {"kind": "ctc_pooling"}},
    "ctc_pooling by distance": {"adapter": {"kind": "ctc_pooling", "head": "distance"}},
    "conv_glu": {"adapter": {"kind": "conv_glu", "dim": 16, "bottleneck_dim": 8, "branch_dim": 16}},
    "conv_transformer": {"adapter": {"kind": "conv_transformer", "blocks": [BLOCK], "keep_pads": 1, "snap": {}}},
    "llama, not tied": {"llm": {"tie_word_embeddings": False}},
    "gemma": {"llm": {"model_type": "gemma", "num_key_value_heads": 1, "head_dim": 16}},
    "granite": {"llm": {"model_type": "granite", "logits_scaling": 4.0, "embedding_multiplier": 2.0}},
    "gpt_neox": {"llm": {"model_type": "gpt_neox"}, "lora": {"rank": 2, "targets": ("query_key_value",)}},
    "llama3's template": {"tokenizer": byte_tokenizer("llama3")},
    "phi's template": {"tokenizer": byte_tokenizer("phi")},
}


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_the_tokens_are_those_of_the_assistant(
    saved: Any, loaded: Any, answers: Any, said: Any, questions: Any, tmp_path: Path, parts: Any
) -> None:
    folder = saved(**parts)
    export_hf(folder, tmp_path / "out", merge=False)
    processor, model = loaded(tmp_path / "out")
    assert said(model, processor(questions)) == answers(folder)

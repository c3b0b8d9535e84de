"""Small stand-ins for tests and benchmarks: a byte-level chat tokenizer, tones, tiny models."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from sonant.chat.tokenizer import ChatTokenizer
from sonant.models.build import SpeechLMConfig, build_speech_lm
from sonant.models.checkpoint import save_speech_lm
from sonant.models.parts import resolve_part

# name -> (chat template as its family publishes it, shortened to plain turns; special tokens, the last one is eos)
TEMPLATES: dict[str, tuple[str, tuple[str, ...]]] = {
    "chatml": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    ),
    "llama3": (
        "{% for m in messages %}{% set content = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n'"
        " + m['content'] | trim + '<|eot_id|>' %}"
        "{% if loop.first %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    "gemma": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}{% for m in messages %}"
        "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
        "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ m['content'] | trim }}"
        "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        ("<bos>", "<start_of_turn>", "<end_of_turn>", "<eos>"),
    ),
    "mistral": (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %} {{ m['content'] }}{{ eos_token }}"
        "{% else %}[INST] {{ m['content'] }} [/INST]{% endif %}{% endfor %}",
        ("<s>", "</s>"),
    ),
    "phi": (
        "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}",
        ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"),
    ),
}


def byte_tokenizer(template: str = "chatml") -> ChatTokenizer:
    """Returns a tokenizer of 256 bytes and the special tokens of a family of chat templates (see TEMPLATES)."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: id for id, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return chat_tokenizer(tokenizer, template=template)


def chat_tokenizer(tokenizer: Tokenizer, *, template: str) -> ChatTokenizer:
    """Returns a backend tokenizer dressed with the special tokens and the template of a family (see TEMPLATES)."""
    text, specials = TEMPLATES[template]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    hf = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=specials[0], eos_token=specials[-1])
    hf.chat_template = text
    return ChatTokenizer(hf)


def tone(duration_s: float = 0.5, frequency_hz: float = 440.0, sample_rate_hz: int = 16_000) -> NDArray[np.float32]:
    """Returns a sine (S,) at half of full scale."""
    time_s = np.arange(round(duration_s * sample_rate_hz)) / sample_rate_hz
    return (0.5 * np.sin(2 * np.pi * frequency_hz * time_s)).astype(np.float32)


def tiny_llm(vocab_size: int = 320, family: str = "llama", *, seed: int = 0, **changes: Any) -> Any:
    """Returns a random causal language model in eval mode: 2 layers of width 64, 4 heads, 2 key-value heads.

    family: a Hugging Face model type ("llama", "qwen3", "gemma", "mistral", ...); changes: any field of its config.
    """
    shape = {
        "vocab_size": vocab_size,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
        "attn_implementation": "eager",
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**{**shape, **changes})).eval()


def save_cascade(folder: Path) -> Path:
    """Returns the folder, written, of a model that answers untrained: the shipped encoder's text, read by its LLM."""
    parts = {
        "encoders": [{"kind": "tiny", "path": "tiny/encoder"}],
        "adapter": {"kind": "ctc_pooling", "posterior_temperature": 0.5, "blank_penalty": 1.5},
        "llm": {"path": "tiny/llm"},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = build_speech_lm(SpeechLMConfig.model_validate(parts))
    save_speech_lm(built, ChatTokenizer.from_folder(resolve_part("tiny/llm")), folder)
    return folder

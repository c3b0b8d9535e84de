"""The stand-ins are what tests take them for."""

import numpy as np
import pytest
import torch

from sonant.testing import TEMPLATES, byte_tokenizer, tiny_llm, tone


def test_a_tone_has_its_length_pitch_and_level():
    samples = tone(0.5, 440.0, 16_000)
    assert (samples.shape, samples.dtype) == ((8_000,), np.float32)
    assert np.abs(samples).max() == pytest.approx(0.5, abs=1e-3)
    assert np.abs(np.fft.rfft(samples)).argmax() / 0.5 == 440.0


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_byte_tokenizer_has_a_token_for_every_byte_and_one_for_every_special(template):
    tokenizer = byte_tokenizer(template)
    assert tokenizer.vocab_size == 256 + len(TEMPLATES[template][1]) == 256 + len(tokenizer.special_ids)
    assert len(tokenizer.encode_text("é\0")) == 3


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma"])
def test_a_tiny_llm_is_the_same_for_the_same_seed_and_leaves_chance_alone(family):
    state = torch.get_rng_state()
    first, second = (tiny_llm(300, family)(input_ids=torch.tensor([[1, 2, 3]])).logits for _ in range(2))
    assert first.shape == (1, 3, 300)
    assert torch.equal(first, second)
    assert torch.equal(state, torch.get_rng_state())

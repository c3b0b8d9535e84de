import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from train_toy import ToySpeechLM, run
from transformers import DynamicCache

from sonant.audio.features import FeatureSpec
from sonant.batch import Batch
from sonant.models.build import SpeechLMConfig, build_speech_lm
from sonant.models.losses import TokenLoss
from sonant.models.speech_lm import SpeechLM
from sonant.train.recompute import recompute_layers

LLM = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
KEYS = {"num_key_value_heads": 2, "head_dim": 8, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
TINY = {
    "kind": "tiny",
    "architecture": {
        "dim": 16,
        "num_layers": 2,
        "num_heads": 2,
        "feed_forward_dim": 24,
        "dropout": 0.1,
        "letter_layer": 1,
    },
}
PARAKEET = {
    "kind": "parakeet",
    "architecture": {
        **{
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 24,
            "dropout": 0.1,
        },
        **{"subsampling_conv_channels": 8, "num_mel_bins": 80},
    },
}


def speech_lm(family: str = "llama", encoder: Any = TINY, prompt_lora: bool = True) -> SpeechLM:
    """Dropout in encoder, adapter (a Conformer: batch norm too) and LoRA; everything but the LLM's weights trains."""
    torch.manual_seed(0)
    model = build_speech_lm(
        SpeechLMConfig.model_validate(
            {
                "encoders": [encoder],
                "adapter": {"kind": "conformer", "dim": 16, "num_layers": 2, "num_heads": 2, "dropout": 0.1},
                "llm": {"architecture": {"model_type": family, **LLM, **KEYS}, "attention": "sdpa"},
                "lora": {"rank": 4, "dropout": 0.1},
                "prompt_lora": {"granularity": "layer"} if prompt_lora else None,
            }
        )
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "prompt_adapter.up" in name:
            nn.init.normal_(parameter, std=0.2)
    return model.train()


def heard_and_read(spec: FeatureSpec) -> Batch:
    random = torch.Generator().manual_seed(1)
    tokens, masks = torch.randint(50, (2, 9), generator=random), torch.zeros(2, 9)
    masks[:, 5:] = 1.0
    lengths = torch.tensor([9, 7])
    return Batch(
        ids=("a", "b"),
        tasks=("t", "t"),
        token_ids=tokens,
        token_lengths=lengths,
        loss_mask=masks * (torch.arange(9) < lengths[:, None]),
        prompt_ids=tokens[:, :3],
        prompt_lengths=torch.tensor([3, 2]),
        audio_row=torch.tensor([0, 1]),
        audio_position=torch.tensor([2, 3]),
        transcript_ids=torch.zeros(2, 0, dtype=torch.int64),
        transcript_lengths=torch.zeros(2, dtype=torch.int64),
        features={spec: torch.randn(2, 160, spec.dim, generator=random)},
        feature_lengths={spec: torch.tensor([160, 97])},
        audio_duration_s=2.5,
    )


def step(model: SpeechLM, *, seed: int = 3) -> tuple[Tensor, dict[str, Tensor], int]:
    """The loss, all gradients and running statistics, and the bytes kept between forward and backward."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(seed)
    model.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = TokenLoss()(model, heard_and_read(model.feature_specs[0])).total
    loss.backward()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), found | dict(model.named_buffers()), sum(n for at, n in kept.items() if at not in weights)


@pytest.mark.parametrize(
    ("family", "encoder", "prompt_lora"),
    [("llama", TINY, True), ("qwen3", PARAKEET, False), ("gemma", TINY, False)],
    ids=["llama", "qwen3", "gemma"],
)
def test_losses_gradients_and_statistics_are_those_of_layers_that_keep_everything(
    family: str, encoder: Any, prompt_lora: bool
) -> None:
    plain = speech_lm(family, encoder, prompt_lora)
    again = copy.deepcopy(plain)
    assert recompute_layers(again) == 3 + 2 + 2
    for seed in (3, 4):  # the second step sees the first one's running statistics
        (loss, numbers, kept), (other, others, fewer) = step(plain, seed=seed), step(again, seed=seed)
        assert torch.equal(loss, other)
        assert numbers.keys() == others.keys()
        assert [name for name in numbers if not torch.equal(numbers[name], others[name])] == []
        assert any("lora_A" in name for name in numbers)
        assert any("encoders" in name for name in numbers)
        assert fewer < kept / 2


def test_names_answers_and_evaluation_stay_as_they_are() -> None:
    plain = speech_lm()
    again = copy.deepcopy(plain)
    recompute_layers(again)
    assert again.state_dict().keys() == plain.state_dict().keys()
    batch = heard_and_read(plain.feature_specs[0])
    expected, found = (m.eval()(batch).hidden for m in (plain, again))
    assert torch.equal(expected, found)


def test_a_layer_that_fills_a_cache_fills_it_once() -> None:
    model = speech_lm(prompt_lora=False)
    recompute_layers(model)
    cache = DynamicCache()
    embeds = torch.randn(1, 9, 32, requires_grad=True)
    model.llm.get_decoder()(
        inputs_embeds=embeds, past_key_values=cache, use_cache=True
    ).last_hidden_state.sum().backward()
    assert cache.get_seq_length() == 9


def test_layers_that_transformers_computes_again_are_left_to_it() -> None:
    model = speech_lm()
    model.llm.activation_checkpointing_enable({"use_reentrant": False})
    assert recompute_layers(model) == 2 + 2


def test_a_run_with_it_is_the_run_without_it(tmp_path: Path) -> None:
    for how in ("none", "layers"):
        run(tmp_path / how, steps=4, dropout=0.1, activation_checkpointing=how)
    ends = [(tmp_path / how / "last/model.txt").read_text() for how in ("none", "layers")]
    assert ends[0] == ends[1]
    assert recompute_layers(ToySpeechLM()) == 2

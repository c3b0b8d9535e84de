"""More LoRA beside the LoRA there is: what a second stage of training may add."""

import torch
from torch import Tensor, nn

from sonant.errors import ModelError
from sonant.models.build import SpeechLMConfig
from sonant.models.lora import PEFT_NAME, lora_layers
from sonant.models.speech_lm import SpeechLM


@torch.no_grad()
def widen_lora(model: SpeechLM, more: int) -> None:
    """Adds `more` to the rank of every LoRA layer of `model`, in place; it computes what it computed before.

        y = W x + alpha / rank * (B A x + B' A' x)        A' random, B' zero: a second LoRA that begins beside the first

    Its strength alpha / rank stays the same, so alpha grows with the rank.

    Raises: ModelError if the model has no LoRA, or one whose layers share their A (layout "fused").
    """
    layers = lora_layers(model.llm)
    config = model.config
    if not layers or not isinstance(config, SpeechLMConfig) or config.lora is None:
        raise ModelError(f"there is no LoRA whose rank could grow by {more}; set lora")
    if config.lora.layout == "fused":
        raise ModelError("LoRA of layout 'fused' cannot grow: its layers share one A; use layout 'separate'")
    rank = config.lora.rank + more
    for layer in layers:
        a, b = layer.lora_A[PEFT_NAME], layer.lora_B[PEFT_NAME]
        new = torch.empty(more, a.in_features, device=a.weight.device)
        nn.init.kaiming_uniform_(new, a=5**0.5)
        _replace(a, torch.cat([a.weight, new]))
        _replace(b, torch.cat([b.weight, b.weight.new_zeros(b.out_features, more)], dim=1))
        layer.r[PEFT_NAME] = rank
    alpha = config.lora.alpha * rank / config.lora.rank
    model.config = config.model_copy(update={"lora": config.lora.model_copy(update={"rank": rank, "alpha": alpha})})


def _replace(linear: nn.Linear, weight: Tensor) -> None:
    linear.weight = nn.Parameter(weight, requires_grad=linear.weight.requires_grad)
    linear.out_features, linear.in_features = weight.shape

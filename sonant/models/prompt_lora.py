"""Prompt-aware LoRA: how strongly LoRA speaks up is read off the written question.

"prompt" ── LLM, LoRA off ──▶ H ── W2 GELU(W1 H + b1) + b2 ──▶ Z ── pooled over tokens ──▶ v ── form ──▶ s
y = W x + s * alpha / rank * B A x        in every LoRA layer, at every position, for this row alone
"""

from typing import Literal

import pydantic
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sonant.config import Config
from sonant.models.encoders.base import valid_mask
from sonant.models.lora import ScaleShape


class PromptLoraConfig(Config):
    """How a prompt scales LoRA. form, with v what the adapter says of the prompt (see `PromptAdapter`):

    clip      min(ReLU(v), clip)         as published; LoRA starts largely off
    residual  1 + reach * tanh(v)        starts at exactly 1: as the LoRA of stage 1
    fixed     scale                      for every prompt; nothing is read or trained, and LoRA can be merged
    """

    form: Literal["clip", "residual", "fixed"] = "residual"
    # One vector for all layers; one number; or one vector for each layer, of rank hidden_dim.
    granularity: Literal["vector", "scalar", "layer"] = "vector"
    hidden_dim: int | None = pydantic.Field(None, ge=1)  # None: a quarter of the LLM's width, as published
    clip: float = pydantic.Field(3.0, gt=0)
    reach: float = pydantic.Field(1.0, gt=0)
    scale: float = 1.0
    final_norm: bool = False  # read the prompt's hidden states after the LLM's last norm, not before


class PromptAdapter(nn.Module):
    """Turns hidden states of a prompt into the scale of LoRA's outputs.

    v is the mean of Z over the prompt's own tokens, weighted by softmax of Linear(Z). In the residual form W2 and b2
    start at zero, so that v = 0 and s == 1 whatever the weights of the mean; W2 learns first, as B does in LoRA.

    The published LLM is 4096 wide in q, k, v and o. Where widths differ (grouped queries have narrower k and v) the
    vector has a piece for each distinct width (`ScaleShape`); with one width it is the published vector.

    Source: WavLLM (arXiv 2404.00656) and its code: form clip, granularity vector, before the final norm. Differs in
    that padding takes no part in the mean, and that s multiplies alpha / rank (the published alpha is the rank).
    Always float32: under autocast, bfloat16 near 1 is too coarse.
    """

    def __init__(self, config: PromptLoraConfig, *, dim: int, shape: ScaleShape) -> None:
        super().__init__()
        assert config.form != "fixed", "a fixed scale needs no adapter"
        self.config = config
        self.num_layers = shape.num_layers if config.granularity == "layer" else 1
        size = self.num_layers * (1 if config.granularity == "scalar" else shape.dim)
        hidden_dim = config.hidden_dim or max(1, dim // 4)
        self.down = nn.Linear(dim, hidden_dim)
        self.up = nn.Linear(hidden_dim, size)
        self.attention = nn.Linear(size, 1)
        if config.form == "residual":
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.up.bias)

    def forward(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Returns s (B, num_layers or 1, dim or 1) float32 of hidden states (B, P, D) with `lengths` (B,) of 1 or more.

        1 stands for all layers, or all channels, alike.
        """
        with torch.autocast(hidden.device.type, enabled=False):
            z = self.up(F.gelu(self.down(hidden.float())))  # (B, P, size)
            logits = self.attention(z).squeeze(2).masked_fill(~valid_mask(lengths, z.shape[1]), float("-inf"))
            v = (logits.softmax(1)[..., None] * z).sum(1).unflatten(1, (self.num_layers, -1))
            if self.config.form == "clip":
                return v.relu().clamp(max=self.config.clip)
            return 1 + self.config.reach * v.tanh()

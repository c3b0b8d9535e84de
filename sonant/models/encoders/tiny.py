"""The tiny encoder: small enough to train from nothing on two CPU cores, and shipped with Sonant.

    log-mel (A, F, 80) ─ conv /2 ─ conv /2 ─ [ attention · convolution · feed-forward ] x N ─ norm ─> (A, T, dim)
                                                     └ after layer `letter_layer`: letters ┘        └> ctc_head
                                                                                        T = ceil(ceil(F / 2) / 2)

It reads 100 frames a second, gives 25, and its CTC head spells in the tokens of the tiny language model.
"""

import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sonant.audio.features import FeatureSpec
from sonant.config import Config, validate
from sonant.errors import ModelError
from sonant.models.encoders.base import EncoderConfig, conv_lengths, valid_mask, zero_padding
from sonant.models.parts import read_part_config, resolve_part
from sonant.models.rotary import rotate, rotation

MODEL_TYPE = "sonant_tiny_encoder"


class TinyArchitecture(Config):
    """The shape of a tiny encoder; what stands in its config.json."""

    vocab_size: int = Field(default=640, gt=0)  # of the tokenizer its CTC head spells in; blank = vocab_size
    dim: int = Field(default=160, gt=0)
    num_layers: int = Field(default=5, gt=0)
    num_heads: int = Field(default=4, gt=0)
    feed_forward_dim: int = Field(default=480, gt=0)
    kernel_size: int = Field(default=11, gt=0)  # frames of 40 ms
    letter_layer: int = Field(default=3, gt=0)  # the layer whose output the letter head reads
    dropout: float = Field(default=0.0, ge=0, lt=1)


class TinyEncoder(nn.Module):
    """Frames at 25 Hz, ceil(ceil(F / 2) / 2) for a clip of F mel frames.

    `ctc_head` spells in tokens of the tiny language model (blank = the last id). `letter_head` spells letters halfway
    up; training needs it (without it CTC on tokens finds no alignment for minutes), recognition does not.

    Source: Conformer (Gulati et al. 2020) without the first half feed-forward, with rotary positions (Su et al. 2021)
    and layer norm for batch norm, so that a clip's frames do not depend on its company; intermediate CTC on a coarser
    vocabulary (Lee and Watanabe 2021; Sanabria and Metze 2018).
    """

    LETTERS = "abcdefghijklmnopqrstuvwxyz "  # the letter head's classes; its blank is the last id, 27

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        shape, folder, self.feature_spec = _shape(config)
        self.dim = shape.dim
        self.frame_rate_hz = self.feature_spec.frame_rate_hz / 4
        self.architecture: dict[str, Any] = shape.model_dump()
        self.letter_layer = shape.letter_layer
        self.conv1 = nn.Conv1d(self.feature_spec.dim, shape.dim, 3, stride=2, padding=1)
        self.conv2 = nn.Conv1d(shape.dim, shape.dim, 3, stride=2, padding=1)
        self.layers = nn.ModuleList(_Layer(shape) for _ in range(shape.num_layers))
        self.norm = nn.LayerNorm(shape.dim)
        self.ctc_head = nn.Linear(shape.dim, shape.vocab_size + 1)
        self.letter_head = nn.Linear(shape.dim, len(self.LETTERS) + 1)
        if folder is not None:
            _load_weights(self, folder)
        self.to(getattr(torch, config.dtype))

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Returns ceil(ceil(F / 2) / 2) (A,) for `lengths` (A,) mel frames."""
        return self._halved(self._halved(lengths))

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Returns frames (A, T, dim) of log-mel `features` (A, F, M) with `lengths` (A,)."""
        return self.forward_with_letters(features, lengths)[0]

    def forward_with_letters(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Returns frames (A, T, dim), and logits (A, T, 28) of letters, space and, last, blank."""
        hidden = zero_padding(features.to(self.conv1.weight.dtype), lengths).transpose(1, 2)
        lengths = self._halved(lengths)
        hidden = zero_padding(F.gelu(self.conv1(hidden)).transpose(1, 2), lengths).transpose(1, 2)
        lengths = self._halved(lengths)
        hidden = F.gelu(self.conv2(hidden)).transpose(1, 2)  # (A, T, dim)
        mask = valid_mask(lengths, hidden.shape[1])
        # A clip without frames still attends to one, which is no number otherwise.
        attended = valid_mask(lengths.clamp(min=1), hidden.shape[1])[:, None, None]
        turn = rotation(hidden.shape[1], self.dim // self.architecture["num_heads"], like=hidden)
        letters = hidden
        for number, layer in enumerate(self.layers, start=1):
            hidden = layer(hidden, mask, attended, turn)
            if number == self.letter_layer:
                letters = hidden
        return zero_padding(self.norm(hidden), lengths), self.letter_head(letters)

    def ctc_logits(self, frames: Tensor) -> Tensor:
        """Returns logits (A, T, V + 1) over the tokenizer's ids and, last, the blank."""
        logits: Tensor = self.ctc_head(frames)
        return logits

    def save(self, folder: Path) -> None:
        """Writes config.json and model.safetensors; the weights as float16, which halves them and costs no accuracy."""
        folder.mkdir(parents=True, exist_ok=True)
        values = {"model_type": MODEL_TYPE, "feature_spec": self.feature_spec.to_json(), **self.architecture}
        (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        weights = {name: tensor.to(torch.float16).contiguous() for name, tensor in self.state_dict().items()}
        safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    @staticmethod
    def _halved(lengths: Tensor) -> Tensor:
        return conv_lengths(lengths, kernel=3, stride=2, padding=1)


class _Layer(nn.Module):
    """Attention to the whole clip, convolution over its neighbourhood, feed-forward; each added to what comes in."""

    def __init__(self, shape: TinyArchitecture) -> None:
        super().__init__()
        dim = shape.dim
        self.num_heads = shape.num_heads
        self.attention_norm = nn.LayerNorm(dim)
        self.attention_in = nn.Linear(dim, 3 * dim)
        self.attention_out = nn.Linear(dim, dim)
        self.conv_norm = nn.LayerNorm(dim)
        self.conv_in = nn.Linear(dim, 2 * dim)
        self.conv = nn.Conv1d(dim, dim, shape.kernel_size, padding=shape.kernel_size // 2, groups=dim)
        self.conv_inner_norm = nn.LayerNorm(dim)
        self.conv_out = nn.Linear(dim, dim)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, shape.feed_forward_dim),
            nn.SiLU(),
            nn.Linear(shape.feed_forward_dim, dim),
        )
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, x: Tensor, mask: Tensor, attended: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        """x: (A, T, dim); mask: (A, T) true where real; attended: (A, 1, 1, T)."""
        x = x + self.dropout(self._attention(self.attention_norm(x), attended, turn))
        x = x + self.dropout(self._convolution(self.conv_norm(x), mask))
        return x + self.dropout(self.feed_forward(x))

    def _attention(self, x: Tensor, attended: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        num_clips, num_frames, dim = x.shape
        heads = self.attention_in(x).view(num_clips, num_frames, 3, self.num_heads, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # (A, H, T, dim / H) each
        query, key = rotate(query, turn), rotate(key, turn)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=attended)
        return self.attention_out(mixed.transpose(1, 2).reshape(num_clips, num_frames, dim))

    def _convolution(self, x: Tensor, mask: Tensor) -> Tensor:
        gated = F.glu(self.conv_in(x), dim=-1).masked_fill(~mask[..., None], 0)
        near = self.conv(gated.transpose(1, 2)).transpose(1, 2)
        return self.conv_out(F.silu(self.conv_inner_norm(near)))


def _shape(config: EncoderConfig) -> tuple[TinyArchitecture, Path | None, FeatureSpec]:
    """The architecture, the folder of the weights if there is one, and the features they were trained on."""
    spec = FeatureSpec.tiny()
    if config.num_layers is not None:
        raise ModelError(
            f"num_layers={config.num_layers}: the tiny encoder is used whole; remove it, "
            "or give an architecture with num_layers"
        )
    if config.path is None:
        values, where, folder = dict(config.architecture or {}), "architecture of the tiny encoder", None
    else:
        where = resolve_part(config.path)
        values, folder = read_part_config(where), Path(where).expanduser()
        if values.pop("model_type", None) != MODEL_TYPE:
            raise ModelError(f"{where}: holds no tiny encoder (model_type {MODEL_TYPE}); name another kind")
        spec = FeatureSpec.from_json(values.pop("feature_spec", {}))
    known = set(TinyArchitecture.model_fields)
    shape = validate(TinyArchitecture, {k: v for k, v in values.items() if folder is None or k in known}, where=where)
    if shape.dim % (2 * shape.num_heads) or shape.kernel_size % 2 == 0 or shape.letter_layer > shape.num_layers:
        raise ModelError(
            f"{where}: dim {shape.dim} must be a multiple of 2 x num_heads ({shape.num_heads}), kernel_size "
            f"{shape.kernel_size} odd, and letter_layer {shape.letter_layer} at most num_layers ({shape.num_layers})"
        )
    return shape, folder, spec


def _load_weights(encoder: TinyEncoder, folder: Path) -> None:
    """Fills the encoder. Raises: ModelError if the file is missing, broken or of another shape."""
    path = folder / "model.safetensors"
    try:
        encoder.load_state_dict(safetensors.torch.load_file(path))
    except (OSError, safetensors.SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{path}: cannot load the weights ({reason}); run `sonant world build`") from None

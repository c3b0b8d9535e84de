"""What the tiny encoders share: two convolutions that quarter the frame rate, layers, and how they are kept.

    log-mel (A, F, 80) ─ conv /2 ─ conv /2 ─ [ attention · convolution · feed-forward ] x N ─> a state (A, T, dim) each
                                                                                        T = ceil(ceil(F / 2) / 2)

Source: Conformer (Gulati et al. 2020) without the first half feed-forward, with rotary positions (Su et al. 2021) and
layer norm for batch norm, so that a clip's frames do not depend on its company.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, TypeVar

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


class TrunkShape(Config):
    """The shape of a trunk; what stands in an encoder's config.json."""

    dim: int = Field(default=160, gt=0)
    num_layers: int = Field(default=5, gt=0)
    num_heads: int = Field(default=4, gt=0)
    feed_forward_dim: int = Field(default=480, gt=0)
    kernel_size: int = Field(default=11, gt=0)  # frames of 40 ms
    dropout: float = Field(default=0.0, ge=0, lt=1)


S = TypeVar("S", bound=TrunkShape)


class TinyTrunk(nn.Module):
    """The base of both tiny encoders: weights, lengths and files; what they make of the layers' states is theirs."""

    model_type: ClassVar[str]  # how config.json tells one from the other

    def __init__(self, shape: TrunkShape, spec: FeatureSpec) -> None:
        super().__init__()
        self.feature_spec = spec
        self.dim = shape.dim
        self.frame_rate_hz = spec.frame_rate_hz / 4
        self.architecture: dict[str, Any] = shape.model_dump()
        self.conv1 = nn.Conv1d(spec.dim, shape.dim, 3, stride=2, padding=1)
        self.conv2 = nn.Conv1d(shape.dim, shape.dim, 3, stride=2, padding=1)
        self.layers = nn.ModuleList(_Layer(shape) for _ in range(shape.num_layers))

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Returns ceil(ceil(F / 2) / 2) (A,) for `lengths` (A,) mel frames."""
        return self._halved(self._halved(lengths))

    def states(self, features: Tensor, lengths: Tensor) -> Iterator[Tensor]:
        """Yields (A, T, dim): what the convolutions give of log-mel `features` (A, F, M), then what each layer gives.

        Frames past a clip's end hold anything.
        """
        hidden = zero_padding(features.to(self.conv1.weight.dtype), lengths).transpose(1, 2)
        lengths = self._halved(lengths)
        hidden = zero_padding(F.gelu(self.conv1(hidden)).transpose(1, 2), lengths).transpose(1, 2)
        lengths = self._halved(lengths)
        hidden = F.gelu(self.conv2(hidden)).transpose(1, 2)  # (A, T, dim)
        mask = valid_mask(lengths, hidden.shape[1])
        # A clip without frames still attends to one, which is no number otherwise.
        attended = valid_mask(lengths.clamp(min=1), hidden.shape[1])[:, None, None]
        turn = rotation(hidden.shape[1], self.dim // self.architecture["num_heads"], like=hidden)
        yield hidden
        for number, layer in enumerate(self.layers):
            hidden = self.after_layer(number, layer(hidden, mask, attended, turn), mask)
            yield hidden

    def after_layer(self, number: int, hidden: Tensor, mask: Tensor) -> Tensor:
        """Returns what the next layer reads (A, T, dim) of layer `number`'s `hidden`; mask: (A, T), true where real."""
        return hidden

    def save(self, folder: Path) -> None:
        """Writes config.json and model.safetensors; the weights as float16, which halves them and costs no accuracy."""
        folder.mkdir(parents=True, exist_ok=True)
        values = {"model_type": self.model_type, "feature_spec": self.feature_spec.to_json(), **self.architecture}
        (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        weights = {name: tensor.to(torch.float16).contiguous() for name, tensor in self.state_dict().items()}
        safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    @staticmethod
    def _halved(lengths: Tensor) -> Tensor:
        return conv_lengths(lengths, kernel=3, stride=2, padding=1)


class _Layer(nn.Module):
    """Attention to the whole clip, convolution over its neighbourhood, feed-forward; each added to what comes in."""

    def __init__(self, shape: TrunkShape) -> None:
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


def read_shape(config: EncoderConfig, cls: type[S], *, model_type: str, spec: FeatureSpec) -> tuple[S, FeatureSpec]:
    """Returns the architecture, and the features it was trained on (`spec` if it has no weights yet).

    Raises: ModelError for a folder of another kind or a shape that cannot be, ConfigError for unknown keys.
    """
    if config.num_layers is not None:
        raise ModelError(
            f"num_layers={config.num_layers}: the tiny encoder is used whole; remove it, "
            "or give an architecture with num_layers"
        )
    if config.path is None:
        values, where = dict(config.architecture or {}), f"architecture of the {config.kind} encoder"
    else:
        where = resolve_part(config.path)
        values = read_part_config(where)
        if values.pop("model_type", None) != model_type:
            raise ModelError(f"{where}: holds no {config.kind} encoder (model_type {model_type}); name another kind")
        spec = FeatureSpec.from_json(values.pop("feature_spec", {}))
        values = {key: value for key, value in values.items() if key in cls.model_fields}
    shape = validate(cls, values, where=where)
    if shape.dim % (2 * shape.num_heads) or shape.kernel_size % 2 == 0:
        raise ModelError(
            f"{where}: dim {shape.dim} must be a multiple of 2 x num_heads ({shape.num_heads}) and kernel_size "
            f"{shape.kernel_size} odd"
        )
    return shape, spec


def load_weights(encoder: TinyTrunk, config: EncoderConfig) -> None:
    """Fills the encoder from `config.path`, if it has one.

    Raises: ModelError if the file is missing, broken or of another shape.
    """
    if config.path is None:
        return
    path = Path(resolve_part(config.path)).expanduser() / "model.safetensors"
    try:
        encoder.load_state_dict(safetensors.torch.load_file(path))
    except (OSError, safetensors.SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{path}: cannot load the weights ({reason}); run `sonant world build`") from None

"""FastConformer over clips of unequal length, nothing being computed for padding: Hugging Face's modules, read anew.

    mels ─ a clip behind the other, silence between them ─ three strided convolutions ─▶ frames (1, N, D), gaps left out
         ─ blocks: position by position over all frames, attention and convolution inside each clip ─▶

Equal to transformers' `ParakeetEncoder` on each clip alone (a test holds them together), with its weights in their
places. Faster on a CPU because frames stay in the order (time, mel, channel) that its kernels like best, and because
relative positions are projected once and not once for each clip.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.models.parakeet.modeling_parakeet import (
    ParakeetEncoder,
    ParakeetEncoderAttention,
    ParakeetEncoderBlock,
    ParakeetEncoderConvolutionModule,
    ParakeetEncoderSubsamplingConv2D,
)

from sonant.models.encoders.base import conv_lengths, valid_mask, zero_padding
from sonant.models.packing import Pack

_LINE = 16  # frames: the line of all clips is as long or twice, thrice ..., so that kernels of one shape serve again


class PackedBlock(ParakeetEncoderBlock):
    """A block that reads a pack; its modules are those of the class it replaces."""

    def forward(self, hidden: Tensor, positions: Tensor, pack: Pack) -> Tensor:
        """Returns (1, N, D) of `hidden` (1, N, D); positions (1, 2 L - 1, D) from L - 1 down, L of the longest clip."""
        hidden = hidden + 0.5 * self.feed_forward1(self.norm_feed_forward1(hidden))
        hidden = hidden + _attend(self.self_attn, self.norm_self_att(hidden), positions, pack)
        hidden = hidden + _convolve(self.conv, self.norm_conv(hidden), pack)
        hidden = hidden + 0.5 * self.feed_forward2(self.norm_feed_forward2(hidden))
        normed: Tensor = self.norm_out(hidden)
        return normed


def pack_blocks(model: ParakeetEncoder) -> None:
    """Makes the blocks of `model` read packs, in place: `encode` is how it runs from now on."""
    for layer in model.layers:
        layer.__class__ = PackedBlock


def encode(model: ParakeetEncoder, features: Tensor, lengths: Tensor) -> Tensor:
    """Returns frames (A, T, D) of log-mels `features` (A, F, M) with `lengths` (A,), zeros over the padding."""
    frames, frame_lengths = _subsample(model.subsampling, zero_padding(features, lengths), lengths)
    pack = Pack.of(frame_lengths, frames.shape[1])
    hidden = pack.pack(frames) * model.input_scale
    longest = max((group.width for _, group in pack.groups), default=1)
    positions = model.encode_positions(hidden.new_empty(1, longest, hidden.shape[2]))
    hidden = F.dropout(hidden, p=model.dropout, training=model.training)
    positions = F.dropout(positions, p=model.dropout_positions, training=model.training)
    for layer in model.layers:
        hidden = layer(hidden, positions, pack)
    return pack.unpack(hidden)


def _subsample(module: ParakeetEncoderSubsamplingConv2D, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Frames (A, T, D) and their lengths (A,): one of `factor` mel frames.

    So much silence follows each clip that none is reached from the next one, after every second convolution too.
    """
    factor = module.stride**module.num_layers
    sizes = (lengths + factor // 2 + factor - 1) // factor * factor
    width = int(sizes.max())
    line = Pack.of(sizes, width)
    hidden = line.pack(F.pad(features, (0, 0, 0, width - features.shape[1])))[:, : line.num_positions, :, None]
    hidden = F.pad(hidden, (0, 0, 0, 0, 0, -line.num_positions % (_LINE * factor)))
    for layer, after in zip(module.layers, [*module.layers[1:], None], strict=True):
        if isinstance(layer, nn.Conv2d) and layer.stride != (1, 1):
            lengths = conv_lengths(lengths, kernel=module.kernel_size, stride=module.stride, padding=module.padding)
            sizes, width = sizes // module.stride, width // module.stride
            line = Pack.of(sizes, width)
            first = isinstance(after, nn.ReLU)
            hidden = _patches(module, hidden) if first else _channels_last(layer, hidden)
            is_clip = line.pack(valid_mask(lengths, width))[0, : line.num_positions]
            silence = (~F.pad(is_clip, (0, hidden.shape[1] - line.num_positions))).nonzero()[:, 0]
        if isinstance(after, nn.ReLU):  # of one channel, or 1 x 1: as products
            assert isinstance(layer, nn.Conv2d)
            hidden = _linear_relu(hidden, layer.weight.flatten(1), layer.bias, silence)
    frames = module.linear(hidden.transpose(2, 3).flatten(2))  # (1, T, mels and channels) as the weights expect them
    return line.unpack(frames)[:, : int(lengths.max())], lengths


def _linear_relu(x: Tensor, weight: Tensor, bias: Tensor | None, silence: Tensor) -> Tensor:
    """See `_LinearReLU`; autocast, which casts what goes into a product, does not see into it."""
    assert bias is not None
    if torch.is_autocast_enabled(x.device.type):
        x, weight, bias = (each.to(torch.get_autocast_dtype(x.device.type)) for each in (x, weight, bias))
    made: Tensor = _LinearReLU.apply(x, weight, bias, silence)
    return made


class _LinearReLU(torch.autograd.Function):
    """relu(x W^T + bias) of x (1, T, M, I), and zeros at the times `silence`: what is zero hands no gradient on.

    The largest tensors of the encoder are made here; ReLU and silence happen in their place.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, silence: Tensor) -> Tensor:
        y = F.linear(x, weight, bias).relu_().index_fill_(1, silence, 0.0)
        ctx.save_for_backward(x, weight, y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, y = ctx.saved_tensors
        grad = torch.ops.aten.threshold_backward(grad, y, 0).flatten(0, 2)
        x_grad = (grad @ weight).view(x.shape) if ctx.needs_input_grad[0] else None
        return x_grad, grad.T @ x.flatten(0, 2), grad.sum(0), None


def _patches(module: ParakeetEncoderSubsamplingConv2D, hidden: Tensor) -> Tensor:
    """(1, T, M, 1) -> (1, T', M', 9): what the first convolution reads; kernels are slow where there is one channel."""
    padded = F.pad(hidden[..., 0], (module.padding,) * 4)
    patches = padded.unfold(1, module.kernel_size, module.stride).unfold(2, module.kernel_size, module.stride)
    return patches.flatten(3)


def _channels_last(layer: nn.Conv2d, hidden: Tensor) -> Tensor:
    """(1, T, M, C) -> (1, T', M', C), without moving a number: (1, C, T, M) in the memory format channels_last."""
    convolved: Tensor = layer(hidden.permute(0, 3, 1, 2))
    return convolved.permute(0, 2, 3, 1)


def _attend(module: ParakeetEncoderAttention, hidden: Tensor, positions: Tensor, pack: Pack) -> Tensor:
    """Attention with relative positions inside each clip. Source: Dai et al. 2019, section 3.3."""
    shape = (1, hidden.shape[1], -1, module.head_dim)
    query, key, value = (p(hidden).view(shape) for p in (module.q_proj, module.k_proj, module.v_proj))
    relative = module.relative_k_proj(positions).view(1, positions.shape[1], -1, module.head_dim).permute(0, 2, 3, 1)
    longest, heard = (positions.shape[1] + 1) // 2, []
    for where, group in pack.groups:
        q, k, v = (group.unpack(x[:, where]).transpose(1, 2) for x in (query, key, value))
        near = relative[..., longest - group.width : longest + group.width - 1]
        by_position = module._rel_shift((q + module.bias_v[:, None]) @ near)[..., : group.width]
        scores = ((q + module.bias_u[:, None]) @ k.transpose(2, 3) + by_position) * module.scaling
        if not group.is_full:
            is_frame = valid_mask(torch.tensor(group.lengths, device=scores.device), group.width)
            scores = scores.masked_fill(~is_frame[:, None, None], -torch.inf)
        weights = F.dropout(scores.softmax(-1), p=module.attention_dropout, training=module.training)
        heard.append(group.pack((weights @ v).transpose(1, 2))[:, : group.num_positions])
    fill = hidden.new_zeros(1, hidden.shape[1] - pack.num_positions, *query.shape[2:])
    attended: Tensor = module.o_proj(torch.cat([*heard, fill], dim=1).flatten(2))
    return attended


def _convolve(module: ParakeetEncoderConvolutionModule, hidden: Tensor, pack: Pack) -> Tensor:
    """The convolution module, zeros on both sides of each clip."""
    gated = F.glu(F.linear(hidden, module.pointwise_conv1.weight[..., 0], module.pointwise_conv1.bias), dim=-1)
    depthwise, convolved = module.depthwise_conv, []
    weight = depthwise.weight[:, :, None]
    for where, group in pack.groups:
        rows = group.unpack(gated[:, where]).transpose(1, 2)[:, :, None]  # (B, D, 1, L) in the format channels_last
        rows = F.conv2d(rows, weight, depthwise.bias, padding=(0, module.padding), groups=depthwise.groups)
        convolved.append(group.pack(rows[:, :, 0].transpose(1, 2))[:, : group.num_positions])
    fill = hidden.new_zeros(1, hidden.shape[1] - pack.num_positions, hidden.shape[2])
    together = torch.cat([*convolved, fill], dim=1)
    normed = module.activation(module.norm(together[0])[None])
    return F.linear(normed, module.pointwise_conv2.weight[..., 0], module.pointwise_conv2.bias)

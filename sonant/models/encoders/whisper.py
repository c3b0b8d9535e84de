"""Whisper's encoder over clips of any length."""

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from sonant.audio.features import FeatureSpec
from sonant.errors import ModelError
from sonant.models.encoders.base import EncoderConfig, conv_lengths, valid_mask, zero_padding
from sonant.models.packing import Pack, use_packed_attention
from sonant.models.parts import PartClass, architecture_of, load_part

_PART = PartClass(
    model_class=transformers.models.whisper.modeling_whisper.WhisperEncoder,
    model_types=("whisper",),
    layers_key="encoder_layers",
    fixed={"encoder_layerdrop": 0.0},
    key_mapping={r"^(model\.)?encoder\.": ""},
)


class WhisperEncoder(nn.Module):
    """Frames of Whisper's encoder at 50 Hz, ceil(F / 2) for a clip of F mel frames.

    A clip of at most 30 s is encoded at its own length, nothing being computed for padding; with
    `pad_to_30s` it is followed by silence up to 30 s, as Whisper was trained, and only its own frames are returned.
    There are no positions for more: `load_encoder` cuts longer clips into overlapping windows (see `windows`).

    Source: Radford et al. 2022, section 2.2. Differs from it in not forcing 30 s, and in normalising the log-mel
    features over the whole recording rather than over each window.
    """

    never_trained = ("model.embed_positions.weight",)  # sinusoids

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.model = load_part(
            _PART,
            path=config.path,
            architecture=config.architecture,
            dtype=config.dtype,
            num_layers=config.num_layers,
        )
        use_packed_attention(self.model)
        self.pad_to_30s = config.pad_to_30s
        self.architecture = architecture_of(self.model.config)
        self.feature_spec = FeatureSpec.whisper(num_mels=self.model.config.num_mel_bins)
        self.dim: int = self.model.config.d_model
        self.frame_rate_hz = self.feature_spec.frame_rate_hz / 2  # the second convolution takes every other one
        self.window: int = 2 * self.model.config.max_source_positions  # mel frames: 3000, the most it hears

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Returns ceil(F / 2) (A,)."""
        return conv_lengths(lengths, kernel=3, stride=2, padding=1)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Returns frames (A, T, dim) of log-mel `features` (A, F, M) with `lengths` (A,)."""
        num_features = features.shape[1]
        if num_features > self.window:
            raise ModelError(
                f"{num_features} mel frames are more than Whisper has positions for ({self.window}); use load_encoder, "
                "which gives it windows"
            )
        if self.pad_to_30s:
            features = _append_silence(features, lengths, size=self.window)
        frames = self._encode(features, lengths)
        return zero_padding(frames[:, : (num_features + 1) // 2], self.output_lengths(lengths))

    def _encode(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(A, F, M) with F at most one window -> (A, ceil(F / 2), dim); nothing is computed for padding.

        The clips stand one behind the other, a silent mel frame or two between them, so that no convolution reaches
        from one into the next, and each starts at an even place, as the second one takes every other:

            a a a . b b . . c c c c . .    ->    A A B . C C .    ->    A A B C C
        """
        model = self.model
        if self.pad_to_30s:
            lengths = torch.full_like(lengths, self.window)  # the silence is part of what Whisper hears
        features = F.pad(zero_padding(features.to(model.conv1.weight.dtype), lengths), (0, 0, 0, 2))
        spaced = Pack.of(lengths // 2 * 2 + 2, features.shape[1])
        is_clip = spaced.pack(valid_mask(lengths, spaced.width))
        hidden = F.gelu(model.conv1(spaced.pack(features).transpose(1, 2))) * is_clip
        hidden = F.gelu(model.conv2(hidden)).transpose(1, 2)  # (1, T, dim)
        frames = Pack.of(lengths // 2 + 1, spaced.width // 2).unpack(hidden)[:, : (spaced.width - 1) // 2]
        pack = Pack.of(self.output_lengths(lengths), frames.shape[1])
        hidden = pack.pack(frames) + model.embed_positions.weight[pack.position_ids[0]]
        hidden = F.dropout(hidden, p=model.dropout, training=self.training)
        for layer in model.layers:
            hidden = layer(hidden, None, pack=pack)
        return pack.unpack(model.layer_norm(hidden))


def _append_silence(features: Tensor, lengths: Tensor, *, size: int) -> Tensor:
    """Returns `features` (A, size, M) with everything past `lengths` set to what Whisper's log-mels give for silence.

    Log-mels are (log10 + 4) / 4, cut at 2 below a clip's loudest value; silence is log10(1e-10), so -1.5 or that cut.
    """
    features = F.pad(features, (0, 0, 0, size - features.shape[1]))
    mask = valid_mask(lengths, size)[..., None]
    loudest = features.masked_fill(~mask, float("-inf")).amax(dim=(1, 2))
    silence = (loudest - 2.0).clamp(min=-1.5)
    return torch.where(mask, features, silence[:, None, None])

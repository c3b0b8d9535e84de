"""The tiny encoder: small enough to train from nothing on two CPU cores, and shipped with Sonant.

    log-mel (A, F, 80) ─ conv /2 ─ conv /2 ─ [ attention · convolution · feed-forward ] x N ─ norm ─> (A, T, dim)
                                                     └ after layer `letter_layer`: letters ┘        └> ctc_head
                                                                                        T = ceil(ceil(F / 2) / 2)

It reads 100 frames a second, gives 25, and its CTC head spells in the tokens of the tiny language model.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from sonant.audio.features import FeatureSpec
from sonant.errors import ModelError
from sonant.models.encoders.base import EncoderConfig, zero_padding
from sonant.models.encoders.tiny_trunk import TinyTrunk, TrunkShape, load_weights, read_shape


class TinyArchitecture(TrunkShape):
    """The shape of a tiny encoder; what stands in its config.json."""

    vocab_size: int = Field(default=640, gt=0)  # of the tokenizer its CTC head spells in; blank = vocab_size
    letter_layer: int = Field(default=3, gt=0)  # the layer whose output the letter head reads


class TinyEncoder(TinyTrunk):
    """Frames at 25 Hz, ceil(ceil(F / 2) / 2) for a clip of F mel frames.

    `ctc_head` spells in tokens of the tiny language model (blank = the last id). `letter_head` spells letters halfway
    up; training needs it (without it CTC on tokens finds no alignment for minutes), recognition does not.

    Source: intermediate CTC on a coarser vocabulary (Lee and Watanabe 2021; Sanabria and Metze 2018); layers: see
    `tiny_trunk`.
    """

    LETTERS = "abcdefghijklmnopqrstuvwxyz "  # the letter head's classes; its blank is the last id, 27
    model_type = "sonant_tiny_encoder"

    def __init__(self, config: EncoderConfig) -> None:
        shape, spec = read_shape(config, TinyArchitecture, model_type=self.model_type, spec=FeatureSpec.tiny())
        if shape.letter_layer > shape.num_layers:
            raise ModelError(f"letter_layer {shape.letter_layer} must be at most num_layers ({shape.num_layers})")
        super().__init__(shape, spec)
        self.letter_layer = shape.letter_layer
        self.norm = nn.LayerNorm(shape.dim)
        self.ctc_head = nn.Linear(shape.dim, shape.vocab_size + 1)
        self.letter_head = nn.Linear(shape.dim, len(self.LETTERS) + 1)
        load_weights(self, config)
        self.to(getattr(torch, config.dtype))

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Returns frames (A, T, dim) of log-mel `features` (A, F, M) with `lengths` (A,)."""
        return self.forward_with_letters(features, lengths)[0]

    def forward_with_letters(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Returns frames (A, T, dim), and logits (A, T, 28) of letters, space and, last, blank."""
        states = list(self.states(features, lengths))
        frames = zero_padding(self.norm(states[-1]), self.output_lengths(lengths))
        return frames, self.letter_head(states[self.letter_layer])

    def ctc_logits(self, frames: Tensor) -> Tensor:
        """Returns logits (A, T, V + 1) over the tokenizer's ids and, last, the blank."""
        logits: Tensor = self.ctc_head(frames)
        return logits

"""An encoder's frames are named after what they depend on, and after nothing else."""

import copy

import torch

from sonant.models.encoders.base import EncoderConfig
from sonant.models.encoders.identity import encoded_spec
from sonant.models.encoders.load import load_encoder

SHAPE = {"vocab_size": 50, "dim": 16, "num_layers": 2, "num_heads": 2, "feed_forward_dim": 16, "letter_layer": 1}


def small_encoder(*, average=1, **changes):
    torch.manual_seed(0)
    return load_encoder(EncoderConfig(kind="tiny", architecture={**SHAPE, **changes}, average=average))


def test_the_same_encoder_has_the_same_name_wherever_it_is_loaded():
    spec = encoded_spec(small_encoder())
    assert spec == encoded_spec(small_encoder().eval().requires_grad_(False))
    assert (spec.kind, spec.dim, spec.frame_rate_hz) == ("encoded", 16, 25.0)
    assert spec.encoder.startswith("TinyEncoder-")


def test_another_weight_precision_option_or_ear_is_another_encoder():
    encoder = small_encoder()
    names = {encoded_spec(encoder).encoder, encoded_spec(copy.deepcopy(encoder).to(torch.bfloat16)).encoder}
    names.add(encoded_spec(small_encoder(letter_layer=2)).encoder)
    with torch.no_grad():
        next(encoder.parameters()).view(-1)[0] += 1e-3
    names.add(encoded_spec(encoder).encoder)
    assert len(names) == 4


def test_whisper_that_pads_is_another_encoder_than_whisper_that_does_not():
    shape = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16}
    names = set()
    for pads in (False, True):
        torch.manual_seed(0)
        names.add(encoded_spec(load_encoder(EncoderConfig(kind="whisper", architecture=shape, pad_to_30s=pads))))
    assert len(names) == 2


def test_means_of_frames_keep_the_encoders_name_at_their_own_rate():
    own, mean = encoded_spec(small_encoder()), encoded_spec(small_encoder(average=2))
    assert (mean.encoder, mean.dim, mean.frame_rate_hz) == (own.encoder, own.dim, 12.5)
    assert mean != own

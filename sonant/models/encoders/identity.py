"""What an encoder's frames are called, so that no cache is ever taken for another encoder's."""

import hashlib
import json
from dataclasses import asdict, fields
from typing import cast

import torch
from torch import Tensor, nn

from sonant.audio.features import FeatureSpec
from sonant.models.encoders.averaged import AveragedEncoder
from sonant.models.encoders.base import SpeechEncoder

_DIGEST_LETTERS = 16


def encoded_spec(encoder: SpeechEncoder) -> FeatureSpec:
    """Returns the spec of the frames that `encoder` makes: its class, a hash of what it depends on, width and rate.

    The hash is over its weights (names, types, values), its own options and the features it reads. So an encoder
    trained for one more step, cut to fewer layers or run in another precision has another name; the same one loaded
    twice, on another device or by a newer library has the same. The architecture is left out: libraries add keys to
    it, and what it shapes shows in the weights. Means of frames keep the encoder's name; their rate tells them apart.
    """
    if isinstance(encoder, AveragedEncoder):
        own = encoded_spec(cast("SpeechEncoder", encoder.encoder))
        return FeatureSpec.encoded(own.encoder, own.dim, encoder.frame_rate_hz)
    module = cast("nn.Module", encoder)
    options = {
        name: value
        for name, value in vars(encoder).items()
        if isinstance(value, bool | int | float | str) and name != "training" and not name.startswith("_")
    }
    read = asdict(encoder.feature_spec)
    changed = {field.name: read[field.name] for field in fields(FeatureSpec) if read[field.name] != field.default}
    digest = hashlib.sha256(json.dumps({"options": options, "features": changed}, sort_keys=True).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_raw(tensor))
    name = f"{type(encoder).__name__}-{digest.hexdigest()[:_DIGEST_LETTERS]}"
    return FeatureSpec.encoded(name, encoder.dim, encoder.frame_rate_hz)


def _raw(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()

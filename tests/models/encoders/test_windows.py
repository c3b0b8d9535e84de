"""Long clips in windows: as many frames as without, the same ones where the context is the same, at a steady cost."""

import copy
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from small_encoders import ARCHITECTURES
from torch import Tensor, nn

from sonant.audio.features import FeatureSpec
from sonant.config import validate
from sonant.errors import ConfigError, ModelError
from sonant.models.build import SpeechLMConfig, build_speech_lm
from sonant.models.checkpoint import load_speech_lm, save_speech_lm
from sonant.models.encoders.base import EncoderConfig, conv_lengths, zero_padding
from sonant.models.encoders.identity import encoded_spec
from sonant.models.encoders.load import load_encoder
from sonant.models.encoders.tiny import TinyEncoder
from sonant.models.encoders.windows import in_windows

every_kind = pytest.mark.parametrize("kind", sorted(ARCHITECTURES))


class NearEncoder(nn.Module):
    """Hears four features before and after each frame, and nothing beyond: windows that overlap change nothing."""

    feature_spec = FeatureSpec.tiny()
    frame_rate_hz = 50.0
    dim = 3
    architecture: ClassVar[dict[str, Any]] = {}

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(80, self.dim, 9, stride=2, padding=4)
        self.calls: list[int] = []

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return conv_lengths(lengths, kernel=9, stride=2, padding=4)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        self.calls.append(len(features))
        frames = self.conv(zero_padding(features, lengths).transpose(1, 2)).transpose(1, 2)
        return zero_padding(frames, self.output_lengths(lengths))


class NoTokenizer:
    """What a checkpoint asks of one."""

    def save(self, folder: Path) -> None:
        pass


def in_small_windows(encoder: Any) -> Any:
    """Windows of 16 frames that share 4."""
    rate_hz = encoder.frame_rate_hz
    return in_windows(copy.deepcopy(encoder), window_s=16 / rate_hz, overlap_s=4 / rate_hz)


def test_frames_that_hear_only_what_is_near_are_those_of_the_whole_clip_whatever_its_length() -> None:
    whole = NearEncoder()
    windowed = in_small_windows(whole)
    for length in range(1, 160):
        features = torch.randn(1, length, 80)
        found = windowed(features, torch.tensor([length]))
        torch.testing.assert_close(found, whole(features, torch.tensor([length])), atol=1e-5, rtol=0)
    assert max(windowed.calls) == 7  # 80 frames: 7 x 12 new ones, and 4 that the first window hears too


def test_gradients_are_those_of_the_whole_clip() -> None:
    whole = NearEncoder()
    windowed = in_small_windows(whole)
    features, lengths = torch.randn(2, 150, 80, requires_grad=True), torch.tensor([150, 77])
    weights = torch.randn(2, 75, 3)
    expected = torch.autograd.grad((whole(features, lengths) * weights).sum(), [features, whole.conv.weight])
    found = torch.autograd.grad((windowed(features, lengths) * weights).sum(), [features, windowed.conv.weight])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_without_gradients_a_long_clip_is_encoded_a_few_minutes_at_a_time() -> None:
    encoder = in_windows(NearEncoder(), window_s=40.0, overlap_s=10.0)
    features, lengths = torch.randn(1, 50_000, 80), torch.tensor([50_000])  # 500 s
    with torch.no_grad():
        in_turn = encoder(features, lengths)
    torch.testing.assert_close(in_turn, encoder(features, lengths), atol=1e-5, rtol=0)
    assert encoder.calls == [7, 7, 3, 17]


@every_kind
def test_a_windowed_clip_has_as_many_frames_as_a_whole_one(kind: str, build: Any, random_features: Any) -> None:
    encoder = in_small_windows(build(kind))
    unit = encoder.frame_features
    lengths = [n + more for n in (16 * unit, 28 * unit, 40 * unit) for more in (-1, 0, 1, unit - 1, unit, unit + 1)]
    features = random_features(encoder, lengths)
    with torch.no_grad():
        frames = encoder(features, torch.tensor(lengths))
    sizes = encoder.output_lengths(torch.tensor(lengths))
    assert frames.shape == (len(lengths), int(sizes.max()), encoder.dim)
    for row, size in enumerate(sizes.tolist()):
        assert frames[row, :size].any(dim=1).all()
        assert not frames[row, size:].any()


@every_kind
def test_a_clip_in_windows_has_the_same_frames_alone_and_in_a_batch(
    kind: str, build: Any, random_features: Any
) -> None:
    encoder = in_small_windows(build(kind))
    lengths = [encoder.frame_features * frames + 1 for frames in (60, 37, 16, 9)]
    features = random_features(encoder, lengths)
    together = encoder(features, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        alone = encoder(features[row : row + 1, :length], torch.tensor([length]))[0]
        torch.testing.assert_close(together[row, : len(alone)], alone, atol=1e-5, rtol=0)


@every_kind
def test_clips_that_fit_a_window_are_encoded_as_without_windows(kind: str, build: Any, random_features: Any) -> None:
    whole = build(kind)
    encoder = in_small_windows(whole)
    lengths = torch.tensor([16 * encoder.frame_features, 7 * encoder.frame_features])
    features = random_features(encoder, lengths.tolist())
    assert torch.equal(encoder(features, lengths), whole(features, lengths))


def test_windows_change_no_name_no_class_and_no_weight_but_the_name_of_the_frames() -> None:
    config = EncoderConfig(kind="tiny", path="tiny/encoder")
    whole: Any = load_encoder(config)
    windowed: Any = load_encoder(config.model_copy(update={"window_s": 10.0}))
    assert isinstance(windowed, TinyEncoder)
    assert [name for name, _ in windowed.named_parameters()] == [name for name, _ in whole.named_parameters()]
    assert windowed.output_lengths(torch.tensor([30_000])).item() == 7500
    others = [load_encoder(config.model_copy(update={"window_s": 10.0, "overlap_s": share})) for share in (2.0, 1.0)]
    names = [encoded_spec(encoder).encoder for encoder in (whole, windowed, *others)]
    assert len(set(names)) == 3
    assert names[1] == names[3]


def test_windows_too_short_for_their_overlap_or_for_a_frame_are_refused(build: Any) -> None:
    with pytest.raises(ConfigError, match="cannot share 2 s; give a longer window_s"):
        validate(EncoderConfig, {"kind": "tiny", "path": "tiny/encoder", "window_s": 1.5, "overlap_s": 2}, where="test")
    with pytest.raises(ModelError, match=r"WavLMEncoder, 50 a second; give .* an overlap_s of two frames"):
        in_windows(build("wavlm"), window_s=10.0, overlap_s=0.0)
    with pytest.raises(ModelError, match="give a longer window_s"):
        in_windows(build("seamless"), window_s=2.0, overlap_s=1.9)


def test_a_checkpoint_keeps_its_windows(tmp_path: Path) -> None:
    encoder = {"kind": "tiny", "architecture": ARCHITECTURES["tiny"], "window_s": 2.0, "overlap_s": 0.4}
    llm = {"model_type": "llama", "vocab_size": 30, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    config = {"encoders": [encoder], "adapter": {"kind": "stack_mlp"}, "llm": {"architecture": llm}}
    model = build_speech_lm(SpeechLMConfig.model_validate(config))
    save_speech_lm(model, NoTokenizer(), tmp_path / "model")
    saved: Any = model.encoders[0]
    loaded: Any = load_speech_lm(tmp_path / "model").encoders[0]
    features, lengths = torch.randn(1, 900, 80), torch.tensor([900])
    assert (loaded.window_frames, loaded.side_frames) == (50, 5)
    torch.testing.assert_close(loaded(features, lengths), saved(features, lengths), atol=1e-6, rtol=0)

"""The tiny speaker encoder: beside the tiny encoder frame by frame, its weighted sum, its context, its folders."""

import math
from pathlib import Path

import pytest
import torch

from sonant.audio.features import FeatureSpec, extract
from sonant.audio.io import resample
from sonant.errors import ModelError
from sonant.models.encoders.base import EncoderConfig
from sonant.models.encoders.load import load_encoder
from sonant.models.encoders.tiny_speaker import TinySpeakerEncoder, _Context, speaker_features
from sonant.models.freeze import FreezePlan, GroupConfig
from sonant.models.parts import resolve_part
from sonant.synth.tts import SpeechRequest, load_synthesizer

SMALL = {"dim": 16, "num_layers": 2, "num_heads": 2, "feed_forward_dim": 24}


@pytest.fixture
def encoder() -> TinySpeakerEncoder:
    torch.manual_seed(0)
    return TinySpeakerEncoder(EncoderConfig(kind="tiny_speaker", architecture=SMALL)).eval()


def test_its_frames_lie_beside_those_of_the_tiny_encoder(encoder: TinySpeakerEncoder) -> None:
    semantic = load_encoder(EncoderConfig(kind="tiny", architecture={"dim": 16, "num_layers": 1, "letter_layer": 1}))
    assert encoder.frame_rate_hz == semantic.frame_rate_hz == 25.0
    ours, theirs = encoder.feature_spec, semantic.feature_spec
    for num_samples in (1, 160, 320, 512, 513, 640, 1600, 16_000, 16_001, 480_000):
        num_frames = [
            int(e.output_lengths(torch.tensor([spec.num_frames(num_samples)])))
            for e, spec in ((encoder, ours), (semantic, theirs))
        ]
        assert num_frames[0] == num_frames[1], num_samples


def test_a_clip_gives_the_same_frames_alone_and_in_a_batch(encoder: TinySpeakerEncoder) -> None:
    lengths = [71, 33, 6, 1]
    features = torch.randn(4, 71, 80)
    together = encoder(features, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        alone = encoder(features[row : row + 1, :length], torch.tensor([length]))
        size = int(encoder.output_lengths(torch.tensor(length)))
        assert alone.shape == (1, size, 16)
        torch.testing.assert_close(together[row, :size], alone[0], atol=1e-5, rtol=0)
        assert together[row, size:].eq(0).all()


def test_a_clip_without_frames_harms_no_other(encoder: TinySpeakerEncoder) -> None:
    frames = encoder(torch.randn(2, 8, 80), torch.tensor([8, 0]))
    assert frames.isfinite().all()
    assert frames[1].eq(0).all()


def test_equal_weights_give_the_mean_of_the_normed_states(encoder: TinySpeakerEncoder) -> None:
    features, lengths = torch.randn(1, 40, 80), torch.tensor([40])
    states = [norm(s) for norm, s in zip(encoder.norms, encoder.states(features + 3, lengths), strict=True)]
    assert len(states) == 3
    torch.testing.assert_close(encoder(features, lengths), torch.stack(states).mean(0))
    with torch.no_grad():
        encoder.layer_weights.copy_(torch.tensor([0.0, math.log(3.0), -1e9]))
    torch.testing.assert_close(encoder(features, lengths), 0.25 * states[0] + 0.75 * states[1])


def test_silence_is_heard_as_padding_is(encoder: TinySpeakerEncoder) -> None:
    silence = extract(torch.zeros(1600), encoder.feature_spec)
    first = next(encoder.states(silence[None] + 3, torch.tensor([10])))
    torch.testing.assert_close(first, next(encoder.states(torch.zeros(1, 10, 80), torch.tensor([10]))))


def test_the_layer_weights_can_train_alone(encoder: TinySpeakerEncoder) -> None:
    FreezePlan({"weights": GroupConfig(patterns=("layer_weights",), lr=1e-3)}).apply(encoder)
    encoder(torch.randn(1, 40, 80), torch.tensor([40])).square().sum().backward()
    trained = [name for name, parameter in encoder.named_parameters() if parameter.grad is not None]
    assert trained == ["layer_weights"]


def test_every_weight_trains(encoder: TinySpeakerEncoder) -> None:
    (encoder(torch.randn(2, 40, 80), torch.tensor([40, 23])) ** 3).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_the_context_is_the_mean_and_deviation_of_the_real_frames(encoder: TinySpeakerEncoder) -> None:
    context, x = encoder.contexts[0], torch.randn(1, 7, 16)
    mask = torch.arange(7)[None] < 5
    assert isinstance(context, _Context)
    inner = context.inner(context.norm(x[:, :5]))
    said = context.outer(torch.cat([inner.mean(1), (inner.var(1, correction=0) + 1e-5).sqrt()], dim=-1))
    torch.testing.assert_close(context(x, mask), x + said[:, None])


def test_its_features_keep_loudness_which_the_tiny_encoders_do_not() -> None:
    samples = 0.1 * torch.randn(16_000)
    ours, louder = (extract(gain * samples, speaker_features()) for gain in (1.0, 2.0))
    torch.testing.assert_close(louder - ours, torch.full_like(ours, math.log10(4.0)), atol=1e-4, rtol=0)
    spec = FeatureSpec.tiny()
    torch.testing.assert_close(extract(2 * samples, spec), extract(samples, spec), atol=1e-3, rtol=0)


def test_a_saved_encoder_loads_and_a_folder_of_another_kind_is_refused(
    encoder: TinySpeakerEncoder, tmp_path: Path
) -> None:
    encoder.save(tmp_path)
    loaded = load_encoder(EncoderConfig(kind="tiny_speaker", path=str(tmp_path)))
    assert loaded.architecture == encoder.architecture
    assert loaded.feature_spec == speaker_features()
    with pytest.raises(ModelError, match="holds no tiny encoder"):
        load_encoder(EncoderConfig(kind="tiny", path=str(tmp_path)))
    with pytest.raises(ModelError, match="holds no tiny_speaker encoder"):
        load_encoder(EncoderConfig(kind="tiny_speaker", path="tiny/encoder"))


def test_the_shipped_encoder_is_small_and_keeps_its_promise() -> None:
    """Two dev voices, never trained on: one second is nearer to the same voice than to the other, by cosine."""
    pytest.importorskip("espeakng_loader")
    folder = Path(resolve_part("tiny/speaker-encoder"))
    assert (folder / "model.safetensors").stat().st_size <= 800_000
    encoder = load_encoder(EncoderConfig(kind="tiny_speaker", path="tiny/speaker-encoder"))
    assert encoder.feature_spec == speaker_features()
    texts = ("the red cat sleeps under the table", "who has the green apple")
    requests = [SpeechRequest(text, voice) for voice in ("en+Michael", "en-us+ian") for text in texts]
    means = []
    for samples, rate_hz in load_synthesizer("espeak").synthesize(requests):  # type: ignore[misc]
        heard = torch.from_numpy(resample(samples, from_hz=rate_hz, to_hz=16_000))[:16_000]
        mels = extract(heard, encoder.feature_spec)[None]
        means.append(encoder(mels, torch.tensor([mels.shape[1]]))[0].mean(0))
    michael, michael_again, ian, ian_again = (torch.nn.functional.normalize(mean, dim=0) for mean in means)
    same = min(michael @ michael_again, ian @ ian_again)
    assert same > max(a @ b for a in (michael, michael_again) for b in (ian, ian_again)) + 0.2

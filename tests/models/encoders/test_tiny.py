"""The tiny encoder: lengths by hand, independence of company, and folders."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sonant.audio.features import FeatureSpec
from sonant.chat.messages import AudioPart
from sonant.errors import ConfigError, ModelError
from sonant.generate.recognizer import CTCRecognizer
from sonant.models.encoders.base import EncoderConfig
from sonant.models.encoders.load import load_encoder
from sonant.models.encoders.tiny import TinyEncoder
from sonant.models.parts import resolve_part

SMALL = {"vocab_size": 9, "dim": 16, "num_layers": 2, "num_heads": 2, "feed_forward_dim": 24, "letter_layer": 1}


@pytest.fixture
def encoder() -> TinyEncoder:
    torch.manual_seed(0)
    return TinyEncoder(EncoderConfig(kind="tiny", architecture=SMALL)).eval()


def saved(encoder: TinyEncoder, folder: Path, **changes: Any) -> str:
    encoder.save(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return str(folder)


def test_four_mel_frames_or_what_is_left_make_one_frame(encoder: TinyEncoder) -> None:
    lengths = torch.tensor([0, 1, 2, 3, 4, 5, 8, 9, 100])
    assert encoder.output_lengths(lengths).tolist() == [0, 1, 1, 1, 1, 2, 2, 3, 25]
    assert encoder.frame_rate_hz == 25.0


def test_a_clip_gives_the_same_frames_alone_and_in_a_batch(encoder: TinyEncoder) -> None:
    lengths = [71, 33, 6, 1]
    features = torch.randn(4, 71, 80)
    together, letters = encoder.forward_with_letters(features, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        alone, alone_letters = encoder.forward_with_letters(features[row : row + 1, :length], torch.tensor([length]))
        size = int(encoder.output_lengths(torch.tensor(length)))
        assert alone.shape == (1, size, 16)
        torch.testing.assert_close(together[row, :size], alone[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(letters[row, :size], alone_letters[0], atol=1e-5, rtol=0)
        assert together[row, size:].eq(0).all()


def test_a_clip_without_frames_harms_no_other(encoder: TinyEncoder) -> None:
    frames = encoder(torch.randn(2, 8, 80), torch.tensor([8, 0]))
    assert frames.isfinite().all()
    assert frames[1].eq(0).all()


def test_both_heads_have_a_blank_last_and_train_every_weight(encoder: TinyEncoder) -> None:
    frames, letters = encoder.forward_with_letters(torch.randn(1, 40, 80), torch.tensor([40]))
    tokens = encoder.ctc_logits(frames)
    assert tokens.shape == (1, 10, 10)
    assert letters.shape == (1, 10, len(TinyEncoder.LETTERS) + 1)
    (tokens.square().sum() + letters.square().sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_a_saved_encoder_is_loaded_in_float32_at_half_the_size(encoder: TinyEncoder, tmp_path: Path) -> None:
    loaded = load_encoder(EncoderConfig(kind="tiny", path=saved(encoder, tmp_path)))
    assert isinstance(loaded, TinyEncoder)
    assert loaded.architecture == encoder.architecture
    for name, tensor in encoder.state_dict().items():
        other = loaded.state_dict()[name]
        assert other.dtype == torch.float32
        torch.testing.assert_close(other, tensor.half().float(), atol=0, rtol=0)


def test_a_folder_of_another_kind_or_unknown_features_is_refused(encoder: TinyEncoder, tmp_path: Path) -> None:
    other = saved(encoder, tmp_path / "a", model_type="whisper")
    with pytest.raises(ModelError, match="holds no tiny encoder"):
        load_encoder(EncoderConfig(kind="tiny", path=other))
    other = saved(encoder, tmp_path / "b", feature_spec={"sort": "log_mel"})
    with pytest.raises(ConfigError, match="unknown key 'sort'"):
        load_encoder(EncoderConfig(kind="tiny", path=other))


def test_a_folder_says_which_features_it_was_trained_on(encoder: TinyEncoder, tmp_path: Path) -> None:
    whisper = FeatureSpec.whisper()
    loaded = load_encoder(EncoderConfig(kind="tiny", path=saved(encoder, tmp_path, feature_spec=whisper.to_json())))
    assert loaded.feature_spec == whisper
    assert encoder.feature_spec == FeatureSpec.tiny()


def test_missing_or_wrong_weights_are_named(encoder: TinyEncoder, tmp_path: Path) -> None:
    wrong = saved(encoder, tmp_path, num_layers=3)
    with pytest.raises(ModelError, match=r"model\.safetensors: cannot load the weights"):
        load_encoder(EncoderConfig(kind="tiny", path=wrong))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="sonant world build"):
        load_encoder(EncoderConfig(kind="tiny", path=wrong))


def test_shapes_that_cannot_be_are_refused() -> None:
    for changes, match in (({"dim": 18}, "multiple"), ({"kernel_size": 4}, "odd"), ({"letter_layer": 3}, "letter")):
        with pytest.raises(ModelError, match=match):
            TinyEncoder(EncoderConfig(kind="tiny", architecture=SMALL | changes))
    with pytest.raises(ConfigError, match="did you mean 'num_layers'"):
        TinyEncoder(EncoderConfig(kind="tiny", architecture={"num_layer": 1}))
    with pytest.raises(ModelError, match="used whole"):
        TinyEncoder(EncoderConfig(kind="tiny", architecture=SMALL, num_layers=1))


def test_the_shipped_encoder_is_small_and_hears_human_digits() -> None:
    """People recorded at 8 kHz, nothing it was trained on: these two are heard best (provenance.json has all six)."""
    folder = Path(resolve_part("tiny/encoder"))
    assert (folder / "model.safetensors").stat().st_size < 5e6
    recordings = Path(__file__).parents[4] / "shared/data/fsdd/recordings"
    if not recordings.is_dir():
        pytest.skip("the recorded digits are not here (../shared/data/fsdd)")
    recognizer = CTCRecognizer.from_parts()
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    names = [(f"{digit}_{speaker}_0.wav", words[digit]) for speaker in ("lucas", "george") for digit in range(10)]
    heard = recognizer.transcribe([AudioPart(path=str(recordings / name)) for name, _ in names])
    assert sum(text == word for text, (_, word) in zip(heard, names, strict=True)) >= 10

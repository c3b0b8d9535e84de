"""Vocoders of transformers: as the class itself, in chunks as whole, and only for the mels they were made for."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import SpeechT5FeatureExtractor, SpeechT5HifiGan, UnivNetFeatureExtractor

from sonant.audio.mel import MelSpec, log_mel
from sonant.errors import ModelError
from sonant.models.vocoders.hugging_face import HuggingFaceVocoder, Taste, speecht5_taste, univnet_taste
from sonant.models.vocoders.load import load_vocoder
from tests.models.vocoders.small_vocoders import SMALL, buzz, hifigan_folder, univnet_folder

FOLDERS = pytest.mark.parametrize("folder_of", [hifigan_folder, univnet_folder])


def test_hifi_gan_gives_what_its_class_gives(tmp_path: Path) -> None:
    vocoder = load_vocoder(str(hifigan_folder(tmp_path, mel=SMALL)), SMALL)
    mels = log_mel(buzz(), SMALL)
    with torch.no_grad():
        theirs = SpeechT5HifiGan.from_pretrained(tmp_path).eval()(mels)
    assert torch.allclose(vocoder(mels[None], torch.tensor([64]))[0], theirs, atol=1e-6)


@FOLDERS
def test_chunks_equal_the_whole_and_a_row_equals_itself_alone(folder_of: object, tmp_path: Path) -> None:
    vocoder = load_vocoder(str(folder_of(tmp_path, mel=SMALL)))  # type: ignore[operator]
    mels = log_mel(buzz(), SMALL)
    whole = vocoder(torch.stack([mels, mels]), torch.tensor([64, 30]))
    assert whole[0].std() > 1e-3
    assert whole[1, 30 * 200 :].eq(0).all()
    assert torch.equal(whole[1, : 30 * 200], vocoder(mels[None, :30], torch.tensor([30]))[0])
    for size in (9, 64):
        assert torch.allclose(torch.cat(list(vocoder.stream(mels.split(size)))), whole[0], atol=1e-5)


@FOLDERS
def test_its_context_is_not_twice_what_it_hears(folder_of: object, tmp_path: Path) -> None:
    vocoder = load_vocoder(str(folder_of(tmp_path, mel=SMALL)))  # type: ignore[operator]
    mels = log_mel(buzz(1.0), SMALL)[None]
    changed = mels.clone()
    changed[:, 40] += 5.0
    gap = (vocoder(changed, torch.tensor([80])) - vocoder(mels, torch.tensor([80])))[0].abs()
    heard = (gap.view(80, 200).amax(1) > 0).nonzero()[:, 0]
    reach = int((heard - 40).abs().max())
    assert reach <= vocoder.context_frames <= 2 * reach + 4


def test_univnets_noise_is_a_function_of_the_seed(tmp_path: Path) -> None:
    vocoder = load_vocoder(str(univnet_folder(tmp_path, mel=SMALL)))
    assert isinstance(vocoder, HuggingFaceVocoder)
    mels, lengths = log_mel(buzz(0.2), SMALL)[None], torch.tensor([16])
    first, again = vocoder(mels, lengths), vocoder(mels, lengths)
    assert torch.equal(first, again)
    vocoder.seed = 1
    assert not torch.equal(vocoder(mels, lengths), first)
    assert vocoder(mels[:, :2], torch.tensor([2])).shape == (1, 400)  # shorter than what its net mirrors


def test_other_mels_are_refused_and_the_error_says_which(tmp_path: Path) -> None:
    folder = hifigan_folder(tmp_path, mel=SMALL)
    with pytest.raises(ModelError, match="num_mels 128 against 32; use griffin_lim"):
        load_vocoder(str(folder), MelSpec())


@pytest.mark.parametrize(
    ("name", "text"),
    [("mel.json", "{"), ("preprocessor_config.json", "["), ("preprocessor_config.json", '{"fmin": "x"}')],
)
def test_a_damaged_folder_is_one_clear_error(tmp_path: Path, name: str, text: str) -> None:
    folder = hifigan_folder(tmp_path, mel=None)
    (folder / name).write_text(text)
    with pytest.raises(ModelError, match=f"{name}: says no mels that can be made"):
        load_vocoder(str(folder))


def test_its_net_goes_where_it_is_sent(tmp_path: Path) -> None:
    # It stayed on the CPU, and the voice's mels came on a GPU.
    vocoder = load_vocoder(str(hifigan_folder(tmp_path, mel=SMALL)))
    assert isinstance(vocoder, HuggingFaceVocoder)
    assert next(vocoder.to("meta").model.parameters()).is_meta


def test_a_folder_that_says_nothing_is_for_the_mels_of_its_feature_extractor(tmp_path: Path) -> None:
    folder = hifigan_folder(tmp_path, mel=None)
    with pytest.raises(ModelError, match="makes 200 samples of 32 mels, its mel settings say hop_length 256 and num_m"):
        load_vocoder(str(folder))
    settings = {"num_mel_bins": 32, "hop_length": 12.5, "sampling_rate": 16_000}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    vocoder = load_vocoder(str(folder))
    assert (vocoder.mel.hop_length, vocoder.mel.window_length, vocoder.mel.scale) == (200, 1024, "slaney")


def test_what_is_fed_is_what_the_feature_extractors_give() -> None:
    """SpeechT5: log10 of frames centred half a hop earlier; UnivNet: natural log of frames centred as ours."""
    rng = np.random.default_rng(0)
    noise = (0.1 * rng.standard_normal(24_000)).astype(np.float32)
    taste = univnet_taste({"do_normalize": True})
    ears = UnivNetFeatureExtractor(do_normalize=True)
    theirs = ears(noise, sampling_rate=24_000, do_normalize=True, return_tensors="np")["input_features"][0]
    ours = fed(taste, noise)
    assert np.abs(ours[4:80] - theirs[4:80]).max() < 1e-3
    taste = speecht5_taste({})
    theirs = SpeechT5FeatureExtractor()._extract_mel_features(noise)
    ours = fed(taste, np.concatenate([np.zeros(128, np.float32), noise]))  # half a hop later
    assert np.abs(ours[4:80] - theirs[4:80]).max() < 1e-3


def fed(taste: Taste, samples: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    return (taste.slope * log_mel(torch.from_numpy(samples), taste.mel) + taste.offset).numpy()

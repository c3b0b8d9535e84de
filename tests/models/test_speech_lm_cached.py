"""A frozen encoder need not run twice: its frames from a cache stand where the encoder would."""

import dataclasses

import pytest
import torch
from small_speech_lm import SPEC, HalvingEncoder, make_batch, small_llm, small_speech_lm
from torch import Tensor

from sonant.audio.features import FeatureSpec
from sonant.batch import Batch
from sonant.errors import ModelError
from sonant.models.adapters.base import build_adapter
from sonant.models.adapters.stack_mlp import StackMLPConfig
from sonant.models.speech_lm import SpeechLM

ROWS = [(9, [(2, 7), (6, 12)]), (5, [(0, 20), (5, 3)]), (12, [])]


def encoded(model: SpeechLM, batch: Batch, *, encoders: tuple[int, ...] = (0,), keep: bool = False) -> Batch:
    """The batch with the frames of some encoders in place of features, halved to 16 bits as a cache holds them."""
    features: dict[FeatureSpec, Tensor] = dict(batch.features) if keep else {}
    lengths: dict[FeatureSpec, Tensor] = dict(batch.feature_lengths) if keep else {}
    for number in encoders:
        encoder, spec = model.speech_encoders[number], model.encoded_specs[number]
        with torch.no_grad():
            features[spec] = encoder(batch.features[SPEC], batch.feature_lengths[SPEC]).half().float()
        lengths[spec] = encoder.output_lengths(batch.feature_lengths[SPEC])
    return dataclasses.replace(batch, features=features, feature_lengths=lengths)


def two_encoders(rate_hz: float = 50.0) -> SpeechLM:
    torch.manual_seed(0)
    adapter = build_adapter(StackMLPConfig(stack=2), in_dims=[32, 16], out_dim=64)
    return SpeechLM([HalvingEncoder(32), HalvingEncoder(16, frame_rate_hz=rate_hz)], adapter, small_llm()).eval()


def test_cached_and_on_the_fly_features_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """SpeechMapper, build spec section 9, test 9."""
    model = small_speech_lm()
    batch = make_batch(ROWS)
    with torch.no_grad():
        heard = model(batch)
        cached = encoded(model, batch)
        monkeypatch.setattr(HalvingEncoder, "forward", lambda *_: pytest.fail("the encoder ran"))
        recalled = model(cached)
    assert torch.equal(recalled.spliced.lengths, heard.spliced.lengths)
    torch.testing.assert_close(recalled.hidden, heard.hidden, atol=5e-3, rtol=0)


@pytest.mark.parametrize("which", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("rate_hz", [50.0, 25.0])
def test_each_of_two_encoders_is_cached_by_its_own_spec(which: tuple[int, ...], rate_hz: float) -> None:
    model = two_encoders(rate_hz)
    batch = make_batch(ROWS)
    assert model.encoded_specs[0] != model.encoded_specs[1]
    mixed = encoded(model, batch, encoders=which, keep=which != (0, 1))
    with torch.no_grad():
        (heard, lengths), (recalled, recalled_lengths) = model.hear(batch), model.hear(mixed)
    assert torch.equal(lengths, recalled_lengths)
    torch.testing.assert_close(recalled, heard, atol=2e-3, rtol=0)


def test_rows_are_made_of_frames_where_there_is_a_cache_and_of_features_elsewhere() -> None:
    model = two_encoders()
    first, second = model.encoded_specs
    assert model.specs_given(()) == model.feature_specs == (SPEC,)
    assert model.specs_given({second: None}) == (SPEC, second)
    assert model.specs_given([first, second]) == (first, second)


def test_the_cache_of_another_encoder_is_refused() -> None:
    model, other = small_speech_lm(), small_speech_lm(seed=1)
    refusal = r"cached frames of HalvingEncoder-.* at 50 Hz.*listens with HalvingEncoder-.*cache-features"
    with pytest.raises(ModelError, match=refusal):
        model(encoded(other, make_batch(ROWS), keep=True))
    with pytest.raises(ModelError, match=refusal):
        model.specs_given(other.encoded_specs)


def test_frames_of_an_encoder_that_trains_are_refused_and_of_a_frozen_one_train_the_rest() -> None:
    model = small_speech_lm()
    cached = encoded(model, make_batch(ROWS))
    model.train()
    with pytest.raises(ModelError, match=r"HalvingEncoder trains, .* freeze the encoder"):
        model(cached)
    model.encoders.requires_grad_(False)
    model(cached).hidden.sum().backward()
    assert all(p.grad is not None for n, p in model.adapter.named_parameters() if "ctc_head" not in n)
    model(encoded(model, make_batch([(12, [])]))).hidden.sum().backward()  # text alone beside a cache

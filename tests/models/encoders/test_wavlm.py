"""WavLM against transformers' own."""

import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from sonant.errors import ModelError
from sonant.models.encoders.base import EncoderConfig
from sonant.models.encoders.wavlm import WavLMEncoder, _norm_over_time, quiet_masks
from sonant.models.parts import quiet_transformers


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_one_clip_equals_the_reference(norm: str, architecture: Any, tmp_path: Path) -> None:
    torch.manual_seed(3)
    config = transformers.WavLMConfig(
        **architecture("wavlm", feat_extract_norm=norm, do_stable_layer_norm=norm == "layer")
    )
    reference = transformers.WavLMForCTC(config).eval()
    with quiet_transformers():
        reference.save_pretrained(tmp_path)
    encoder = WavLMEncoder(EncoderConfig(kind="wavlm", path=str(tmp_path))).eval()
    samples = torch.randn(1, 3001)
    expected = reference.wavlm(samples).last_hidden_state
    torch.testing.assert_close(encoder(samples, torch.tensor([3001])), expected, atol=1e-5, rtol=0)
    assert (encoder.feature_spec.normalization == "unit") == (norm == "layer")
    assert encoder.frame_rate_hz == 50.0


def test_a_checkpoint_with_an_adapter_is_refused(architecture: Any) -> None:
    config = EncoderConfig(kind="wavlm", architecture=architecture("wavlm", add_adapter=True))
    with pytest.raises(ModelError, match="add_adapter=true is not supported"):
        WavLMEncoder(config)


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_equal_layer_weights_give_the_mean_of_all_states(norm: str, architecture: Any) -> None:
    torch.manual_seed(0)
    shape = architecture("wavlm", feat_extract_norm=norm, do_stable_layer_norm=norm == "layer")
    encoder = WavLMEncoder(EncoderConfig(kind="wavlm", architecture=shape, weighted_states=True)).eval()
    samples = torch.randn(1, 3001)
    read = encoder.model(samples, output_hidden_states=True)
    states = [*read.hidden_states[:-1], read.last_hidden_state]  # the last one after the final norm, if there is one
    assert len(states) == shape["num_hidden_layers"] + 1
    frames = encoder(samples, torch.tensor([3001]))
    torch.testing.assert_close(frames, torch.stack(states).mean(0), atol=1e-5, rtol=0)
    (frames * torch.randn_like(frames)).sum().backward()  # of the square sum one gradient is all but zero
    assert encoder.layer_weights is not None
    assert encoder.layer_weights.grad.abs().min() > 0


def test_clips_of_weighted_states_are_the_same_alone_and_in_company(architecture: Any) -> None:
    torch.manual_seed(0)
    encoder = WavLMEncoder(EncoderConfig(kind="wavlm", architecture=architecture("wavlm"), weighted_states=True)).eval()
    samples = torch.randn(2, 4000)
    frames = encoder(samples, torch.tensor([4000, 2000]))
    alone = encoder(samples[1:, :2000], torch.tensor([2000]))
    torch.testing.assert_close(frames[1, : alone.shape[1]], alone[0], atol=1e-5, rtol=0)


def test_weighted_states_are_an_option_of_wavlm_alone() -> None:
    with pytest.raises(ValueError, match="weighted_states is an option of wavlm only"):
        EncoderConfig(kind="tiny", path="tiny/encoder", weighted_states=True)


def test_many_threads_silence_one_warning_and_leave_the_others() -> None:
    # `warnings.catch_warnings` in each of them left behind whatever filters the last one to leave had found.
    before = list(warnings.filters)
    threads = [threading.Thread(target=quiet_masks) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(warnings.filters) <= len(before) + 1
    warnings.warn("Support for mismatched key_padding_mask and attn_mask is deprecated.", stacklevel=1)
    with pytest.raises(UserWarning):
        warnings.warn("another", stacklevel=1)


def test_half_a_minute_in_float16_has_the_statistics_of_float32() -> None:
    # The sum of its squares was taken in float16, which ends at 65,504: frames of long clips fell to nothing.
    torch.manual_seed(0)
    hidden, norm = torch.randn(1, 4, 90_000), torch.nn.GroupNorm(4, 4)
    expected = _norm_over_time(hidden, norm, torch.tensor([90_000]))
    found = _norm_over_time(hidden.half(), norm.half(), torch.tensor([90_000]))
    torch.testing.assert_close(found.float(), expected, atol=1e-2, rtol=1e-2)

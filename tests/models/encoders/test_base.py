"""Masks and lengths by hand."""

import pytest
import torch
from torch import nn

from sonant.config import validate
from sonant.errors import ConfigError
from sonant.models.encoders.base import EncoderConfig, conv_lengths, valid_mask, zero_padding


def test_the_valid_mask_is_true_at_the_first_places() -> None:
    assert valid_mask(torch.tensor([2, 0, 3]), 3).tolist() == [[True, True, False], [False] * 3, [True] * 3]


def test_padding_becomes_zero_even_where_it_was_not_a_number() -> None:
    frames = torch.full((2, 3, 4), float("nan"))
    frames[0, :2] = 1.0
    zeroed = zero_padding(frames, torch.tensor([2, 0]))
    assert zeroed.sum().item() == 8.0
    assert zero_padding(torch.ones(1, 3), torch.tensor([1])).tolist() == [[1.0, 0.0, 0.0]]


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 2, 1), (10, 5, 0), (8, 8, 4), (3, 1, 1)])
def test_conv_lengths_are_those_of_a_convolution(kernel: int, stride: int, padding: int) -> None:
    convolution = nn.Conv1d(1, 1, kernel, stride=stride, padding=padding)
    for length in range(max(1, kernel - 2 * padding), 40):
        outputs = convolution(torch.zeros(1, 1, length)).shape[2]
        assert int(conv_lengths(torch.tensor(length), kernel=kernel, stride=stride, padding=padding)) == outputs
    assert int(conv_lengths(torch.tensor(0), kernel=10, stride=5)) == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "wavlm"}, "give either `path`"),
        ({"kind": "wavlm", "path": "a/b", "architecture": {}}, "give either `path`"),
        ({"kind": "wavlm", "path": "a/b", "pad_to_30s": True}, "option of whisper only"),
        ({"kind": "hubert", "path": "a/b"}, "'hubert'"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(EncoderConfig, values, where="test")

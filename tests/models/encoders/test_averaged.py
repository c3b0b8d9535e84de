"""SpeechMapper's 25 Hz are means of two frames of a 50 Hz encoder; padding takes no part in them."""

from typing import Any

import pytest
import torch

from sonant.models.encoders.averaged import AveragedEncoder, mean_of_frames
from sonant.models.speech_lm import align_frames


@pytest.mark.parametrize("kind", ["tiny", "seamless", "wavlm"])
@pytest.mark.parametrize("average", [2, 3])
def test_a_frame_is_the_mean_of_its_window_and_the_last_of_what_is_left(
    kind: str, average: int, build: Any, random_features: Any
) -> None:
    encoder = build(kind)
    slow = AveragedEncoder(encoder, average).eval()
    lengths = [2003, 1201] if kind == "wavlm" else [71, 33]
    features = random_features(encoder, lengths)
    with torch.no_grad():
        frames = slow(features, torch.tensor(lengths))
        found = slow.output_lengths(torch.tensor(lengths)).tolist()
        for row, length in enumerate(lengths):
            alone = encoder(features[row : row + 1, :length], torch.tensor([length]))[0]
            alone = alone[: int(encoder.output_lengths(torch.tensor([length])))]
            expected = torch.stack([window.mean(0) for window in alone.split(average)])
            assert found[row] == len(expected)
            torch.testing.assert_close(frames[row, : found[row]], expected, atol=1e-5, rtol=0)
            assert not frames[row, found[row] :].any()
    assert slow.frame_rate_hz == encoder.frame_rate_hz / average


def test_an_averaged_encoder_is_what_a_slower_neighbour_makes_of_it() -> None:
    frames, lengths = torch.randn(2, 7, 3), torch.tensor([7, 4])
    slow = torch.zeros(2, 4, 1)
    together, _ = align_frames([frames, slow], [lengths, torch.tensor([4, 2])], [50.0, 25.0])
    torch.testing.assert_close(mean_of_frames(frames, lengths, 2), together[..., :3])

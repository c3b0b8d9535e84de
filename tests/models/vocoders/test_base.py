"""Windows of a stream: every frame once and in order, and as much around it as there is."""

import pytest
import torch

from sonant.models.vocoders.base import windows


@pytest.mark.parametrize("sizes", [[50], [1] * 50, [3, 20, 0, 7, 20], [49, 1]])
@pytest.mark.parametrize("least", [1, 12])
def test_every_frame_is_spoken_once_in_order_with_its_context(sizes: list[int], least: int) -> None:
    frames = torch.arange(50.0)[:, None]
    spoken: list[float] = []
    for window in windows(iter(frames.split(sizes)), context=4, least=least):
        numbers = window.mels[:, 0].tolist()
        assert numbers[0] == window.start
        assert window.left == min(4, len(spoken))
        assert window.right == 4 or numbers[-1] == 49
        spoken += window.cut(window.mels.repeat_interleave(2, dim=0)[:, 0], 2).tolist()[::2]
        assert numbers[window.left] == spoken[len(spoken) - (len(numbers) - window.left - window.right)]
    assert spoken == list(range(50))


def test_a_stream_without_frames_says_nothing() -> None:
    assert list(windows(iter([]), context=4)) == []
    assert list(windows(iter([torch.zeros(0, 8)]), context=4)) == []

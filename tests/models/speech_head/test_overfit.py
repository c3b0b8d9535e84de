"""Four clips learned by heart: the text is exact, speech ends where it should, and moves as much as the truth."""

from typing import Any

import pytest
import torch
from small_speech_head import POINTER, small_head, spoken_batch
from small_speech_lm import small_speech_lm
from torch import Tensor

from sonant.models.losses import TokenLoss, predicting
from sonant.models.speech_head.config import SpeechLossConfig
from sonant.models.speech_head.losses import SpeechLoss

ROWS = [(9, [(1, 12)], 12), (7, [(2, 8)], 16), (12, [(3, 10)], 9), (10, [(2, 9)], 14)]
HEADS: dict[str, dict[str, Any]] = {
    "faithful, with a stop head": {"stop": True},
    "pointer, two frames a step": POINTER | {"frames_per_step": 2},
}


@pytest.mark.recipe
@pytest.mark.parametrize("changes", HEADS.values(), ids=HEADS)
def test_four_clips_are_learned_by_heart_and_end_where_they_should(changes: dict[str, Any]) -> None:
    model, batch = small_speech_lm(), spoken_batch(ROWS, mels=waves())
    model.speech_head = head = small_head(**changes, normalise=True, prenet_dropout=0.0, max_seconds=1.0)
    spoken = batch.spoken
    assert spoken is not None
    head.fit_normalisation(spoken.mels[row, :n] for row, n in enumerate(spoken.mel_lengths.tolist()))
    loss = SpeechLoss(TokenLoss(), SpeechLossConfig())
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.train()
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / 300)
        out = loss(model, batch)
        (out.total / out.weight).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        output = model(batch)
        rows, columns, _ = predicting(output.spliced)
        written = model.logits(output.hidden[rows, columns]).argmax(-1)
        assert written.tolist() == output.spliced.labels[rows, columns + 1].tolist()
        state = head.begin(model.spoken_states(batch, output), seeds=range(4))
    said: list[list[Tensor]] = [[] for _ in ROWS]
    ended = [False] * len(ROWS)
    while state.rows:
        made = head.step(state)
        for line, row in enumerate(made.rows):
            said[row].append(made.frames[line])
            ended[row] = bool(made.done[line])
    assert all(ended)
    for row, frames in enumerate(map(torch.cat, said)):
        length = int(spoken.mel_lengths[row])
        assert abs(len(frames) - length) <= 2
        assert movement(frames) / movement(spoken.mels[row, :length]) > 0.95


def waves() -> Tensor:
    """Four clips (4, 16, 16) whose bins swing at speeds of their own, zeros in padding."""
    draw = torch.Generator().manual_seed(0)
    speed, start = 0.3 + 0.9 * torch.rand(4, 1, 16, generator=draw), 6.0 * torch.rand(4, 1, 16, generator=draw)
    mels = 2 * (torch.arange(16)[None, :, None] * speed + start).sin() - 4
    return mels * (torch.arange(16) < torch.tensor([frames for _, _, frames in ROWS])[:, None])[..., None]


def movement(frames: Tensor) -> float:
    return (frames[1:] - frames[:-1]).abs().mean().item()

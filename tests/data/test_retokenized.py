from types import SimpleNamespace
from typing import Any

import torch

from sonant.batch import StepBatches
from sonant.data.retokenized import RetokenizedStream
from tests.models.small_speech_lm import make_batch


def test_every_batch_comes_once_for_each_llm_with_its_own_tokens_and_the_same_frames() -> None:
    batch = make_batch([(5, [(2, 8)]), (7, [(1, 4)])])
    inner: Any = SimpleNamespace(micro_batches=2, steps=lambda *a, **k: iter([StepBatches(3, 4, [batch])]))
    stream = RetokenizedStream(inner, {"llm": list, "other": lambda ids: [id + 1 for id in ids for _ in "ab"]})
    (step,) = list(stream.steps(3, 4))
    assert (step.epoch, step.step, stream.micro_batches) == (3, 4, 2)
    same, other = step.batches
    assert (set(same.tasks), set(other.tasks)) == ({"llm"}, {"other"})
    assert torch.equal(same.transcript_ids, batch.transcript_ids)
    assert other.transcript_lengths.tolist() == [2 * n for n in batch.transcript_lengths.tolist()]
    assert other.transcript_ids[0, 0] == batch.transcript_ids[0, 0] + 1
    assert other.features is batch.features

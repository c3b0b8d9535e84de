"""The same clips for several language models: every batch once for each of them, its transcripts in its tokens."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sonant.batch import Batch, StepBatches
from sonant.data.loader import BatchStream

Encode = Callable[[Sequence[int]], list[int]]  # ids of the stream's own tokenizer -> ids of another


@dataclass(frozen=True)
class RetokenizedStream:
    """The batches of a stream, each as often as there are names; a name is the task of its rows.

    Order and state are those of the stream. Only `transcript_ids` are rewritten: what is read remains the first LLM's.
    """

    stream: BatchStream
    encoders: Mapping[str, Encode]  # name -> how to rewrite

    @property
    def micro_batches(self) -> int:
        """G of the stream: ranks share its batches, and each makes all versions of its own."""
        return self.stream.micro_batches

    def steps(self, epoch: int = 0, step: int = 0, *, rank: int = 0, world_size: int = 1) -> Iterator[StepBatches]:
        """Yields this rank's batches, the versions of each side by side (see `BatchStream.steps`)."""
        for item in self.stream.steps(epoch, step, rank=rank, world_size=world_size):
            versions = [_named(b, name, encode) for b in item.batches for name, encode in self.encoders.items()]
            yield replace(item, batches=versions)


def _named(batch: Batch, name: str, encode: Encode) -> Batch:
    said = zip(batch.transcript_ids.tolist(), batch.transcript_lengths.tolist(), strict=True)
    rows = [encode(ids[:length]) for ids, length in said]
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    return replace(batch, tasks=(name,) * batch.num_rows, transcript_ids=_padded(rows), transcript_lengths=lengths)


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    if not rows:
        return torch.zeros(0, 0, dtype=torch.int64)
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row, dtype=torch.int64) for row in rows], batch_first=True)

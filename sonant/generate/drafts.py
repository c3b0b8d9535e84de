"""Speculative decoding: what a CTC head has heard is put to the LLM as a guess of what it will say.

```
guess                one two tree four
LLM reads      ▸     one two tree four      all at once, after what it said last
LLM says       one   two three ..           as far as it agrees, and its own next word: three tokens for one step
next guess                     four         what follows the word that it said instead
```

Nothing is believed that the LLM would not have said by itself: answers are the same, only steps are fewer.
Source: Leviathan et al. 2023 (greedy case), with the encoder's recognition in place of a small LLM.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sonant.errors import RequestError
from sonant.models.adapters.ctc_pooling import CTCPoolingAdapter
from sonant.models.speech_lm import SpeechLM

MOST_READ = 8  # guessed tokens that are read at a time
_LOOK_AHEAD = 4  # tokens of the guess that the LLM may leave out


@dataclass(eq=False)
class Draft:
    """A guess of an answer's tokens; `place`: how far the answer has come in it."""

    token_ids: Sequence[int] = ()
    place: int = 0
    num_read: int = 0
    num_accepted: int = 0

    def next(self, most: int) -> list[int]:
        """Returns what may come next."""
        return list(self.token_ids[self.place : self.place + most])

    def take(self, token_id: int) -> None:
        """Goes on behind a token that was said: where the guess has it, else as if it stood for the one guessed."""
        ahead = self.next(_LOOK_AHEAD)
        self.place += 1 + (ahead.index(token_id) if token_id in ahead else 0)


@dataclass(eq=False)
class Overheard:
    """What went into the adapter: frames (A, T, D), lengths (A,), and the logits of the adapter's own CTC head."""

    frames: Tensor | None = None
    lengths: Tensor | None = None
    logits: Tensor | None = None


@contextmanager
def overhearing(model: SpeechLM, *, wanted: bool) -> Iterator[Overheard]:
    """Gives what the model hears inside the block; nothing if that is not wanted."""
    heard = Overheard()
    if not wanted:
        yield heard
        return

    def listen(module: nn.Module, inputs: tuple[Tensor, Tensor]) -> None:
        heard.frames, heard.lengths = inputs

    def read(module: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> None:
        heard.logits = logits

    hooks = [model.adapter.register_forward_pre_hook(listen)]
    if isinstance(model.adapter, CTCPoolingAdapter):
        hooks.append(model.adapter.ctc_head.register_forward_hook(read))
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def ctc_guesses(model: SpeechLM, heard: Overheard, audio_row: Tensor, *, num_rows: int) -> list[list[int]]:
    """Returns the tokens that the CTC head heard in each row, segment by segment: best classes, greedily.

    Raises: RequestError if neither the adapter nor the first encoder has a CTC head that spells in the LLM's tokens.
    """
    guesses: list[list[int]] = [[] for _ in range(num_rows)]
    if heard.frames is None or heard.lengths is None:
        return guesses
    logits, lengths = heard.logits, heard.lengths
    if logits is None:
        encoder = model.speech_encoders[0]
        if not hasattr(encoder, "ctc_logits"):
            raise RequestError(
                f"drafts 'ctc': neither the adapter nor the encoder {type(encoder).__name__} has a CTC head; use "
                "adapter ctc_pooling or encoder tiny, or drafts 'none'"
            )
        logits = encoder.ctc_logits(heard.frames[..., : encoder.dim])
    elif isinstance(model.adapter, CTCPoolingAdapter) and model.adapter.trunk is not None:
        lengths = model.adapter.trunk.output_lengths(lengths)
    blank = logits.shape[-1] - 1
    most = model.llm.get_input_embeddings().num_embeddings
    best = logits.argmax(-1).tolist()
    for row, classes, length in zip(audio_row.tolist(), best, lengths.tolist(), strict=True):
        runs = torch.unique_consecutive(torch.tensor(classes[:length])).tolist()
        guesses[row] += [token for token in runs if token != blank and token < most]
    return guesses

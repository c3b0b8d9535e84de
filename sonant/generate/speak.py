"""Saying an answer: what was written is read once more, as in training, and becomes frames, step by step, then sound.

    question ──decode──▶ answer ──one pass over both──▶ states of what is said ──head──▶ f f f f f f ──vocoder──▶ sound
                                                                                 chunks |‾‾‾‾| |‾‾‾‾|

The states could be kept while the answer is decoded (they are the same), but a voice that goes on in the LLM needs all
rows together again. One pass over question and answer gives any head what it got in training.
"""

import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sonant.batch import Example, collate
from sonant.chat.spelling import spell
from sonant.chat.tokenizer import ChatTokenizer
from sonant.errors import RequestError
from sonant.generate.reply import Reply, SoundChunk, SpokenReply
from sonant.models.lora import lora_disabled
from sonant.models.speech_head.head import SpeechHead
from sonant.models.speech_head.states import SpokenStates, SpokenStep
from sonant.models.speech_lm import SpeechLM
from sonant.models.vocoders.base import Vocoder
from sonant.models.vocoders.hugging_face import HuggingFaceVocoder
from sonant.models.vocoders.load import load_vocoder
from sonant.spoken import Spoken

FIRST_CHUNK_S = 0.25  # of frames that a stream gathers before it makes sound of them
LARGEST_CHUNK = 4  # times the first
TINY_VOCODER = "tiny/vocoder"


class Voice:
    """A model's speech head and the vocoder that makes sound of its frames, on the device of the model.

    vocoder: a vocoder, or what `load_vocoder` takes; None: the shipped one if it fits, else Griffin-Lim.

    Raises: RequestError if the model has no voice, or the vocoder reads other mels.
    """

    def __init__(self, model: SpeechLM, tokenizer: ChatTokenizer, *, vocoder: Vocoder | str | None = None) -> None:
        if model.speech_head is None:
            raise RequestError(
                "this model has no voice (no speech_head): it answers in writing alone; train one that speaks "
                "('sonant train spectron'), or leave out the speech"
            )
        self.model, self.tokenizer, self.head = model, tokenizer, model.speech_head
        self.vocoder = _vocoder(vocoder, head=self.head)

    @property
    def sample_rate_hz(self) -> int:
        """Returns the rate of what it says."""
        return self.head.mel.sample_rate_hz

    def say(
        self, asked: Sequence[Example], written: Sequence[Reply], *, began: float, seed: int = 0, lora: bool = True
    ) -> list[SpokenReply]:
        """Returns the answers, as they were written to what was `asked`, said aloud.

        What a row draws depends on `seed` and its id alone: it sounds the same in any company. A row whose speech does
        not end by itself is cut off where the head's `max_seconds` or `max_seconds_per_letter` say, and not finished.
        began: `time.perf_counter()` when the questions were put.
        """
        frames: list[list[Tensor]] = [[self._silence] for _ in asked]
        finished = [True] * len(asked)
        for step in self._steps(asked, written, seed=seed, lora=lora):
            for row, made, done in zip(step.rows, step.frames, step.done.tolist(), strict=True):
                frames[row].append(made)
                finished[row] = done
        mels = [torch.cat(made) for made in frames]
        samples = self._sound(mels)
        share_s = (time.perf_counter() - began) / len(asked)
        return [self._spoken(*each, seconds=share_s) for each in zip(written, samples, mels, finished, strict=True)]

    @torch.no_grad()
    def stream(
        self,
        asked: Example,
        reply: Reply,
        *,
        began: float,
        seed: int = 0,
        lora: bool = True,
        between: Callable[[], None] = lambda: None,
    ) -> Iterator[SoundChunk | SpokenReply]:
        """Yields the sound of an answer in chunks, while its next frames are still to be made; then all of it.

        With a neural vocoder the chunks joined are what `say` gives.
        between: called after each step, of which a chunk takes many: whoever owns the model can do other work in turn,
            and what it raises ends the stream.
        """
        frames, finished, first_sound_s = [self._silence], True, None
        chunks: list[Tensor] = []

        def made() -> Iterator[Tensor]:
            nonlocal finished
            for step in self._steps([asked], [reply], seed=seed, lora=lora):
                frames.append(step.frames[0])
                finished = bool(step.done[0])
                yield step.frames[0]
                between()

        first = round(FIRST_CHUNK_S * self.head.mel.frame_rate_hz)
        for samples in self.vocoder.stream(_gathered(made(), first=first)):
            chunks.append(samples)
            first_sound_s = first_sound_s or time.perf_counter() - began
            yield SoundChunk(_numbers(samples))
        whole = torch.cat(chunks) if chunks else self._silence.flatten()
        seconds = time.perf_counter() - began
        spoken = self._spoken(reply, whole, torch.cat(frames), finished, seconds=seconds)
        yield replace(spoken, first_sound_s=first_sound_s)

    @torch.no_grad()
    def _steps(
        self, asked: Sequence[Example], written: Sequence[Reply], *, seed: int, lora: bool
    ) -> Iterator[SpokenStep]:
        """The frame loop; `rows` count what was asked. An answer without a letter to say takes no part."""
        rows = [self._answered(example, reply.token_ids) for example, reply in zip(asked, written, strict=True)]
        heard = [index for index, row in enumerate(rows) if row.spoken is not None and len(row.spoken.letters)]
        if not heard:
            return
        batch = collate([rows[index] for index in heard]).to(self.head.mean.device)
        seeds = [seed + zlib.crc32(asked[index].id.encode()) for index in heard]
        with self._llm(lora):
            states = self.model.spoken_states(batch, self.model(batch))
            state = self.head.begin(states, seeds=seeds)
        self._refuse_long(states, state.most_steps)
        while state.rows:
            with self._llm(lora):  # closed while the caller does other things
                step = self.head.step(state)
            yield replace(step, rows=[heard[row] for row in step.rows])

    def _llm(self, lora: bool) -> AbstractContextManager[object]:
        return nullcontext() if lora else lora_disabled(self.model.llm)

    def _spoken_text(self, answer: Sequence[int]) -> str:
        """The end of an answer that is said: what follows its last boundary, if the voice has one; else all."""
        text, boundary = self.tokenizer.decode(answer), self.head.config.spoken_after
        return (text if boundary is None else text.rpartition(boundary)[2]).strip()

    def _answered(self, asked: Example, answer: Sequence[int]) -> Example:
        """The question with its answer as training would have it, the sound of it unknown."""
        written = np.array([*answer, self.tokenizer.end_of_turn_id], np.int64)
        spelling = spell(self.tokenizer, answer, spoken=self._spoken_text(answer))
        return replace(
            asked,
            token_ids=np.concatenate([asked.token_ids, written]),
            loss_mask=np.concatenate([asked.loss_mask, np.ones(len(written), np.float32)]),
            spoken=Spoken.of(spelling, first=len(asked.token_ids), mels=self._silence),
        )

    def _refuse_long(self, states: SpokenStates, most_steps: Tensor) -> None:
        if states.context is None or (limit := self.model.positions) is None:
            return
        longest = int((states.context.lengths + most_steps).argmax())
        read, made = int(states.context.lengths[longest]), int(most_steps[longest])
        if read + made > limit:
            raise RequestError(
                f"question and answer are {read} positions long, and speech may take {made} more; this LLM, which "
                f"makes it, holds {limit}: ask more briefly, or give the voice a lower max_seconds"
            )

    def _spoken(self, reply: Reply, samples: Tensor, mels: Tensor, finished: bool, *, seconds: float) -> SpokenReply:
        return SpokenReply(
            text=reply.text,
            spoken_text=self._spoken_text(reply.token_ids),
            token_ids=reply.token_ids,
            text_finished=reply.finished,
            speech_finished=finished,
            samples=_numbers(samples),
            sample_rate_hz=self.sample_rate_hz,
            mels=_numbers(mels),
            seconds=seconds,
        )

    @property
    def _silence(self) -> Tensor:
        """(0, M): no frame."""
        return self.head.mean.new_zeros(0, self.head.mel.num_mels)

    @torch.no_grad()
    def _sound(self, mels: Sequence[Tensor]) -> list[Tensor]:
        """(S,) samples for each (F, M); an empty one has none."""
        samples = [torch.zeros(0) for _ in mels]
        if heard := [index for index, mel in enumerate(mels) if len(mel)]:
            lengths = torch.tensor([len(mels[index]) for index in heard], device=mels[heard[0]].device)
            padded = torch.nn.utils.rnn.pad_sequence([mels[index] for index in heard], batch_first=True)
            for index, row, length in zip(heard, self.vocoder(padded, lengths), lengths.tolist(), strict=True):
                samples[index] = row[: length * self.head.mel.hop_length]
        return samples


def _vocoder(asked: Vocoder | str | None, *, head: SpeechHead) -> Vocoder:
    if asked is None:
        shipped = load_vocoder(TINY_VOCODER)
        asked = shipped if shipped.mel == head.mel else "griffin_lim"
    vocoder = load_vocoder(asked, head.mel) if isinstance(asked, str) else asked
    if unlike := head.mel.unlike(vocoder.mel):
        raise RequestError(
            f"this vocoder is for other mels than the voice's: {unlike}; use griffin_lim, which takes any, or a "
            "vocoder trained on the voice's"
        )
    return vocoder.to(head.mean.device) if isinstance(vocoder, nn.Module | HuggingFaceVocoder) else vocoder


def _gathered(frames: Iterator[Tensor], *, first: int) -> Iterator[Tensor]:
    """Chunks (F_i, M) of `first` frames or a little more, then of twice as many, ..; the last may be shorter.

    Each chunk's context is vocoded again: few large chunks cost less, and while one is heard the next is made.
    """
    waiting: list[Tensor] = []
    size = first
    for made in frames:
        waiting.append(made)
        if sum(map(len, waiting)) >= size:
            yield torch.cat(waiting)
            waiting, size = [], min(2 * size, LARGEST_CHUNK * first)
    if waiting:
        yield torch.cat(waiting)


def _numbers(values: Tensor) -> NDArray[np.float32]:
    numbers: NDArray[np.float32] = values.float().cpu().numpy()
    return numbers

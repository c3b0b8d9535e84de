"""Prefill, then one token a step out of the cache, for a batch of unequal prompts that rows join and leave.

prompts, right-padded, as training sees them      what they say, column by column; the padding stays hidden
a a t t .                                         a a t t . | y1 y2 y3
t t t t t                  ->                     t t t t t | y1 <stop>       leaves the batch, and its place with it
"""

from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from sonant.batch import Batch
from sonant.errors import RequestError
from sonant.generate.drafts import MOST_READ, Draft, Overheard, ctc_guesses, overhearing
from sonant.generate.kv_cache import KVCache
from sonant.generate.llm_step import LeanLLM, cached_llm, sees_everything
from sonant.generate.prefill import Beginnings, Distinct, distinct, prefill
from sonant.generate.sampling import Drawing, GenerationConfig, draw, loops
from sonant.models.llm import token_embeddings
from sonant.models.lora import lora_disabled, scaled_lora
from sonant.models.matmul import Matmul, fast_matmul
from sonant.models.prepared import prepared_linears
from sonant.models.speech_lm import SpeechLM
from sonant.models.splice import Spliced


@dataclass(frozen=True)
class Step:
    """One decoding step of the rows that are still talking."""

    rows: list[int]  # (B',) which row of the batch each line is
    token_ids: Tensor  # (B',) int64, what each row says next
    logits: Tensor  # (B', V) float32, from which it was drawn
    over: list[bool]  # (B',) whether that was its last token: a stop token, or the end of its patience


@dataclass(frozen=True, eq=False)
class Row:
    """An answer in the making."""

    number: int  # rows are counted in the order in which they join
    num_read: int  # tokens and frames of its prompt
    drawing: Drawing
    draft: Draft

    @property
    def left(self) -> int:
        """How many tokens it may still say."""
        return self.drawing.config.max_new_tokens - len(self.drawing.said)


@dataclass
class _Lines:
    """Rows whose caches end at the same place: where they stand, and what comes next."""

    rows: list[Row]
    cache: KVCache
    positions: Tensor  # (B',) int64 of what each says next
    logits: Tensor | None  # (B', V) of what each says next; None as long as `token_ids` are to be read
    token_ids: Tensor | None = None  # (B',) what each has said last
    scale: Tensor | None = None  # (B', ...) of each row's LoRA: from its prompt, once

    def keep(self, lines: Sequence[int]) -> None:
        """Drops every line but these."""
        if not lines or len(lines) == len(self.rows):
            self.rows = [self.rows[line] for line in lines]
            return
        order = self.cache.keep(lines)
        self.rows = [self.rows[line] for line in order]
        index = torch.tensor(order, device=self.positions.device)
        self.positions = self.positions[index]
        self.logits, self.token_ids, self.scale = (
            None if each is None else each[index] for each in (self.logits, self.token_ids, self.scale)
        )

    def add(self, others: "_Lines") -> None:
        """Takes the lines of `others` in, behind its own; both know their logits."""
        assert self.logits is not None
        assert others.logits is not None
        self.cache.add(others.cache)
        self.rows = self.rows + others.rows
        self.positions = torch.cat([self.positions, others.positions])
        self.logits = torch.cat([self.logits, others.logits])
        if self.scale is not None and others.scale is not None:
            self.scale = torch.cat([self.scale, others.scale])


class RunningBatch:
    """Answers that are drawn together. Rows join and leave between steps; what a row says does not depend on company.

    ```
    running   q q q q y1 y2     a row joins       q q q q y1 y2     the first one leaves     . . . q q  q
              q q q . y1 y2     ----------->      q q q . y1 y2     ----------------->       q q q . y1 y2
                                q q q (prefill)   . . . q q  q      (. is hidden from it)    the last in its place
    ```

    A step reads what was drawn last and only then takes in those that have joined since: joining costs the running rows
    no step, and a prompt that cannot be read disturbs nobody.

    lora: False lets the base LLM answer. prepared: see `cached_llm`. Not for several threads at once.
    """

    def __init__(self, model: SpeechLM, *, stop_ids: frozenset[int], lora: bool = True, prepared: bool = False) -> None:
        assert not model.training, "decoding runs in eval mode"
        self.model, self.stop_ids, self.lora = model, stop_ids, lora
        self._groups: list[_Lines] = []  # those that run, then those that have joined since the last step
        self._count = 0
        self._read = cached_llm(model.llm, lora=lora, prepared=prepared)
        self._beginnings = Beginnings(model)

    @property
    def rows(self) -> list[Row]:
        """The rows that still talk."""
        return [row for lines in self._groups for row in lines.rows]

    @property
    def reads_copies(self) -> bool:
        """Whether the LLM is read by copies of its weights."""
        return isinstance(self._read, LeanLLM) and self._read.reads_copies

    @torch.no_grad()
    def join(
        self, batch: Batch, configs: Sequence[GenerationConfig], *, fit: Collection[int] = frozenset()
    ) -> list[Row]:
        """Reads a batch of prompts, which take part from the next step on; returns their rows, one config for each.

        fit: lines of the batch whose `max_new_tokens` is lowered to what their prompt leaves of the LLM's context.

        Raises: RequestError, and nobody joins, if a prompt and its answer do not fit that context.
        """
        asked = distinct(batch)
        scale = self.model.lora_scale(asked.batch) if self.lora else None
        with overhearing(self.model, wanted=any(config.drafts == "ctc" for config in configs)) as heard:
            spliced = self.model.embed(asked.batch)
        lengths = spliced.lengths if asked.index is None else spliced.lengths[asked.index]
        num_read = lengths.tolist()
        configs = [
            self._fitted(config, length) if line in fit else config
            for line, (config, length) in enumerate(zip(configs, num_read, strict=True))
        ]
        self._refuse_long(num_read, configs)
        drawings = [Drawing.begun(config, name=name) for name, config in zip(batch.ids, configs, strict=True)]
        drafts = self._drafts(asked, heard, configs)
        rows = [
            Row(self._count + line, *each) for line, each in enumerate(zip(num_read, drawings, drafts, strict=True))
        ]
        self._count += len(rows)
        with self._voice(scale):
            cache, logits = self._prefill(asked.batch, spliced, alike=scale is None)
        if asked.index is not None:
            cache.take(asked.index)
            logits, scale = logits[asked.index], None if scale is None else scale[asked.index]
        self._groups.append(_Lines(list(rows), cache, lengths, logits=logits, scale=scale))
        return rows

    @torch.no_grad()
    def step(self) -> Step:
        """Returns what every row says next. A row that is over has left."""
        lines = self._together()
        assert lines.logits is not None
        logits, token_ids = lines.logits, draw(lines.logits, [row.drawing for row in lines.rows])
        step = self._said(lines.rows, token_ids, logits)
        over = step.over
        lines.token_ids, lines.logits = token_ids, None
        self.leave([number for number, done in zip(step.rows, over, strict=True) if done])
        return step

    @torch.no_grad()
    def leap(self) -> list[Step]:
        """Returns the next steps, one unless rows have drafts: all in which some row said what its draft foretold.

        What is said is what `step` would have said, token by token; rows that guessed worse take part in fewer steps.
        """
        lines = self._groups[0]
        guesses = [row.draft.next(min(MOST_READ, row.left - 1)) for row in lines.rows]
        if len(self._groups) > 1 or lines.token_ids is None or not any(guesses):
            return [self.step()]
        with self._voice(lines.scale):
            logits = self._guessed_logits(lines, guesses)
        steps = list(self._agreed(lines, guesses, logits))
        said = torch.tensor([row.drawing.said[-1] for row in lines.rows], device=lines.positions.device)
        num_kept = torch.tensor([sum(row.number in step.rows for step in steps) for row in lines.rows])
        num_kept = num_kept.to(lines.positions.device)
        lines.cache.hide(torch.arange(logits.shape[1], device=num_kept.device) < num_kept[:, None])
        lines.token_ids, lines.positions = said, lines.positions + num_kept
        self.leave([row for step in steps for row, done in zip(step.rows, step.over, strict=True) if done])
        return steps

    def leave(self, numbers: Collection[int]) -> None:
        """Drops these rows; such as have left already are no mistake."""
        for lines in self._groups:
            lines.keep([line for line, row in enumerate(lines.rows) if row.number not in numbers])
        self._groups = [lines for lines in self._groups if lines.rows]

    def _together(self) -> _Lines:
        """All lines as one, each with the logits of what it says next."""
        first, *joined = self._groups
        if first.logits is None:
            with self._voice(first.scale):
                first.logits = self._next_logits(first)
        for lines in joined:
            first.add(lines)
        self._groups = [first]
        return first

    def _prefill(self, batch: Batch, spliced: Spliced, *, alike: bool) -> tuple[KVCache, Tensor]:
        """alike: LoRA is the same for all rows, so that what one has read another can go on from."""
        beginning = self._beginnings.of(batch, self._read) if alike else None
        cache, logits = prefill(self.model, spliced, self._read, beginning=beginning)
        if alike:
            self._beginnings.learn(batch, cache)
        return cache, logits

    def _said(self, rows: Sequence[Row], token_ids: Tensor, logits: Tensor) -> Step:
        for row, token in zip(rows, token_ids.tolist(), strict=True):
            row.drawing.said.append(token)
            row.draft.take(token)
        return Step([row.number for row in rows], token_ids, logits, [self._is_over(row.drawing) for row in rows])

    def _agreed(self, lines: _Lines, guesses: Sequence[list[int]], logits: Tensor) -> Iterator[Step]:
        """Yields what the rows say: each as long as it says what was guessed, and once more. logits: (B', Q, V)."""
        talking = list(range(len(lines.rows)))
        for place in range(logits.shape[1]):
            rows = [lines.rows[line] for line in talking]
            seen = logits[talking, place]
            step = self._said(rows, draw(seen, [row.drawing for row in rows]), seen)
            yield step
            agreed = []
            for line, done in zip(talking, step.over, strict=True):
                right = guesses[line][place : place + 1] == lines.rows[line].drawing.said[-1:]
                lines.rows[line].draft.num_read += place < len(guesses[line])
                lines.rows[line].draft.num_accepted += right
                if right and not done:
                    agreed.append(line)
            talking = agreed
            if not talking:
                return

    def _guessed_logits(self, lines: _Lines, guesses: Sequence[list[int]]) -> Tensor:
        """(B', Q, V) after the last `token_ids` (B',) and each of the guesses, shorter ones filled up with anything."""
        assert lines.token_ids is not None
        size = max(map(len, guesses))
        filled = torch.tensor([ids + [0] * (size - len(ids)) for ids in guesses], device=lines.token_ids.device)
        places = lines.positions[:, None] + torch.arange(size + 1, device=filled.device)
        if (limit := self.model.positions) is not None:
            places = places.clamp(max=limit - 1)  # of what fills up, which nobody will have read
        lines.cache.open(size + 1)
        embeds = token_embeddings(self.model.llm, torch.cat([lines.token_ids[:, None], filled], dim=1))
        return self.model.logits(self._read(embeds, places, lines.cache)).float()

    def _drafts(self, asked: Distinct, heard: Overheard, configs: Sequence[GenerationConfig]) -> list[Draft]:
        """The draft of each row; an LLM that counts the columns of its cache does without."""
        if all(config.drafts == "none" for config in configs) or not sees_everything(self.model.llm):
            return [Draft() for _ in configs]
        batch = asked.batch
        guesses = ctc_guesses(self.model, heard, batch.audio_row, num_rows=batch.num_rows)
        index = range(len(configs)) if asked.index is None else asked.index.tolist()
        return [Draft(guesses[i] if c.drafts == "ctc" else ()) for i, c in zip(index, configs, strict=True)]

    def _next_logits(self, lines: _Lines) -> Tensor:
        """Returns the (B', V) logits after the last `token_ids` (B',), which join the cache."""
        assert lines.token_ids is not None
        lines.cache.open(1)
        embeds = token_embeddings(self.model.llm, lines.token_ids[:, None])
        with fast_matmul("highest"):  # with a few rows, what prepares faster products takes longer than they do
            hidden = self._read(embeds, lines.positions[:, None], lines.cache)
            lines.positions = lines.positions + 1
            return self.model.logits(hidden[:, 0]).float()

    def _is_over(self, drawing: Drawing) -> bool:
        said, config = drawing.said, drawing.config
        if said[-1] in self.stop_ids or len(said) >= config.max_new_tokens:
            return True
        return config.max_repeats is not None and loops(said, times=config.max_repeats)

    def _voice(self, scale: Tensor | None) -> AbstractContextManager[object]:
        # It wraps each call of the LLM and no more: between steps LoRA is as everybody else expects it.
        return scaled_lora(self.model.llm, scale) if self.lora else lora_disabled(self.model.llm)

    def _fitted(self, config: GenerationConfig, length: int) -> GenerationConfig:
        left = config.max_new_tokens if self.model.positions is None else max(1, self.model.positions - length)
        return config.model_copy(update={"max_new_tokens": min(config.max_new_tokens, left)})

    def _refuse_long(self, lengths: Sequence[int], configs: Sequence[GenerationConfig]) -> None:
        limit = self.model.positions
        for length, config in zip(lengths, configs, strict=True):
            if limit is not None and length + config.max_new_tokens > limit:
                raise RequestError(
                    f"the prompt is {length} positions long and {config.max_new_tokens} new tokens were asked for; "
                    f"this LLM holds {limit}: shorten the audio or the text, or lower max_new_tokens"
                )


def decode(
    model: SpeechLM, batch: Batch, *, config: GenerationConfig, stop_ids: frozenset[int], lora: bool = True
) -> Generator[Step, None, None]:
    """Yields the steps of a batch of prompts until every row has stopped or said `max_new_tokens` tokens.

    A stop token is yielded too and ends its row, as does a loop of `max_repeats`. With `lora=False` the base LLM
    answers.

    Raises: RequestError if prompt and answer do not fit the LLM's context.
    """
    running = RunningBatch(model, stop_ids=stop_ids, lora=lora)
    running.join(batch, [config] * batch.num_rows)
    while running.rows:
        yield from running.leap()


def asked_at_once(
    model: SpeechLM, batch: Batch, *, config: GenerationConfig, stop_ids: frozenset[int], lora: bool = True
) -> tuple[RunningBatch, list[Row]]:
    """Returns prompts that have been read, by weights laid out before (`sonant.models.prepared`), and their rows."""
    running = RunningBatch(model, stop_ids=stop_ids, lora=lora, prepared=True)
    with prepared_linears(*model.beside_llm) as prepared:
        # What has many positions and is not laid out before pays for faster kernels; see `_next_logits`.
        kernels: Matmul = "highest" if prepared and running.reads_copies else "auto"
        with fast_matmul(kernels, device=batch.token_ids.device):
            return running, running.join(batch, [config] * batch.num_rows)


def generate(
    model: SpeechLM, batch: Batch, *, config: GenerationConfig, stop_ids: frozenset[int], lora: bool = True
) -> list[list[int]]:
    """Returns what each row of the batch says: a list of token ids, the stop token included if it was reached."""
    running, rows = asked_at_once(model, batch, config=config, stop_ids=stop_ids, lora=lora)
    while running.rows:
        running.leap()
    return [row.drawing.said for row in rows]

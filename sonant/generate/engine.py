"""Prefill, then one token a step out of the cache, for a batch of unequal prompts that rows join and leave.

right-padded, as training sees it      left-padded, so that every row ends at the same place
a a t t .                              . a a t t | y1 y2 y3
t t t . .            ->                . . t t t | y1 <stop>       leaves the batch, and its cache with it
"""

from collections.abc import Collection, Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

from sonant.batch import Batch
from sonant.errors import RequestError
from sonant.generate.sampling import Drawing, GenerationConfig, draw, loops
from sonant.models.lora import lora_disabled, scaled_lora
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


@dataclass
class _Lines:
    """Rows whose caches end at the same place: what they attend to, and what comes next."""

    rows: list[Row]
    cache: DynamicCache
    attention_mask: Tensor  # (B', L) bool; True where a row has something to attend to
    logits: Tensor | None  # (B', V) of what each says next; None as long as `token_ids` are to be read
    token_ids: Tensor | None = None  # (B',) what each has said last
    scale: Tensor | None = None  # (B', ...) of each row's LoRA: from its prompt, once

    def keep(self, lines: Sequence[int]) -> None:
        """Drops every line but these, and the columns on the left that only the others had."""
        self.rows = [self.rows[line] for line in lines]
        if not lines or len(lines) == len(self.attention_mask):
            return
        index = torch.tensor(lines, device=self.attention_mask.device)
        self.cache.batch_select_indices(index)
        self.attention_mask = self.attention_mask[index]
        self.logits, self.token_ids, self.scale = (
            None if each is None else each[index] for each in (self.logits, self.token_ids, self.scale)
        )
        if first := int(self.attention_mask.any(0).int().argmax()):
            self.attention_mask = self.attention_mask[:, first:]
            for layer in self.cache.layers:
                layer.keys, layer.values = layer.keys[:, :, first:], layer.values[:, :, first:]

    def add(self, others: "_Lines") -> None:
        """Takes the lines of `others` in, behind its own; both know their logits."""
        width = max(self.attention_mask.shape[1], others.attention_mask.shape[1])
        for layer, other in zip(self.cache.layers, others.cache.layers, strict=True):
            layer.keys, layer.values = (
                torch.cat([F.pad(x, (0, 0, width - x.shape[2], 0)) for x in pair])
                for pair in ((layer.keys, other.keys), (layer.values, other.values))
            )
        masks = (self.attention_mask, others.attention_mask)
        self.attention_mask = torch.cat([F.pad(mask, (width - mask.shape[1], 0)) for mask in masks])
        self.rows = self.rows + others.rows
        assert self.logits is not None
        assert others.logits is not None
        self.logits = torch.cat([self.logits, others.logits])
        if self.scale is not None and others.scale is not None:
            self.scale = torch.cat([self.scale, others.scale])


class RunningBatch:
    """Answers that are drawn together. Rows join and leave between steps; what a row says does not depend on company.

    ```
    running   q q q q y1 y2     a row joins       q q q q y1 y2     the first one leaves     . q q y1
              . . q q q  y1     ----------->      . . q q q  y1     ----------------->       q q q y1
                                q q q (prefill)   . . . q q  q                               (columns that nobody
                                                  its cache, moved to the right end           has left are cut off)
    ```

    A step reads what was drawn last and only then takes in those that have joined since: joining costs the running rows
    no step, and a prompt that cannot be read disturbs nobody.

    lora: False lets the base LLM answer. Not for several threads at once.
    """

    def __init__(self, model: SpeechLM, *, stop_ids: frozenset[int], lora: bool = True) -> None:
        assert not model.training, "decoding runs in eval mode"
        self.model, self.stop_ids, self.lora = model, stop_ids, lora
        self._groups: list[_Lines] = []  # those that run, then those that have joined since the last step
        self._count = 0

    @property
    def rows(self) -> list[Row]:
        """The rows that still talk."""
        return [row for lines in self._groups for row in lines.rows]

    @torch.no_grad()
    def join(
        self, batch: Batch, configs: Sequence[GenerationConfig], *, fit: Collection[int] = frozenset()
    ) -> list[Row]:
        """Reads a batch of prompts, which take part from the next step on; returns their rows, one config for each.

        fit: lines of the batch whose `max_new_tokens` is lowered to what their prompt leaves of the LLM's context.

        Raises: RequestError, and nobody joins, if a prompt and its answer do not fit that context.
        """
        scale = self.model.lora_scale(batch) if self.lora else None
        spliced = self.model.embed(batch)
        lengths = spliced.lengths.tolist()
        configs = [
            self._fitted(config, length) if line in fit else config
            for line, (config, length) in enumerate(zip(configs, lengths, strict=True))
        ]
        self._refuse_long(lengths, configs)
        drawings = [Drawing.begun(config, name=name) for name, config in zip(batch.ids, configs, strict=True)]
        rows = [Row(self._count + line, *each) for line, each in enumerate(zip(lengths, drawings, strict=True))]
        self._count += len(rows)
        with self._voice(scale):
            self._groups.append(_prefill(self.model, spliced, rows, scale=scale))
        return rows

    @torch.no_grad()
    def step(self) -> Step:
        """Returns what every row says next. A row that is over has left."""
        lines = self._together()
        assert lines.logits is not None
        logits, token_ids = lines.logits, draw(lines.logits, [row.drawing for row in lines.rows])
        for row, token in zip(lines.rows, token_ids.tolist(), strict=True):
            row.drawing.said.append(token)
        over = [self._is_over(row.drawing) for row in lines.rows]
        step = Step([row.number for row in lines.rows], token_ids, logits, over)
        lines.token_ids, lines.logits = token_ids, None
        self.leave([number for number, done in zip(step.rows, over, strict=True) if done])
        return step

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
                first.logits = _next_logits(self.model, first)
        for lines in joined:
            first.add(lines)
        self._groups = [first]
        return first

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
        yield running.step()


def generate(
    model: SpeechLM, batch: Batch, *, config: GenerationConfig, stop_ids: frozenset[int], lora: bool = True
) -> list[list[int]]:
    """Returns what each row of the batch says: a list of token ids, the stop token included if it was reached."""
    running = RunningBatch(model, stop_ids=stop_ids, lora=lora)
    rows = running.join(batch, [config] * batch.num_rows)
    while running.rows:
        running.step()
    return [row.drawing.said for row in rows]


def _prefill(model: SpeechLM, spliced: Spliced, rows: list[Row], *, scale: Tensor | None) -> _Lines:
    """Returns the state after the prompts, with the logits of each row's first answer token."""
    embeds, mask = spliced.left_padded()
    cache = DynamicCache()
    out = model.llm(
        inputs_embeds=embeds,
        attention_mask=mask.long(),
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return _Lines(list(rows), cache, mask, logits=out.logits[:, -1].float(), scale=scale)


def _next_logits(model: SpeechLM, lines: _Lines) -> Tensor:
    """Returns the (B', V) logits after the last `token_ids` (B',), which join the cache."""
    assert lines.token_ids is not None
    lines.attention_mask = F.pad(lines.attention_mask, (0, 1), value=True)
    out = model.llm(
        input_ids=lines.token_ids[:, None],
        attention_mask=lines.attention_mask.long(),
        position_ids=lines.attention_mask.sum(1, keepdim=True) - 1,
        past_key_values=lines.cache,
        use_cache=True,
    )
    logits: Tensor = out.logits[:, -1].float()
    return logits

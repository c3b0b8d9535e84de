"""Language models run here: a Hugging Face folder, its own chat template, batches, JSON by a mask over the tokens.

prompts, padded on the left      . . u u u | {"  an sw er  ":  ...   each token drawn from those the schema allows
                                 u u u u u | Yes  .  <stop>          no schema: from all
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders
from torch import Tensor
from transformers import GenerationConfig as HFGenerationConfig
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel

from sonant.chat.messages import Conversation
from sonant.chat.render import render
from sonant.chat.tokenizer import ChatTokenizer
from sonant.errors import ChatError, RequestError
from sonant.generate.chat_model import ChatAnswer, ChatRequest, plain_messages
from sonant.generate.sampling import Drawing, GenerationConfig, draw
from sonant.models.device import device_named
from sonant.models.llm import LLMConfig, load_llm
from sonant.models.parts import resolve_part

# JSON as language models have read it, on one line; free white space would let an answer run on for ever.
JSON_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class LocalModel:
    """A causal language model and its tokenizer.

    Each answer is drawn for itself: in float32 it does not depend on what else is in its batch (bfloat16 may round).
    """

    def __init__(self, llm: PreTrainedModel, tokenizer: ChatTokenizer, *, name: str, batch_size: int = 8) -> None:
        self.llm, self.tokenizer, self.name, self.batch_size = llm.eval(), tokenizer, name, batch_size
        stops = llm.generation_config.eos_token_id if llm.generation_config is not None else None
        self.stop_ids = sorted(tokenizer.stop_ids | set(stops if isinstance(stops, list) else [stops]) - {None})
        llm.generation_config = HFGenerationConfig()  # requests alone decide how answers are drawn

    @classmethod
    def from_folder(
        cls, path: str | os.PathLike[str], *, device: str | None = None, batch_size: int = 8
    ) -> "LocalModel":
        """Returns the model in a folder, or of a hub id, or `tiny/llm`: safetensors only, never code of its own.

        device: where it runs; by default a GPU in bfloat16 if there is one, else the CPU in float32.
        Raises: ModelError or ChatError if the folder holds no such model, tokenizer or chat template.
        """
        where = device_named(device or "auto")
        dtype = "float32" if where.type == "cpu" else "bfloat16"
        llm = load_llm(LLMConfig(path=str(path), dtype=dtype))
        tokenizer = ChatTokenizer.from_folder(resolve_part(str(path)))
        return cls(llm.to(where), tokenizer, name=str(path), batch_size=batch_size)

    def complete(
        self, requests: Sequence[ChatRequest], *, progress: Callable[[int], None] = lambda done: None
    ) -> list[ChatAnswer]:
        """Returns one answer a request, in their order; a prompt that does not fit the context is a failure.

        Raises: RequestError if a request holds audio or a schema that the tokenizer or llguidance cannot follow.
        """
        answers: list[ChatAnswer | None] = [None] * len(requests)
        prompts = [self._prompt(request) for request in requests]
        for i, (request, prompt) in enumerate(zip(requests, prompts, strict=True)):
            if (failure := self._misfit(request, prompt)) is not None:
                answers[i] = ChatAnswer("", failure)
        # Questions of like length together, so that little is padding.
        waiting = sorted((i for i, answer in enumerate(answers) if answer is None), key=lambda i: len(prompts[i]))
        progress(done := len(requests) - len(waiting))
        for start in range(0, len(waiting), self.batch_size):
            batch = waiting[start : start + self.batch_size]
            said = self._generate([requests[i] for i in batch], [prompts[i] for i in batch])
            for i, token_ids in zip(batch, said, strict=True):
                answers[i] = self._answer(token_ids, requests[i])
            progress(done := done + len(batch))
        return [answer for answer in answers if answer is not None]

    def _prompt(self, request: ChatRequest) -> list[int]:
        plain_messages(request.messages)  # refuses audio
        rendered = render(Conversation(request.messages), self.tokenizer, for_generation=True)
        return [int(id) for id in rendered.token_ids]

    def _misfit(self, request: ChatRequest, prompt: Sequence[int]) -> str | None:
        limit = getattr(self.llm.config, "max_position_embeddings", None)
        if limit is None or len(prompt) + request.max_new_tokens <= limit:
            return None
        return (
            f"the prompt has {len(prompt)} tokens and the answer up to {request.max_new_tokens}; the LLM holds {limit}"
        )

    @torch.no_grad()
    def _generate(self, requests: Sequence[ChatRequest], prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        width = max(map(len, prompts))
        pad = self.tokenizer.pad_id
        token_ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        drawing = _Drawing([_Row(request, self._matcher(request.schema)) for request in requests], width=width)
        output: Any = self.llm.generate(
            token_ids.to(self.llm.device),
            attention_mask=mask.to(self.llm.device),
            generation_config=HFGenerationConfig(
                max_new_tokens=max(request.max_new_tokens for request in requests),
                eos_token_id=self.stop_ids,
                pad_token_id=pad,
            ),
            logits_processor=LogitsProcessorList([drawing]),
        )
        return [row[width:] for row in output.tolist()]

    def _answer(self, token_ids: Sequence[int], request: ChatRequest) -> ChatAnswer:
        said = list(token_ids[: request.max_new_tokens])
        end = next((i for i, id in enumerate(said) if id in self.stop_ids), None)
        text = self.tokenizer.decode(said[:end])
        if end is None:
            return ChatAnswer(text, f"cut off after {request.max_new_tokens} tokens")
        return ChatAnswer(text, "" if text.strip() else "the answer is empty")

    def _matcher(self, schema: Mapping[str, Any] | None) -> Any:
        if schema is None:
            return None
        import llguidance

        try:
            grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(dict(schema)), JSON_LAYOUT)
            matcher = llguidance.LLMatcher(self._grammar_tokenizer, grammar)
        except ValueError as error:
            raise RequestError(f"llguidance cannot follow this JSON schema ({error}); simplify it") from None
        if matcher.is_error():
            raise RequestError(f"llguidance cannot follow this JSON schema ({matcher.get_error()}); simplify it")
        return matcher

    @cached_property
    def _grammar_tokenizer(self) -> Any:
        try:
            import llguidance
        except ImportError:
            raise RequestError("JSON answers of a local model need llguidance; pip install 'sonant[api]'") from None
        num_tokens = max(self.llm.get_input_embeddings().num_embeddings, self.tokenizer.vocab_size)
        try:
            return llguidance.LLTokenizer(_spelled_out(self.tokenizer), n_vocab=num_tokens, eos_token=self.stop_ids)
        except ValueError as error:
            raise ChatError(f"{self.name}: llguidance cannot read its tokenizer ({error})") from None


def _spelled_out(tokenizer: ChatTokenizer) -> str:
    """Returns the tokenizer as JSON; llguidance knows "▁" as a space in sentencepiece's spelling of a decoder only."""
    backend = Tokenizer.from_str(tokenizer.hf.backend_tokenizer.to_str())
    backend.no_padding()
    backend.no_truncation()
    if "Metaspace" in str(backend.decoder):
        backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return backend.to_str()


class _Row:
    """Draws the tokens of one answer."""

    def __init__(self, request: ChatRequest, matcher: Any) -> None:
        self.matcher = matcher
        config = GenerationConfig(temperature=request.temperature)
        self.drawing = Drawing(config, torch.Generator().manual_seed(request.seed), [])

    def draw(self, logits: Tensor, last: int | None) -> int:
        """Returns the next token. logits: (V,); last: the token drawn before, None for the first."""
        if self.matcher is not None:
            if last is not None and not self.matcher.is_stopped():
                self.matcher.consume_token(last)
            allowed = np.unpackbits(np.frombuffer(self.matcher.compute_bitmask(), np.uint8), bitorder="little")
            logits = logits.masked_fill(torch.from_numpy(allowed[: len(logits)] == 0).to(logits.device), float("-inf"))
        return int(draw(logits[None], [self.drawing]))


class _Drawing(LogitsProcessor):
    """Leaves one token a row, so that the greedy search of transformers takes it: each row is drawn for itself."""

    def __init__(self, rows: Sequence[_Row], *, width: int) -> None:
        self.rows, self.width = rows, width

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Returns (B, V) scores. input_ids: (B, L), prompts of `width` tokens and what was drawn so far."""
        last = [None] * len(self.rows) if input_ids.shape[1] == self.width else input_ids[:, -1].tolist()
        drawn = [row.draw(logits, token) for row, logits, token in zip(self.rows, scores.float(), last, strict=True)]
        index = torch.tensor(drawn, device=scores.device)[:, None]
        return torch.full_like(scores, float("-inf")).scatter(1, index, 0.0)

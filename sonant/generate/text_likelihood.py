"""How likely a text is to a named language model: what log-perplexity is made of."""

from collections.abc import Sequence

import torch
from transformers import AutoTokenizer

from sonant.models.device import device_named
from sonant.models.llm import LLMConfig, load_llm
from sonant.models.parts import quiet_transformers, resolve_part


class TextLikelihood:
    """A causal language model of Hugging Face, in a folder or `tiny/llm`.

    One with a chat template reads a text as its answer to the context; any other reads on from it, after a space.
    """

    def __init__(self, path: str, *, device: str | None = None) -> None:
        """Raises: ModelError if it cannot be loaded."""
        self.device = device_named(device or "auto")
        self.llm = load_llm(LLMConfig(path=path)).to(self.device)
        with quiet_transformers():
            self.tokenizer = AutoTokenizer.from_pretrained(resolve_part(path), trust_remote_code=False)

    @torch.no_grad()
    def __call__(self, texts: Sequence[str], contexts: Sequence[str]) -> list[tuple[float, int]]:
        """Returns (nats, tokens) of each text, given the context before it; an empty text has (0, 0).

        Tokens of the context do not count; nor does the first token of all, where a plain model has no token that
        begins a text or, for want of it, ends one.
        """
        return [self._one(text.strip(), context.strip()) for text, context in zip(texts, contexts, strict=True)]

    def _one(self, text: str, context: str) -> tuple[float, int]:
        before, ids = self._split(text, context)
        start = max(len(before), 1)
        if not text or len(before) + len(ids) <= start:
            return 0.0, 0
        token_ids = torch.tensor([before + ids], device=self.device)
        logits = self.llm(input_ids=token_ids).logits[0, start - 1 : -1].float()
        picked = logits.log_softmax(-1).gather(1, token_ids[0, start:, None])
        return -float(picked.double().sum()), token_ids.shape[1] - start

    def _split(self, text: str, context: str) -> tuple[list[int], list[int]]:
        """The tokens before the text, and its own."""
        if self.tokenizer.chat_template:
            turn = [{"role": "user", "content": context}]
            asked = self.tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
            return self._ids(asked), self._ids(text)
        begin = self.tokenizer.bos_token_id
        begin = self.tokenizer.eos_token_id if begin is None else begin
        first, before = [] if begin is None else [begin], self._ids(context)
        if not context:
            return first, self._ids(text)
        # Some tokenizers begin a text with a space of their own: so it is read behind its context.
        whole = self._ids(f"{context} {text}")
        own = whole[len(before) :] if whole[: len(before)] == before else self._ids(f" {text}")
        return [*first, *before], own

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

"""Chat templates, run once with a sentinel in place of every message; the only caller of `apply_chat_template`.

    contents   ⟨0⟩            ⟨1⟩
    template   <|im_start|>user⏎⟨0⟩<|im_end|>⏎<|im_start|>assistant⏎⟨1⟩<|im_end|>⏎
    glue       ────── 0 ───────   ───────────────── 1 ──────────────   ──── 2 ────

What a user writes never meets the template, so it cannot be read as a part of it.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jinja2

from sonant.errors import ChatError

# Whitespace around each sentinel shows what the template strips. Template glue never ends with a tab.
LEFT = "\n" * 8 + "\t"
RIGHT = "\t" + "\n" * 8


@dataclass(frozen=True)
class Strip:
    """What a template does to the ends of a message: keeps them (None), strips line breaks, or any whitespace ("")."""

    left: Literal["", "\n"] | None
    right: Literal["", "\n"] | None

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """Returns the texts of one message, as stripped as their concatenation would be."""
        whole = "".join(texts)
        start = 0 if self.left is None else len(whole) - len(whole.lstrip(self.left or None))
        end = len(whole) if self.right is None else max(start, len(whole.rstrip(self.right or None)))
        stripped, position = [], 0
        for text in texts:
            stripped.append(text[max(0, start - position) : max(0, end - position)])
            position += len(text)
        return stripped


@dataclass(frozen=True)
class Frame:
    """What a template puts around N messages."""

    glue: tuple[str, ...]  # N + 1: before the first message, between them, after the last
    strips: tuple[Strip, ...]  # N


def frame(hf: Any, roles: Sequence[str], *, add_generation_prompt: bool = False) -> Frame:
    """Returns the glue that the chat template of `hf`, a Hugging Face tokenizer, puts around messages of these roles.

    Raises: ChatError if there is no template, it refuses the roles, or does not place every message once, in order.
    """
    if not hf.chat_template:
        raise ChatError("the tokenizer has no chat template; use an instruction-tuned model or set `chat_template`")
    nonce = secrets.token_hex(8)  # nothing in a template can look like it
    # Letters of both cases: sixteen digits in a row would hide a template that changes the case.
    sentinels = [f"<Aa{nonce}:{i}>" for i in range(len(roles))]
    contents = [LEFT + sentinel + RIGHT for sentinel in sentinels]
    text = _run(hf, roles, contents, add_generation_prompt)
    if nonce not in text:  # some templates read lists of parts only
        text = _run(hf, roles, [[{"type": "text", "text": content}] for content in contents], add_generation_prompt)
    return _split(text, sentinels, roles)


def _run(hf: Any, roles: Sequence[str], contents: Sequence[Any], add_generation_prompt: bool) -> str:
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
    try:
        text: str = hf.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            enable_thinking=False,  # the same empty block in front of an answer, trained or generated
            date_string="26 Jul 2024",  # Llama's own default: the same tokens on any day
        )
        return text
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        raise ChatError(f"the chat template refuses the roles {', '.join(roles)}: {error}{_remedy(roles)}") from None


def _remedy(roles: Sequence[str]) -> str:
    return "; put the system text at the start of the first user message instead" if "system" in roles else ""


def _split(text: str, sentinels: Sequence[str], roles: Sequence[str]) -> Frame:
    places = [text.find(sentinel) for sentinel in sentinels]
    counts = [text.count(sentinel) for sentinel in sentinels]
    for i, count in enumerate(counts):
        if count != 1:
            did = "drops" if count == 0 else f"repeats {count} times"
            raise ChatError(f"the chat template {did} message {i} ({roles[i]}), not once{_remedy(roles)}")
    if places != sorted(places):
        order = sorted(range(len(places)), key=places.__getitem__)
        raise ChatError(f"the chat template puts the messages in the order {order}{_remedy(roles)}")
    glue, strips = [], []
    for sentinel in sentinels:
        before, text = text.split(sentinel)
        glue.append(before.removesuffix(LEFT).removesuffix("\t"))
        strips.append(Strip(_stripped(before[::-1], LEFT[::-1]), _stripped(text, RIGHT)))
        text = text.removeprefix(RIGHT).removeprefix("\t")
    return Frame((*glue, text), tuple(strips))


def _stripped(text: str, probe: str) -> Literal["", "\n"] | None:
    """What was stripped of `probe`, which came next to the sentinel; `text` is read away from it."""
    if text.startswith(probe):
        return None
    return "\n" if text.startswith("\t") else ""

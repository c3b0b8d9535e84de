"""The text of an answer as its tokens come."""

import bisect
from collections.abc import Sequence

from sonant.chat.tokenizer import ChatTokenizer

_UNFINISHED = "\ufffd"  # what a character decodes to that is still missing bytes


class Decoding:
    """The text of tokens as they come: the same as if all were decoded at each, at the price of the last few.

    ```
    tokens   ▁one | ▁t | wo | ▁EN | TER | ▁a | <0xE2> | <0x82> | <0xAC> | ▁more
             settled ────────────────────┤    new until they end with a whole character
                              context ───┤
    ```

    What is new is decoded behind its context, since tokens have other blanks where a text begins.
    """

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer
        self._settled = ""  # the text up to the end of the context
        self._context, self._new = list[int](), list[int]()
        self._behind = ""  # the context, decoded alone

    def push(self, token_id: int) -> str:
        """Returns the text of all tokens so far."""
        self._new.append(token_id)
        both = self._tokenizer.decode([*self._context, *self._new])
        text = self._settled + both[len(self._behind) :]
        if not both.endswith(_UNFINISHED):
            self._settle(text, both)
        return text

    def _settle(self, text: str, both: str) -> None:
        self._settled, alone = text, self._tokenizer.decode(self._new)
        if alone:
            self._context, self._behind = self._new, alone
        else:  # no context to the next: a special token, or a blank where a text begins
            self._context, self._behind = [*self._context, *self._new], both
        self._new = []


class Writing:
    """What can be shown of an answer: whole characters, and nothing that may turn out to be no part of it.

    ```
    tokens        ▁one | ▁t | wo | ▁ | EN | TER | ▁EN | D | ..         stop "END"
    shown so far  one   one t  one two    one two ENTER  .. ENTER␣     then it is `stopped`
    ```

    The stripped text of all tokens is what is shown in the end, or all before the first stop string: a blank at the
    end, or what begins as a stop string does, waits for what follows it.
    """

    def __init__(self, tokenizer: ChatTokenizer, *, stop: Sequence[str] = ()) -> None:
        self.tokenizer, self.stop = tokenizer, tuple(stop)
        self.token_ids: list[int] = []
        self._decoding, self._text = Decoding(tokenizer), ""
        self.shown = ""
        self.stopped = False

    def push(self, token_id: int) -> str:
        """Returns the characters to be shown after this token, which is none that ends a turn."""
        self.token_ids.append(token_id)
        # Space-glued templates ([INST]) leave the space before an answer to the answer.
        self._text = self._decoding.push(token_id).lstrip()
        text = self._text.rstrip(_UNFINISHED)
        found = [at for stop in self.stop if (at := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            return self._show(text[: min(found)])
        waiting = max((_overlap(text, stop) for stop in self.stop), default=0)
        return self._show(text[: len(text) - waiting].rstrip())

    def end(self) -> str:
        """Returns the rest, which waited in vain."""
        return "" if self.stopped else self._show(self._text.rstrip())

    @property
    def num_shown(self) -> int:
        """Returns how many tokens the shown text takes: those of a stop string do not count."""
        counts = range(len(self.token_ids))  # searched by halves: each look decodes the text anew

        def num_letters(count: int) -> int:
            return len(self.tokenizer.decode(self.token_ids[:count]).lstrip())

        return bisect.bisect_left(counts, len(self.shown), key=num_letters)

    def _show(self, text: str) -> str:
        # Bytes that make no character may change what was read before them: it has been shown, and stays.
        if not text.startswith(self.shown):
            return ""
        piece, self.shown = text[len(self.shown) :], text
        return piece


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` with which `stop` begins."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)

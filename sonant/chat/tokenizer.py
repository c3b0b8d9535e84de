"""A tokenizer with two doors: one for markup, one for text that can never become markup."""

import hashlib
import os
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
import transformers
from tokenizers import Tokenizer
from transformers import AutoTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from sonant.chat.template import Frame, frame
from sonant.errors import ChatError

# A character that tokenizers with a leading-space habit never join with what follows it.
ANCHOR = "\n"
MAX_FRAMES = 256  # kept: whoever asks chooses the roles
MAX_KEPT_IDS = 1 << 18  # of texts met before: about 10 MB; then it begins anew
_BYTES = {letter: byte for byte, letter in bytes_to_unicode().items()}  # how byte-level tokenizers spell bytes


class ChatTokenizer:
    """A Hugging Face fast tokenizer with a chat template.

    `encode_markup` turns `<|im_end|>` into its special token; `encode_text` spells it out as plain characters. Each
    door has its own backend object, because the switch between the two is a state that threads would share.
    """

    def __init__(self, hf: Any) -> None:
        """Wraps `hf` (a PreTrainedTokenizerFast). Raises: ChatError if it is not a fast tokenizer."""
        if not getattr(hf, "is_fast", False):
            raise ChatError(f"{type(hf).__name__} is not a fast tokenizer; convert it so that it has a tokenizer.json")
        self.hf = hf
        self._markup = _backend(hf, splits_special=False)
        self._text = _backend(hf, splits_special=True)
        self._frames: dict[tuple[tuple[str, ...], bool], Frame] = {}
        self._kept: dict[tuple[bool, str], tuple[int, ...]] = {}  # (markup or text, what) -> ids
        self._num_kept = 0
        added = self._markup.get_added_tokens_decoder()
        self.special_ids: frozenset[int] = frozenset(id for id, token in added.items() if token.special)

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickled backend forgets which door it is; worker processes build theirs anew.
        return type(self), (self.hf,)

    @classmethod
    def from_folder(cls, path: str | os.PathLike[str]) -> "ChatTokenizer":
        """Returns the tokenizer saved in a folder. Raises: ChatError if there is none."""
        try:
            return cls(AutoTokenizer.from_pretrained(str(path), trust_remote_code=False))
        except Exception as error:  # a broken tokenizer.json raises a bare Exception
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ChatError(
                f"{path}: no tokenizer can be read here ({reason}); name a folder with tokenizer.json"
            ) from None

    @cached_property
    def _forgeable(self) -> frozenset[int]:
        return self.special_ids - {self.hf.unk_token_id}  # text of unknown characters is unknown, and no markup

    @cached_property
    def digest(self) -> str:
        """A hash of all that decides which ids a conversation becomes, our own code included."""
        code = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]
        settings = [self._text.to_str(), self.hf.chat_template, self.hf.special_tokens_map]
        versions = [tokenizers.__version__, transformers.__version__]
        return hashlib.sha256(repr([settings, versions, code]).encode()).hexdigest()

    @property
    def vocab_size(self) -> int:
        """The number of token ids, added tokens included."""
        return len(self.hf)

    @property
    def pad_id(self) -> int:
        """The id for padding; it may equal a stop id, since nothing here is ever decided by comparing ids with it."""
        for id in (self.hf.pad_token_id, self.hf.eos_token_id):
            if id is not None:
                return int(id)
        return 0

    def frame(self, roles: tuple[str, ...], *, add_generation_prompt: bool = False) -> Frame:
        """Returns what the chat template puts around messages of these roles (see `sonant.chat.template.frame`)."""
        key = roles, add_generation_prompt
        found = self._frames.get(key)
        if found is None:
            found = frame(self.hf, roles, add_generation_prompt=add_generation_prompt)
            if len(self._frames) >= MAX_FRAMES:
                self._frames.clear()
            self._frames[key] = found
        return found

    @cached_property
    def end_of_turn_id(self) -> int:
        """The special token with which the template closes an answer.

        Raises: ChatError if it closes answers with none: a model could then never learn to stop.
        """
        end = self.end_of_turn(self.frame(("user", "assistant")).glue[-1])
        if end is None:
            raise ChatError(
                "the chat template closes an answer without a special token, so that a model never learns to stop; "
                "let it write one (eos_token) after the content of every assistant message"
            )
        return end

    @property
    def stop_ids(self) -> frozenset[int]:
        """The ids that end an answer: the template's end of turn, and the end of the sequence."""
        eos = self.hf.eos_token_id
        return frozenset({self.end_of_turn_id} if eos is None else {self.end_of_turn_id, int(eos)})

    def end_of_turn(self, glue: str) -> int | None:
        """Returns the first special token in what the template writes behind an answer, if any."""
        return next((id for id in self.encode_markup(glue) if id in self.special_ids), None)

    def encode_text(self, text: str, *, after: int | None = None) -> list[int]:
        """Returns the ids of `text` as plain characters, whatever special tokens it spells.

        after: the token before it; None at the start, where sentencepiece-like tokenizers put a space of their own.
        """
        ids = self._encode(text, after)
        if self._forgeable.isdisjoint(ids):
            return ids
        # A unigram model may hold "</s>" among its ordinary pieces: spell such a piece character by character.
        spelled: list[int] = []
        for id in ids:
            piece = str(self._text.id_to_token(id)) if id in self._forgeable else ""
            spelled += [i for c in piece for i in self._encode(c, spelled[-1] if spelled else after)] or [id]
        return spelled

    def encode_markup(self, text: str, *, after: int | None = None) -> list[int]:
        """Returns the ids of template text, special tokens recognised; `after` as in `encode_text`."""
        return self._encode(text, after, markup=True)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Returns the text of the ids; special tokens are left out."""
        return str(self.hf.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def token_bytes(self, token_id: int) -> bytes:
        """Returns what one token adds to a text, in UTF-8, or some of the bytes of a character; nothing if special."""
        if token_id in self.special_ids:
            return b""
        piece = str(self._text.id_to_token(token_id))
        if "ByteLevel" in self._decoder and set(piece) <= set(_BYTES):
            return bytes(_BYTES[letter] for letter in piece)
        if "ByteFallback" in self._decoder and (found := re.fullmatch("<0x([0-9A-F]{2})>", piece)):
            return bytes.fromhex(found[1])
        return (piece.replace("▁", " ") if "▁" in self._decoder else piece).encode()

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes tokenizer.json, its configuration and the chat template to `folder`."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.hf.save_pretrained(str(folder))

    def _encode(self, text: str, after: int | None, *, markup: bool = False) -> list[int]:
        if not text:
            return []
        starts_afresh = after is None or (after in self.special_ids and self._prefixes_after_special)
        if starts_afresh or not self._prefixes:
            return list(self._ids(text, markup))
        # In the middle of a sequence no space is put before the text: encode it behind an anchor, and drop the anchor.
        anchor, ids = self._ids(ANCHOR, markup), self._ids(ANCHOR + text, markup)
        if ids[: len(anchor)] != anchor:
            raise ChatError(
                f"the tokenizer joins a line break with {text[:20]!r}, so text cannot be placed after markup"
            )
        return list(ids[len(anchor) :])

    def _ids(self, text: str, markup: bool) -> tuple[int, ...]:
        """What the backend says, or said before: prompts, templates and the answers of small sets come again."""
        ids = self._kept.get((markup, text))
        if ids is None:
            backend = self._markup if markup else self._text
            ids = tuple(backend.encode(text, add_special_tokens=False).ids)
            if self._num_kept > MAX_KEPT_IDS:
                self._kept.clear()
                self._num_kept = 0
            self._kept[markup, text] = ids
            self._num_kept += len(ids) + 1
        return ids

    @cached_property
    def _decoder(self) -> str:
        """How pieces become text, spelled out."""
        return str(self._text.decoder)

    @cached_property
    def _prefixes(self) -> bool:
        """Whether a space is put before the first word of a sequence (sentencepiece habit)."""
        alone, anchor, both = (self._text.encode(t, add_special_tokens=False).ids for t in ("a", ANCHOR, ANCHOR + "a"))
        return bool(both != anchor + alone)

    @cached_property
    def _prefixes_after_special(self) -> bool:
        """Whether that space also comes after every special token (Metaspace "always", legacy Llama)."""
        alone = self._text.encode("a", add_special_tokens=False).ids
        for special in sorted(self.special_ids):
            ids = self._markup.encode(f"{self._markup.id_to_token(special)}a", add_special_tokens=False).ids
            return bool(ids[1:] == alone)
        return False


def _backend(hf: Any, *, splits_special: bool) -> Tokenizer:
    backend = Tokenizer.from_str(hf.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = splits_special
    return backend

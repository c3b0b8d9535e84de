"""What is wrong with one row, seen from its JSON alone."""

import difflib
import functools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from sonant.chat.messages import ROLES, Conversation, Message, TextPart
from sonant.chat.spelling import word_starts
from sonant.errors import ChatError

Found = tuple[str, str]  # code of KINDS, detail

ROW_KEYS = ("id", "task", "language", "speaker", "messages")
MESSAGE_KEYS = ("role", "content")
TEXT_KEYS = ("type", "text")
AUDIO_KEYS = ("type", "path", "data", "offset_s", "duration_s", "transcript", "words")

# Markup of common chat templates, found whatever tokenizer is used: <|im_end|>, <start_of_turn>, [INST], </s>, <audio>
MARKUP = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|</?(?:start_of_turn|end_of_turn|audio|speech|image|tool_call|think|bos|eos|pad|unk|s)>"
    r"|<unused\d+>|<\uff5c[^<>\uff5c]{1,40}\uff5c>|\[/?INST\]|<</?SYS>>",
    re.IGNORECASE,
)
DAMAGED = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd]")  # control characters but tab and line ends

LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Z][a-z]{3})?(-([A-Z]{2}|\d{3}))?")


def shape_faults(value: Any) -> Iterator[Found]:
    """Yields what keeps a JSON value from being a conversation."""
    if not isinstance(value, dict):
        yield "not-an-object", f"the line holds {_shown(value)}"
        return
    yield from _misspelt(value, ROW_KEYS, "")
    for key in ("id", "task", "language", "speaker"):
        yield from _type_faults(value, key, (str,), "text")
    messages = value.get("messages")
    if not isinstance(messages, list) or not messages:
        yield "missing-messages", f"'messages' is {_shown(messages)}"
        return
    for i, message in enumerate(messages):
        yield from _message_faults(message, f"messages[{i}]")


def _message_faults(message: Any, where: str) -> Iterator[Found]:
    if not isinstance(message, dict):
        yield "wrong-type", f"{where} is {_shown(message)}, not an object"
        return
    yield from _misspelt(message, MESSAGE_KEYS, f"{where}.")
    if not isinstance(message.get("role"), str) or message["role"] not in ROLES:
        yield "unknown-role", f"{where}.role is {_shown(message.get('role'))}"
    content = message.get("content")
    if content is None:
        yield "missing-content", f"{where}.content is missing"
    elif isinstance(content, list):
        for i, part in enumerate(content):
            yield from _part_faults(part, f"{where}.content[{i}]")
    elif not isinstance(content, str):
        yield "wrong-type", f"{where}.content is {_shown(content)}, not text or a list"


def _part_faults(part: Any, where: str) -> Iterator[Found]:
    if not isinstance(part, dict):
        yield "wrong-type", f"{where} is {_shown(part)}, not an object"
    elif part.get("type") == "text":
        yield from _misspelt(part, TEXT_KEYS, f"{where}.")
        if not isinstance(part.get("text"), str):
            yield "wrong-type", f"{where}.text is {_shown(part.get('text'))}, not text"
    elif part.get("type") == "audio":
        yield from _misspelt(part, AUDIO_KEYS, f"{where}.")
        yield from _audio_part_faults(part, where)
    else:
        yield "unknown-part", f"{where}.type is {_shown(part.get('type'))}"


def _audio_part_faults(part: dict[str, Any], where: str) -> Iterator[Found]:
    if part.get("path") in (None, "") and part.get("data") is None:
        yield "missing-path", f"{where} names no recording"
    for key in ("path", "data", "transcript"):
        yield from _type_faults(part, key, (str,), "text", where=f"{where}.")
    for key in ("offset_s", "duration_s"):
        value = part.get(key)
        wrong = list(_type_faults(part, key, (int, float), "a number of seconds", where=f"{where}."))
        yield from wrong
        if (
            value is not None
            and not wrong
            and (value < 0 or value == float("inf") or (key == "duration_s" and not value))
        ):
            yield "bad-time", f"{where}.{key} is {value}"


def content_faults(conversation: Conversation, *, markup: Sequence[str] = ()) -> Iterator[Found]:
    """Yields what is wrong with what a conversation says. `markup`: special tokens of the tokenizer."""
    if not conversation.id:
        yield "missing-id", "the row has no id"
    if conversation.language and not LANGUAGE.fullmatch(conversation.language):
        yield "odd-language", f"language is {conversation.language!r}"
    roles = [message.role for message in conversation.messages]
    if roles[-1] != "assistant":
        yield "no-supervision", f"the last of {len(roles)} messages is by {roles[-1]!r}"
    body = roles[1:] if roles[0] == "system" else roles
    if any(role != ("user", "assistant")[i % 2] for i, role in enumerate(body)):
        yield "role-order", f"the roles are {', '.join(roles)}"
    for i, message in enumerate(conversation.messages):
        if message.role == "assistant" and not message.text.strip():
            yield "empty-target", f"messages[{i}] has no text"
        yield from _speech_faults(message, f"messages[{i}]")
        for j, part in enumerate(message.parts):
            if isinstance(part, TextPart):
                empty = not part.text and message.role != "assistant"
                yield from _text_faults(part.text, f"messages[{i}].content[{j}]", empty=empty, markup=markup)


def _speech_faults(message: Message, where: str) -> Iterator[Found]:
    try:
        part, words = message.spoken, message.spoken_text.split()
    except ChatError as error:
        yield "unfit-speech", f"{where}: {error}"
        return
    try:
        if part is not None:
            word_starts(part, words)
    except ChatError as error:
        yield "unfit-words", f"{where}: {error}"


def _text_faults(text: str, where: str, *, empty: bool, markup: Sequence[str]) -> Iterator[Found]:
    if empty:
        yield "empty-text", f"{where} is empty"
    spelled = MARKUP.search(text)
    token = spelled.group() if spelled else next((token for token in markup if token in text), None)
    if token:
        yield "markup-in-text", f"{where} holds {token!r}"
    bad = DAMAGED.search(text)
    if bad:
        yield "damaged-text", f"{where} holds U+{ord(bad.group()):04X}"


def _type_faults(
    values: dict[str, Any], key: str, kinds: tuple[type, ...], allowed: str, *, where: str = ""
) -> Iterator[Found]:
    value = values.get(key)
    if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
        yield "wrong-type", f"{where}{key} is {_shown(value)}, not {allowed}"


def _misspelt(values: dict[str, Any], known: tuple[str, ...], where: str) -> Iterator[Found]:
    for key in values:
        close = None if key in known else closest(key, known)
        if close and close not in values:
            yield "misspelt-key", f"{where}{key}: did you mean {close!r}?"


@functools.lru_cache(maxsize=4096)
def closest(key: str, known: tuple[str, ...]) -> str | None:
    lowered = key.lower()
    return next(iter(difflib.get_close_matches(lowered, known, n=1, cutoff=0.75)), None)


def _shown(value: Any) -> str:
    text = repr(value)
    return "missing" if value is None else text if len(text) <= 60 else text[:57] + "..."

"""Does what Spectron says follow from what it wrote? It is made to write down another clip's words, and goes on.

    heard ♪grace is a baker♪    made to write "the goose eats bread. |"    goes on: "the goose lives .." or "grace .."

A continuation follows a sentence if it shares a word with it that the other sentence has not, common words left out.
Source: the intermediate transcript of Spectron, §3.2 of the paper, on which the continuation is said to rest.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bench.figure import Figure, reported
from sonant.batch import Example, collate
from sonant.chat.messages import Conversation
from sonant.generate.assistant import Assistant
from sonant.generate.engine import generate
from sonant.generate.sampling import GenerationConfig

BOUNDARY = " | "
COMMON = 0.1  # a word in more of the transcripts than this belongs to none


def propagation(assistant: Assistant, rows: Sequence[Conversation], *, name: str) -> list[Figure]:
    """Returns how many continuations follow what was written wrongly, and what was heard; and with the right words."""
    heard = [row.reference.partition(BOUNDARY)[0] for row in rows]
    order = list(range(len(rows)))
    random.Random(0).shuffle(order)
    other = dict(zip(order, [*order[1:], order[0]], strict=True))
    wrong = [heard[other[index]] for index in range(len(rows))]
    counts = Counter(word for text in heard for word in set(_words(text)))
    common = {word for word, count in counts.items() if count > COMMON * len(rows)}
    figures = []
    for what, written in (("wrong", wrong), ("right", heard)):
        went_on = _continuations(assistant, rows, written)
        pairs = list(zip(went_on, heard, wrong, strict=True))
        follows_heard = [_shares(said, true, without=_words(false) | common) for said, true, false in pairs]
        follows_wrong = [_shares(said, false, without=_words(true) | common) for said, true, false in pairs]
        for source, marks in (("heard", follows_heard), ("of the other clip", follows_wrong)):
            share = 100 * sum(marks) / len(marks)
            figures.append(reported(f"{name}: {what} transcript written, goes on with words {source}", [share], "%"))
    return figures


def _continuations(assistant: Assistant, rows: Sequence[Conversation], written: Sequence[str]) -> list[str]:
    """What the model writes after each row's question and a transcript that it is given."""
    begun = [
        _begun(assistant, assistant.example(row.prompt()), text + BOUNDARY)
        for row, text in zip(rows, written, strict=True)
    ]
    stop_ids = assistant.tokenizer.stop_ids
    said = generate(
        assistant.model,
        collate(begun).to(assistant.device),
        config=GenerationConfig(max_new_tokens=48),
        stop_ids=stop_ids,
    )
    return [assistant.tokenizer.decode([token for token in ids if token not in stop_ids]) for ids in said]


def _begun(assistant: Assistant, asked: Example, text: str) -> Example:
    ids = assistant.tokenizer.encode_text(text.rstrip(), after=int(asked.token_ids[-1]))
    token_ids = np.concatenate([asked.token_ids, np.array(ids, np.int64)])
    return replace(asked, token_ids=token_ids, loss_mask=np.zeros(len(token_ids), np.float32))


def _words(text: str) -> set[str]:
    return {word.strip(".,?") for word in text.split()}


def _shares(said: str, text: str, *, without: set[str]) -> bool:
    return bool(_words(said) & (_words(text) - without))

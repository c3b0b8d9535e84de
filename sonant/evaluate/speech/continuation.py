"""Recordings as prompts to be continued: the first seconds are heard, what follows is how a real voice goes on."""

from collections.abc import Sequence
from dataclasses import replace

from sonant.audio.io import info
from sonant.chat.messages import Conversation, assistant, user
from sonant.errors import EvaluationError
from sonant.evaluate.speech.measure import Truth

SHORTEST_REST_S = 0.5  # of a recording behind its prompt


def continued(rows: Sequence[Conversation], prompt_s: float) -> tuple[list[Conversation], list[Truth], int]:
    """Returns rows that are asked with the first `prompt_s` seconds of their recording, its rest, and how many are left
    out because less than half a second is left of them.

    Which words fall into the rest is not known, so neither part has a transcript; the reference is the whole one: the
    text that the model writes is what was said and how it goes on.
    Raises: EvaluationError if a row is not one recording with its transcript, or none is long enough.
    """
    found: list[Conversation] = []
    truths: list[Truth] = []
    for row in rows:
        parts = row.heard_parts
        transcript = parts[0].transcript if len(parts) == 1 else None
        if not transcript:
            raise EvaluationError(f"row {row.id!r}: to be continued, a row is one recording with its transcript")
        whole = parts[0]
        end_s = whole.duration_s if whole.duration_s is not None else info(whole.source).duration_s - whole.offset_s
        if end_s < prompt_s + SHORTEST_REST_S:
            continue
        prompt = replace(whole, duration_s=prompt_s, transcript=None)
        rest = replace(whole, offset_s=whole.offset_s + prompt_s, duration_s=end_s - prompt_s, transcript=None)
        found.append(replace(row, messages=(user(prompt), assistant(transcript))))
        truths.append(Truth(rest, None))
    if not found:
        raise EvaluationError(f"no recording exceeds {prompt_s:g} s by half a second; give a shorter prompt_s")
    return found, truths, len(rows) - len(found)

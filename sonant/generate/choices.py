"""How likely each of a few answers is: what stands behind a yes or a no."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from sonant.batch import Batch, Example, collate, make_example
from sonant.chat.messages import Conversation
from sonant.chat.messages import assistant as answer
from sonant.generate.assistant import Assistant
from sonant.models.lora import lora_disabled
from sonant.models.speech_lm import SpeechLM


@torch.no_grad()
def choice_scores(
    assistant: Assistant,
    prompts: Sequence[Conversation],
    choices: Sequence[str],
    *,
    lora: bool = True,
    batch_size: int = 32,
    progress: Callable[[int], None] = lambda done: None,
) -> NDArray[np.float64]:
    """Returns (N, C): the log-likelihood, in nats, of each choice as the whole answer to each prompt.

    The choice stands where an answer stands in training, up to and including the token that ends the turn, and the
    model reads it as it reads a training batch (so LoRA's prompt scale applies; `lora=False` is the base LLM). A score
    does not depend on the batch it was computed in. `progress(n)` is called after each batch, n prompts at a time.
    """
    scores = np.empty((len(prompts), len(choices)))
    for start in range(0, len(prompts), batch_size):
        chunk = prompts[start : start + batch_size]
        examples = [assistant.example(prompt) for prompt in chunk]
        for column, choice in enumerate(choices):
            answered = [
                _with_answer(heard, replace(prompt, messages=(*prompt.messages, answer(choice))), assistant)
                for heard, prompt in zip(examples, chunk, strict=True)
            ]
            batch = collate(answered).to(assistant.device)
            with nullcontext() if lora else lora_disabled(assistant.model.llm):
                scores[start : start + len(chunk), column] = _answer_scores(assistant.model, batch)
        progress(len(chunk))
    return scores


def _with_answer(heard: Example, conversation: Conversation, assistant: Assistant) -> Example:
    """The example of an answered question: a recording is loaded once, and answers of earlier turns do not count."""
    written = make_example(conversation, assistant.tokenizer, ())
    mask = written.loss_mask.copy()
    mask[: len(heard.token_ids)] = 0  # the question is a prefix of the conversation
    return replace(written, loss_mask=mask, features=heard.features, audio_duration_s=heard.audio_duration_s)


def _answer_scores(model: SpeechLM, batch: Batch) -> NDArray[np.float64]:
    """(B,) sums of the log-probabilities of the last answer's tokens."""
    output = model(batch)
    mask = output.spliced.loss_mask[:, 1:] > 0
    rows, columns = mask.nonzero(as_tuple=True)
    logits = model.logits(output.hidden[rows, columns]).float()
    labels = output.spliced.labels[rows, columns + 1]
    each = logits.log_softmax(-1).gather(1, labels[:, None])[:, 0].double()
    sums: NDArray[np.float64] = each.new_zeros(len(mask)).index_add(0, rows, each).cpu().numpy()
    return sums

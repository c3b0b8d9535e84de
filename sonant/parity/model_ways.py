"""The ways that need nothing but the model: batched, in one pass, with cached frames, saved, merged, spoken."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from sonant.batch import Example, collate
from sonant.chat.messages import Conversation
from sonant.data.frame_cache import FrameCache, write_frame_cache
from sonant.errors import ModelError
from sonant.generate.assistant import Assistant
from sonant.generate.encode import clip_encoder
from sonant.generate.engine import RunningBatch, Step, asked_at_once
from sonant.models.checkpoint import load_speech_lm
from sonant.models.lora import lora_layers, merge_lora
from sonant.models.packing import reads_packs
from sonant.models.speech_lm import SpeechLM
from sonant.parity.compare import Answer, compare
from sonant.parity.ways import NotApplicable, Roads, Subject, Way, answers, gathered


def batched(subject: Subject) -> Roads:
    """All questions in one batch: padded on the left, rows leave as they end."""
    if len(subject.questions) < 2:
        raise NotApplicable("one question is no batch; ask more rows")
    found = answers(subject.assistant, subject.questions, config=subject.config, together=True)
    return Roads(subject.reference, found)


def joining(subject: Subject) -> Roads:
    """Each question joins a running batch one step after the one before it, as a server's do, and leaves at its end."""
    assistant = subject.assistant
    running = RunningBatch(assistant.model, stop_ids=assistant.tokenizer.stop_ids)
    waiting = [collate([assistant.example(question)]).to(assistant.device) for question in subject.questions]

    def steps() -> Iterator[Step]:
        while waiting or running.rows:
            if waiting:
                running.join(waiting.pop(0), [subject.config])
            yield running.step()

    return Roads(subject.reference, gathered(steps(), num_rows=len(subject.questions)))


def evaluated(subject: Subject) -> Roads:
    """All questions as evaluations ask them: in one batch, on a CPU by weights that were laid out before."""
    assistant = subject.assistant
    batch = collate([assistant.example(question) for question in subject.questions]).to(assistant.device)
    running, _ = asked_at_once(assistant.model, batch, config=subject.config, stop_ids=assistant.tokenizer.stop_ids)

    def steps() -> Iterator[Step]:
        while running.rows:
            yield running.step()

    return Roads(subject.reference, gathered(steps(), num_rows=len(subject.questions)))


def one_pass(subject: Subject) -> Roads:
    """Question and answer read at once, without a cache: what each token's logits are then."""
    alone = [_read(subject.assistant, [row])[0] for row in _answered(subject)]
    return Roads(subject.reference, alone)


def padded(subject: Subject) -> Roads:
    """All questions with their answers in one batch, padded on the right."""
    llm = subject.assistant.model.llm
    usual = llm.config._attn_implementation
    if reads_packs(llm):
        llm.set_attn_implementation("sdpa")
    try:
        return Roads(subject.reference, _read(subject.assistant, _answered(subject)))
    finally:
        llm.set_attn_implementation(usual)


def packed(subject: Subject) -> Roads:
    """All questions with their answers one behind the other in one sequence, as a trainer sees them."""
    llm = subject.assistant.model.llm
    if not reads_packs(llm):
        raise NotApplicable(f"{type(llm).__name__} would mix rows of one sequence, or its attention cannot part them")
    return Roads(subject.reference, _read(subject.assistant, _answered(subject)))


def frames_cached(subject: Subject) -> Roads:
    """Frames read from a frame cache on disk; computed ones are rounded to float16, as the cache keeps them."""
    if not any(question.heard_parts for question in subject.questions):
        raise NotApplicable("no question holds a clip")
    manifest = subject.scratch / "questions.jsonl"
    rows = [json.dumps(question.to_json()) for question in subject.questions]
    manifest.write_text("\n".join(rows) + "\n", encoding="utf-8")
    model, caches = subject.assistant.model, {}
    for number, (encoder, spec) in enumerate(zip(model.speech_encoders, model.encoded_specs, strict=True)):
        folder = subject.scratch / f"frames{number}"
        encode = clip_encoder(encoder, device=str(subject.assistant.device))
        # Clip by clip: beside others a frame may differ in its last bit, of which float16 makes a thousand times more.
        report = write_frame_cache([manifest], folder, encode=encode, spec=spec, batch_s=0, workers=1)
        if report.left_out:
            raise ModelError(f"the cache has no frames of {', '.join(report.left_out)}")
        caches[spec] = FrameCache(folder)
    reader = Assistant(model, subject.assistant.tokenizer, cached=caches)
    found = answers(reader, subject.questions, config=subject.config, together=False)
    with _rounded_frames(model):
        expected = answers(subject.assistant, subject.questions, config=subject.config, together=False)
    moved = compare(subject.reference, expected)
    tokens = "no token" if moved.first_difference is None else "tokens with them"
    note = f"frames are cached in float16: that alone moves scores by {moved.largest_difference:.2g}, and {tokens}"
    return Roads(expected, found, note)


def saved_and_loaded(subject: Subject) -> Roads:
    """The model written to a folder, and the one read from it."""
    return Roads(subject.reference, _asked(load_speech_lm(subject.saved), subject))


def merged(subject: Subject) -> Roads:
    """LoRA added to the weights it changes."""
    model = load_speech_lm(subject.saved)
    if not lora_layers(model.llm):
        raise NotApplicable("there is no LoRA to merge")
    try:
        merge_lora(model.llm)
    except ModelError as error:
        raise NotApplicable(f"refused: {error}") from None
    return Roads(subject.reference, _asked(model, subject))


def spoken(subject: Subject) -> Roads:
    """The same answers said aloud: the frames of each alone, and in one batch. A frame counts as a token."""
    if subject.assistant.model.speech_head is None:
        raise NotApplicable("this model has no voice")
    texts = [subject.assistant.tokenizer.decode(cast("list[int]", list(a.tokens))) for a in subject.reference]
    alone = [
        mels
        for question, text in zip(subject.questions, texts, strict=True)
        for mels in _said(subject, [question], [text])
    ]
    if not any(len(answer.tokens) for answer in alone):
        raise NotApplicable("no answer holds anything to say")
    together = _said(subject, subject.questions, texts)
    return Roads(alone, together)


MODEL_WAYS = (
    Way("batched", "all questions in one batch = each alone", batched),
    Way("joining", "rows that join and leave a running batch = each alone", joining),
    Way("evaluated", "all questions in one batch, weights laid out before = each alone", evaluated),
    Way("one pass", "question and answer read at once = decoded from a cache of keys and values", one_pass),
    Way("padded", "all rows padded on the right, with their answers = each decoded alone", padded),
    Way("packed", "all rows in one sequence, as in training = each decoded alone", packed),
    Way("frames cached", "frames of the encoders from disk = computed", frames_cached),
    Way("saved and loaded", "the model read from a folder = the one written to it", saved_and_loaded),
    Way("merged", "LoRA added to the weights = beside them", merged),
    Way("spoken", "frames of the answers said in one batch = each alone", spoken),
)


def _asked(model: SpeechLM, subject: Subject) -> list[Answer]:
    assistant = Assistant(model.to(subject.assistant.device), subject.assistant.tokenizer)
    return answers(assistant, subject.questions, config=subject.config, together=False)


def _answered(subject: Subject) -> list[Example]:
    """The questions with the answers of the reference, as rows to read; only answers count."""
    rows = []
    for question, answer in zip(subject.questions, subject.reference, strict=True):
        asked, said = subject.assistant.example(question), np.array(answer.tokens, np.int64)
        mask = np.concatenate([np.zeros(len(asked.token_ids), np.float32), np.ones(len(said), np.float32)])
        rows.append(replace(asked, token_ids=np.concatenate([asked.token_ids, said]), loss_mask=mask))
    return rows


@torch.no_grad()
def _read(assistant: Assistant, rows: Sequence[Example]) -> list[Answer]:
    """What the model would say at each place of the answers in `rows`, had it said what stands before it."""
    output = assistant.model(collate(rows).to(assistant.device))
    read = []
    for hidden, mask in zip(output.hidden, output.spliced.loss_mask, strict=True):
        (places,) = mask.nonzero(as_tuple=True)
        logits = assistant.model.logits(hidden[places - 1]).float().cpu()
        read.append(Answer(tuple(logits.argmax(-1).tolist()), logits))
    return read


@contextmanager
def _rounded_frames(model: SpeechLM) -> Iterator[None]:
    """Inside the block the encoders' frames are rounded to float16 and back."""

    def rounded(module: nn.Module, inputs: tuple[Tensor, ...], frames: Tensor) -> Tensor:
        return frames.half().to(frames.dtype)

    hooks = [encoder.register_forward_hook(rounded) for encoder in model.encoders]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _said(subject: Subject, questions: Sequence[Conversation], texts: Sequence[str]) -> list[Answer]:
    replies = subject.assistant.speak_all(questions, config=subject.config, answers=texts)
    return [Answer(("frame",) * len(reply.mels), torch.from_numpy(reply.mels)) for reply in replies]

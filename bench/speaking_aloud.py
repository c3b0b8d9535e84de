"""How fast an answer is said: real-time factor and time to first sound, one question at a time, on two threads.

Without a trained voice: `tiny` repeats what it hears (its adapter begins as a cascade) with a head that has learnt
nothing, made to last as long as speech does. Speed does not depend on what the weights have learnt.
"""

import shutil
from collections.abc import Sequence

import torch

from bench.figure import RUNS, Figure, at_most, reported
from bench.heldout import NONE
from sonant.chat.messages import Conversation
from sonant.chat.tokenizer import ChatTokenizer
from sonant.cli.train import preset_path
from sonant.config import read_yaml
from sonant.data.manifest import Manifest
from sonant.generate.assistant import Assistant
from sonant.generate.reply import SpokenReply
from sonant.models.build import SpeechLMConfig, build_speech_lm
from sonant.models.parts import resolve_part
from sonant.synth.world.make import WorldConfig, make_world

FOLDER = RUNS / "speaking_aloud"
QUESTIONS = 40
LETTERS_PER_S = 14  # of espeak, as the world has it
VOCODERS = ("tiny/vocoder", "griffin_lim")


def measure() -> list[Figure]:
    shutil.rmtree(FOLDER, ignore_errors=True)
    wanted = NONE.model_copy(update={"asr": QUESTIONS})
    make_world(FOLDER / "world", config=WorldConfig(train=NONE, dev=NONE, test=wanted))
    rows = [row.prompt() for row in Manifest(FOLDER / "world" / "test" / "asr.jsonl")]
    return [figure for vocoder in VOCODERS for figure in speeds(_untrained(vocoder), rows, name=vocoder)]


def speeds(assistant: Assistant, questions: Sequence[Conversation], *, name: str) -> list[Figure]:
    """Returns the figures of an assistant that answers questions one by one, the first of them not counted."""
    torch.set_num_threads(2)
    replies = [_streamed(assistant, question) for question in questions][1:]
    said = [reply for reply in replies if reply.first_sound_s is not None]
    factor = sum(reply.seconds for reply in said) / sum(reply.duration_s for reply in said)
    first_ms = sorted(1000 * (reply.first_sound_s or 0.0) for reply in said)
    lasting = [sum(reply.duration_s for reply in said) / len(said)]
    return [
        reported(f"{name}: answers said, of {len(replies)}", [len(said)], ""),
        reported(f"{name}: seconds of an answer", lasting, "s"),
        at_most(f"{name}: real-time factor, hearing and writing included", 0.5, [factor], ""),
        at_most(f"{name}: time to first sound, median", 500, [first_ms[len(first_ms) // 2]], "ms"),
        at_most(f"{name}: the same, 19 of 20 are below", 500, [first_ms[int(0.95 * len(first_ms))]], "ms"),
    ]


def _streamed(assistant: Assistant, question: Conversation) -> SpokenReply:
    *_, last = assistant.stream_speech(question)
    assert isinstance(last, SpokenReply)
    return last


def _untrained(vocoder: str) -> Assistant:
    torch.manual_seed(0)
    parts = read_yaml(preset_path("spectron", "tiny"))["model"]
    parts["speech_head"] |= {"max_seconds_per_letter": 1 / LETTERS_PER_S}
    model = build_speech_lm(SpeechLMConfig.model_validate(parts))
    head = model.speech_head
    assert head is not None
    assert head.advance is not None
    torch.nn.init.constant_(head.advance.bias, -8.0)  # so that the number of letters ends it
    return Assistant(model, ChatTokenizer.from_folder(resolve_part("tiny/llm")), vocoder=vocoder)

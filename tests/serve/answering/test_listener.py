"""What is asked is heard in company and beside the writing, and who cannot be heard fails alone."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from sonant.batch import Example
from sonant.chat.messages import Conversation, user
from sonant.generate.assistant import Assistant
from sonant.generate.encode import with_frames
from sonant.generate.sampling import GenerationConfig
from sonant.models.speech_lm import SpeechLM
from sonant.serve.answering import answerer as answering
from sonant.serve.answering import listener as listening
from sonant.serve.answering.answer import Answer
from sonant.serve.answering.answerer import Answerer
from sonant.serve.answering.listener import Listener, of_like_length
from sonant.serve.answering.open_request import OpenRequest
from sonant.serve.answering.questions import Finished, Question
from sonant.serve.answering.request_queue import RequestQueue
from sonant.serve.answering.scheduler import Scheduler
from tests.generate.test_speak import QUESTIONS, built, clip

SHORT = GenerationConfig(max_new_tokens=10)


@pytest.fixture(scope="module")
def assistant() -> Assistant:
    return built(None)


@pytest.fixture
def heard_together(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many examples were encoded at a time."""
    counts: list[int] = []

    def counted(model: SpeechLM, examples: Sequence[Example]) -> list[Example]:
        counts.append(len(examples))
        return with_frames(model, examples)

    monkeypatch.setattr(listening, "with_frames", counted)
    return counts


def heard(assistant: Assistant, conversations: Sequence[Conversation], *, gone: Sequence[int] = ()) -> list[Any]:
    """Each question once it can join, or what it was told; all of them wait when the thread starts."""

    async def work() -> list[Any]:
        queue = RequestQueue(room=100)
        requests = [
            OpenRequest(Question(conversation, SHORT), Answer(), tokenizer=assistant.tokenizer)
            for conversation in conversations
        ]
        listener = Listener(assistant, queue, threads=1)
        for number, request in enumerate(requests):
            queue.enter(request)
            listener.hear(request)
            if number in gone:
                request.answer.cancel()
        ready: list[OpenRequest] = []
        listener.start()
        while {*ready} != queue.open:
            ready += queue.take(100, company=False)
            await asyncio.sleep(0.001)
        listener.close()
        return [request if request in ready else await request.answer._events.get() for request in requests]

    return asyncio.run(work())


def test_those_who_wait_are_heard_together_and_each_as_if_alone(
    assistant: Assistant, heard_together: list[int]
) -> None:
    requests = heard(assistant, QUESTIONS)
    assert heard_together == [len(QUESTIONS)]
    for request, conversation in zip(requests, QUESTIONS, strict=True):
        (alone,) = with_frames(assistant.model, [assistant.example(conversation)])
        for spec, clips in alone.features.items():
            for mine, its in zip(request.read.features[spec], clips, strict=True):
                torch.testing.assert_close(mine, its, atol=1e-5, rtol=0)


def test_nobody_waits_for_more_than_a_few(assistant: Assistant, heard_together: list[int]) -> None:
    questions = [Conversation((user(clip(0.1 + 0.01 * number)),), id=str(number)) for number in range(20)]
    assert len(heard(assistant, questions)) == 20
    assert heard_together == [8, 8, 4]


def test_several_answers_to_one_question_need_it_heard_once(assistant: Assistant, heard_together: list[int]) -> None:
    requests = heard(assistant, [QUESTIONS[0]] * 5)
    assert heard_together == [1]
    assert len({id(request.read) for request in requests}) == 1


def test_a_clip_that_brings_the_encoder_down_fails_alone(assistant: Assistant, monkeypatch: pytest.MonkeyPatch) -> None:
    def fragile(model: SpeechLM, examples: Sequence[Example]) -> list[Example]:
        if any(example.id == "b" for example in examples):
            raise RuntimeError("no kernel")
        return with_frames(model, examples)

    monkeypatch.setattr(listening, "with_frames", fragile)
    first, failed, last = heard(assistant, QUESTIONS)
    assert isinstance(failed, RuntimeError)
    assert [first.read.id, last.read.id] == ["a", "c"]


def test_what_nobody_waits_for_is_not_heard(assistant: Assistant, heard_together: list[int]) -> None:
    assert heard(assistant, QUESTIONS, gone=[1])[1] is None
    assert heard_together == [2]


def test_what_waits_when_it_ends_stays_open(assistant: Assistant, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def held(model: SpeechLM, examples: Sequence[Example]) -> list[Example]:
        begun.set()
        go_on.wait(60)
        return with_frames(model, examples)

    async def work() -> None:
        queue = RequestQueue(room=10)
        requests = [OpenRequest(Question(q, SHORT), Answer(), tokenizer=assistant.tokenizer) for q in QUESTIONS[:2]]
        listener = Listener(assistant, queue, threads=1)
        listener.start()
        for request in requests:
            queue.enter(request)
            listener.hear(request)
            begun.wait(60)
        closing = asyncio.create_task(asyncio.to_thread(listener.close))
        while not listener._stopped:
            await asyncio.sleep(0.001)
        go_on.set()
        await closing
        assert queue.open == {*requests}
        assert [request.example is None for request in requests] == [False, True]

    monkeypatch.setattr(listening, "with_frames", held)
    asyncio.run(work())


def test_a_fault_of_ours_is_told_and_the_next_are_heard(
    assistant: Assistant, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    groups = iter([RuntimeError("a slip")])

    def grouped(requests: Sequence[OpenRequest]) -> Any:
        for error in groups:
            raise error
        return of_like_length(requests)

    monkeypatch.setattr(listening, "of_like_length", grouped)
    questions = [Conversation((user(clip(0.1 + 0.01 * number)),), id=str(number)) for number in range(9)]
    *told, last = heard(assistant, questions)
    assert [str(error) for error in told] == ["a slip"] * 8
    assert last.read.id == "8"
    assert "a turn of the listening thread failed" in caplog.text


def test_an_answer_is_written_to_its_end_while_another_question_is_heard(
    assistant: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, begun, go_on = (threading.Event() for _ in range(3))

    def held(model: SpeechLM, examples: Sequence[Example]) -> list[Example]:
        if examples[0].id == QUESTIONS[1].id:
            begun.set()
            go_on.wait(60)
        return with_frames(model, examples)

    class Held(Scheduler):
        def turn(self) -> None:
            if (
                self.num_requests
            ):  # the first question is being written: the second begins to be heard before it goes on
                written.set()
                begun.wait(60)
            super().turn()

    async def work() -> None:
        answerer = Answerer(assistant, threads=1)
        answerer.start()
        try:
            first = answerer.submit(Question(QUESTIONS[0], SHORT))
            await asyncio.to_thread(written.wait, 60)
            second = answerer.submit(Question(QUESTIONS[1], SHORT))
            assert isinstance([event async for event in first][-1], Finished)
            assert not go_on.is_set()
            go_on.set()
            assert isinstance([event async for event in second][-1], Finished)
        finally:
            go_on.set()
            answerer.close()

    monkeypatch.setattr(listening, "with_frames", held)
    monkeypatch.setattr(answering, "Scheduler", Held)
    asyncio.run(work())


def test_a_group_holds_no_more_than_a_minute_with_what_pads_it(assistant: Assistant) -> None:
    async def requests() -> list[OpenRequest]:
        return [OpenRequest(Question(QUESTIONS[0], SHORT), Answer(), tokenizer=assistant.tokenizer) for _ in range(5)]

    class Read:
        def __init__(self, seconds: float) -> None:
            self.audio_duration_s = seconds

    several = asyncio.run(requests())
    for request, seconds in zip(several, (29.0, 1.0, 31.0, 30.0, 2.0), strict=True):
        request.example = Read(seconds)  # type: ignore[assignment]
    groups = [[request.read.audio_duration_s for request in group] for group in of_like_length(several)]
    assert groups == [[1.0, 2.0], [29.0, 30.0], [31.0]]

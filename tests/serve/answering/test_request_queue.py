"""Who may enter, who joins when, and what one who is turned away is told."""

import asyncio
from collections.abc import Callable

import pytest

from sonant.chat.messages import Conversation, user
from sonant.errors import BusyError, ClosingError
from sonant.generate.sampling import GenerationConfig
from sonant.serve.answering import request_queue
from sonant.serve.answering.answer import Answer
from sonant.serve.answering.open_request import OpenRequest
from sonant.serve.answering.questions import Question
from sonant.serve.answering.request_queue import RequestQueue
from sonant.testing import byte_tokenizer

TOKENIZER = byte_tokenizer()


def with_requests(count: int, test: Callable[[list[OpenRequest]], None]) -> None:
    """Runs a test of so many questions, inside an event loop."""

    async def work() -> None:
        question = Question(Conversation((user("a"),)), GenerationConfig())
        test([OpenRequest(question, Answer(), tokenizer=TOKENIZER) for _ in range(count)])

    asyncio.run(work())


def test_in_company_one_waits_a_moment_and_then_takes_the_others_along(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(request_queue, "perf_counter", lambda: now[0])

    def test(requests: list[OpenRequest]) -> None:
        waiting = RequestQueue(room=9)
        waiting.make_ready(requests[:1])
        assert waiting.take(9, company=True) == []
        now[0] += 0.02
        waiting.make_ready(requests[1:])
        assert waiting.take(9, company=True) == []
        now[0] += 0.011
        assert waiting.take(2, company=True) == requests[:2]
        assert waiting.take(9, company=False) == requests[2:]  # nobody requests: no reason to wait

    with_requests(3, test)


def test_one_who_must_be_alone_waits_until_nobody_talks_and_goes_alone() -> None:
    def test(requests: list[OpenRequest]) -> None:
        waiting = RequestQueue(room=9)
        requests[0].alone = requests[1].alone = True
        waiting.make_ready(requests[2:])
        waiting.make_ready(requests[:2], first=True)
        assert waiting.take(9, company=False) == requests[:1]
        assert waiting.take(9, company=False) == requests[1:2]
        assert waiting.take(9, company=False) == requests[2:]

    with_requests(4, test)


def test_those_who_gave_up_lose_their_place_though_there_is_no_room_to_join() -> None:
    def test(requests: list[OpenRequest]) -> None:
        waiting = RequestQueue(room=2)
        for request in requests[:2]:
            waiting.enter(request)
        waiting.make_ready(requests[:2])
        requests[0].answer.cancel()
        assert waiting.take(0, company=True) == []
        assert waiting.open == {requests[1]}
        waiting.enter(requests[2])

    with_requests(3, test)


def test_when_to_ask_again_is_told_by_how_fast_answers_were_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(request_queue, "perf_counter", lambda: now[0])

    def test(requests: list[OpenRequest]) -> None:
        waiting = RequestQueue(room=4)
        for request in requests[:4]:
            waiting.enter(request)
        now[0] += 0.5
        waiting.finish(requests[0], "stop")
        waiting.enter(requests[4])
        with pytest.raises(BusyError) as busy:
            waiting.enter(requests[5])
        assert busy.value.retry_after_s == pytest.approx(4 * 0.5)
        waiting.stop()
        with pytest.raises(ClosingError):
            waiting.enter(requests[5])

    with_requests(6, test)

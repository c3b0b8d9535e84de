"""Who may enter, who joins when, and what one who is turned away is told."""

import asyncio
from collections.abc import Callable

import pytest

from sonant.chat.messages import Conversation, user
from sonant.errors import BusyError, ClosingError
from sonant.generate.sampling import GenerationConfig
from sonant.serve.answer import Answer
from sonant.serve.line import Line
from sonant.serve.questions import Question
from sonant.serve.talk import Talk
from sonant.testing import byte_tokenizer

TOKENIZER = byte_tokenizer()


def with_talks(count: int, test: Callable[[list[Talk]], None]) -> None:
    """Runs a test of so many questions, inside an event loop."""

    async def work() -> None:
        question = Question(Conversation((user("a"),)), GenerationConfig())
        test([Talk(question, Answer(), tokenizer=TOKENIZER) for _ in range(count)])

    asyncio.run(work())


def test_in_company_one_waits_a_moment_and_then_takes_the_others_along(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("sonant.serve.line.perf_counter", lambda: now[0])

    def test(talks: list[Talk]) -> None:
        waiting = Line(room=9)
        waiting.make_ready(talks[:1])
        assert waiting.take(9, company=True) == []
        now[0] += 0.02
        waiting.make_ready(talks[1:])
        assert waiting.take(9, company=True) == []
        now[0] += 0.011
        assert waiting.take(2, company=True) == talks[:2]
        assert waiting.take(9, company=False) == talks[2:]  # nobody talks: no reason to wait

    with_talks(3, test)


def test_one_who_must_be_alone_waits_until_nobody_talks_and_goes_alone() -> None:
    def test(talks: list[Talk]) -> None:
        waiting = Line(room=9)
        talks[0].alone = talks[1].alone = True
        waiting.make_ready(talks[2:])
        waiting.make_ready(talks[:2], first=True)
        assert waiting.take(9, company=False) == talks[:1]
        assert waiting.take(9, company=False) == talks[1:2]
        assert waiting.take(9, company=False) == talks[2:]

    with_talks(4, test)


def test_those_who_gave_up_lose_their_place_though_there_is_no_room_to_join() -> None:
    def test(talks: list[Talk]) -> None:
        waiting = Line(room=2)
        for talk in talks[:2]:
            waiting.enter(talk)
        waiting.make_ready(talks[:2])
        talks[0].answer.cancel()
        assert waiting.take(0, company=True) == []
        assert waiting.open == {talks[1]}
        waiting.enter(talks[2])

    with_talks(3, test)


def test_when_to_ask_again_is_told_by_how_fast_answers_were_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("sonant.serve.line.perf_counter", lambda: now[0])

    def test(talks: list[Talk]) -> None:
        waiting = Line(room=4)
        for talk in talks[:4]:
            waiting.enter(talk)
        now[0] += 0.5
        waiting.finish(talks[0], "stop")
        waiting.enter(talks[4])
        with pytest.raises(BusyError) as busy:
            waiting.enter(talks[5])
        assert busy.value.retry_after_s == pytest.approx(4 * 0.5)
        waiting.stop()
        with pytest.raises(ClosingError):
            waiting.enter(talks[5])

    with_talks(6, test)

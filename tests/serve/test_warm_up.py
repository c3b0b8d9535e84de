"""Before it listens, a server answers itself: none of that is counted, and none of it can keep it from serving."""

import asyncio
import logging

import pytest
from serving import Scripted, scripted_service

from sonant.errors import RequestError
from sonant.serve.service import Service
from sonant.serve.warm_up import SAID, warm_up


def test_a_full_batch_is_answered_and_counts_as_nothing(service: Service) -> None:
    try:
        asyncio.run(warm_up(service))
        assert set(vars(service.answerer.stats()).values()) == {0}
        service.answerer.start()  # once more, by the application: no harm
    finally:
        service.answerer.close()


def test_as_many_are_asked_as_are_answered_at_a_time_and_one_is_said_where_there_is_a_voice() -> None:
    scripted = Scripted()
    service = scripted_service(scripted, max_rows=3, has_voice=True)
    asyncio.run(warm_up(service))
    assert [(question.spoken, question.answer) for question in scripted.questions] == [
        (False, None),
        (False, None),
        (True, SAID),
    ]
    # All were the same once: one was heard, and the memory of a batch was first taken for the first clients.
    assert len({question.conversation.audio_parts[0].data for question in scripted.questions}) == 3


def test_a_model_that_fails_is_told_in_the_log_and_served(caplog: pytest.LogCaptureFixture) -> None:
    scripted = Scripted(lambda question: RequestError("no"))
    with caplog.at_level(logging.WARNING):
        asyncio.run(warm_up(scripted_service(scripted)))
    assert "failed when it was tried before serving" in caplog.text

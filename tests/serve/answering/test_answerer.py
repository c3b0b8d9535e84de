"""Questions that come and go at all times get the answers that each gets alone, and what fails fails alone."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from sonant.batch import collate
from sonant.chat.messages import AudioPart, Conversation, user
from sonant.errors import AudioError, BusyError, ClosingError, RequestError
from sonant.generate import engine
from sonant.generate.assistant import Assistant
from sonant.generate.engine import decode
from sonant.generate.sampling import Drawing, GenerationConfig
from sonant.serve.answering.answer import Answer
from sonant.serve.answering.answerer import Answerer
from sonant.serve.answering.questions import Event, Finished, Question, SoundDelta, TextDelta, TokenScore
from tests.generate.test_speak import HEADS, QUESTIONS, built, clip

SHORT = GenerationConfig(max_new_tokens=10)
LONG = GenerationConfig(max_new_tokens=400)
LASTING = {**HEADS["of its own"], "max_seconds_per_letter": None}  # speaks for a second whatever it says


@pytest.fixture(scope="module")
def writer() -> Assistant:
    return built(None)


@pytest.fixture(scope="module", params=HEADS)
def speaker(request: pytest.FixtureRequest) -> Assistant:
    return built(HEADS[request.param])


@contextmanager
def answering(assistant: Assistant, **limits: int) -> Iterator[Answerer]:
    answerer = Answerer(assistant, **limits)
    answerer.start()
    try:
        yield answerer
    finally:
        answerer.close()


async def heard(answer: Answer) -> list[Event]:
    return [event async for event in answer]


def run(assistant: Assistant, work: Callable[[Answerer], Coroutine[Any, Any, Any]], **limits: int) -> Any:
    with answering(assistant, **limits) as answerer:
        return asyncio.run(work(answerer))


def ask(assistant: Assistant, questions: Sequence[Question], **limits: int) -> list[Any]:
    """The events of each question, or what it raised; all are asked at once."""

    async def work(answerer: Answerer) -> list[Any]:
        answers = [answerer.submit(question) for question in questions]
        return await asyncio.gather(*map(heard, answers), return_exceptions=True)

    found: list[Any] = run(assistant, work, **limits)
    return found


def text_of(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def end_of(events: Sequence[Event]) -> Finished:
    last = events[-1]
    assert isinstance(last, Finished)
    return last


def reply_to(assistant: Assistant, question: Question) -> str:
    return assistant.reply(question.conversation, config=question.config).text


MIXED = [
    Question(conversation, GenerationConfig(max_new_tokens=6 + 3 * size, temperature=temperature, seed=size))
    for size in range(3)
    for temperature in (0.0, 1.0)
    for conversation in QUESTIONS
]


@pytest.mark.parametrize("limits", [{"max_rows": 1}, {"max_rows": 3}, {"max_rows": 32}], ids=str)
def test_every_answer_is_that_to_the_question_alone_however_many_are_answered_together(
    writer: Assistant, limits: dict[str, int]
) -> None:
    answers = ask(writer, MIXED, **limits)
    expected = [reply_to(writer, question) for question in MIXED]
    assert [text_of(events) for events in answers] == expected
    assert [end_of(events).text for events in answers] == expected


def test_questions_that_come_one_after_another_join_those_that_talk(writer: Assistant) -> None:
    async def work(answerer: Answerer) -> list[str]:
        first = answerer.submit(Question(QUESTIONS[0], GenerationConfig(max_new_tokens=60)))
        begun = [await anext(first)]
        others = []
        for question in MIXED[:8]:
            others.append(asyncio.create_task(heard(answerer.submit(question))))
            begun.append(await anext(first))
        rest = [event async for event in first]
        return [text_of([*begun, *rest]), *[text_of(await other) for other in others]]

    alone = Question(QUESTIONS[0], GenerationConfig(max_new_tokens=60))
    assert run(writer, work) == [reply_to(writer, question) for question in (alone, *MIXED[:8])]


def test_the_end_tells_what_was_read_and_drawn_and_why_it_ended(writer: Assistant) -> None:
    (events,) = ask(writer, [Question(QUESTIONS[0], SHORT)])
    batch = collate([writer.example(QUESTIONS[0])])
    end = end_of(events)
    assert end.prompt_tokens == int(writer.model.embed(batch).lengths[0]) > int(batch.token_lengths[0])
    reply = writer.reply(QUESTIONS[0], config=SHORT)
    assert (end.reason, end.completion_tokens) == ("stop" if reply.finished else "length", 10)


def test_an_answer_ends_before_its_stop_string_wherever_tokens_end(writer: Assistant) -> None:
    whole = reply_to(writer, Question(QUESTIONS[1], LONG))
    stop = next(whole[at : at + 3] for at in range(20, 40) if whole.index(whole[at : at + 3]) == at)
    stopped, free = ask(writer, [Question(QUESTIONS[1], LONG, stop=(stop,)), Question(QUESTIONS[0], SHORT)])
    assert text_of(stopped) == end_of(stopped).text == whole[: whole.index(stop)]
    assert end_of(stopped).reason == "stop"
    assert end_of(stopped).completion_tokens < 200
    assert text_of(free) == reply_to(writer, Question(QUESTIONS[0], SHORT))


def test_scores_are_those_of_the_models_own_logits_and_their_bytes_are_the_text(writer: Assistant) -> None:
    (events,) = ask(writer, [Question(QUESTIONS[2], SHORT, top_logprobs=3)])
    scores = [score for event in events if isinstance(event, TextDelta) for score in event.tokens]
    batch = collate([writer.example(QUESTIONS[2])])
    steps = list(decode(writer.model, batch, config=SHORT, stop_ids=writer.tokenizer.stop_ids))
    logprobs = torch.stack([step.logits[0] for step in steps]).log_softmax(-1)
    assert len(scores) == len(steps)
    best = logprobs.topk(3).values
    for score, row, expected in zip(scores, best, logprobs.amax(-1).tolist(), strict=True):
        assert score.logprob == pytest.approx(expected, abs=1e-4)
        assert [top.logprob for top in score.top] == pytest.approx(row.tolist(), abs=1e-4)
        assert score.top[0].bytes == score.bytes
    assert b"".join(score.bytes for score in scores).decode(errors="replace").strip() == text_of(events)


def test_a_stop_string_has_no_scores(writer: Assistant) -> None:
    whole = reply_to(writer, Question(QUESTIONS[2], LONG))
    stop = next(whole[at : at + 2] for at in range(8, 40) if whole.index(whole[at : at + 2]) == at)
    (events,) = ask(writer, [Question(QUESTIONS[2], LONG, stop=(stop,), top_logprobs=0)])
    scores: list[TokenScore] = [score for event in events if isinstance(event, TextDelta) for score in event.tokens]
    assert b"".join(score.bytes for score in scores).decode(errors="replace").lstrip() == text_of(events)
    assert all(score.top == () for score in scores)


def test_a_spoken_answer_is_what_the_assistant_says(speaker: Assistant) -> None:
    config = GenerationConfig(max_new_tokens=12, seed=3)
    questions = [Question(question, config, spoken=True) for question in QUESTIONS]
    given = Question(QUESTIONS[0], config, spoken=True, answer="well, yes")
    *answers, read = ask(speaker, [*questions, given])
    expected = speaker.speak_all(QUESTIONS, config=config)
    expected += speaker.speak_all(QUESTIONS[:1], config=config, answers=["well, yes"])
    for events, reply in zip([*answers, read], expected, strict=True):
        end = end_of(events)
        assert end.spoken is not None
        assert (end.text, end.spoken.token_ids) == (reply.text, reply.token_ids)
        np.testing.assert_allclose(end.spoken.samples, reply.samples, atol=1e-4)
        chunks = [event.samples for event in events if isinstance(event, SoundDelta)]
        np.testing.assert_array_equal(np.concatenate([np.zeros(0, np.float32), *chunks]), end.spoken.samples)
    assert text_of(read) == ""
    assert [text_of(events) for events in answers] == [reply.text for reply in expected[:-1]]


def test_what_is_said_ends_where_the_stop_string_ended_the_text() -> None:
    speaker, drawn = built(LASTING), GenerationConfig(max_new_tokens=20, temperature=1.0, seed=2)
    whole = speaker.reply(QUESTIONS[2], config=drawn).text
    stop = next(letter for at, letter in enumerate(whole) if at > 3 and letter.isascii() and whole.index(letter) == at)
    (events,) = ask(speaker, [Question(QUESTIONS[2], drawn, stop=(stop,), spoken=True)])
    text = whole[: whole.index(stop)]
    (expected,) = speaker.speak_all(QUESTIONS[2:], config=drawn, answers=[text])
    end = end_of(events)
    assert end.spoken is not None
    assert (end.text, end.spoken.text) == (text, text)
    np.testing.assert_allclose(end.spoken.samples, expected.samples, atol=1e-4)


def test_others_are_answered_while_one_answer_is_said() -> None:
    async def work(answerer: Answerer) -> None:
        spoken = answerer.submit(Question(QUESTIONS[0], SHORT, spoken=True))
        while not isinstance(await anext(spoken), SoundDelta):
            pass
        await asyncio.gather(*(heard(answerer.submit(Question(question, SHORT))) for question in QUESTIONS))
        stats = answerer.stats()
        assert (stats.finished, stats.rows) == (len(QUESTIONS), 1)  # it is said still
        spoken.cancel()

    # A second of speech was once over before a busy machine had heard the others; a minute is not.
    run(built({**LASTING, "max_seconds": 60.0}), work)


def test_a_model_without_a_voice_refuses_to_speak_before_it_writes(writer: Assistant) -> None:
    (error,) = ask(writer, [Question(QUESTIONS[0], SHORT, spoken=True)])
    assert isinstance(error, RequestError)
    assert "no voice" in str(error)


def test_a_question_that_cannot_be_read_fails_alone(writer: Assistant) -> None:
    noise = Conversation((user(AudioPart(data=b"RIFF no sound")),), id="noise")
    endless = Conversation((user("word " * 200),), id="endless")
    questions = [Question(each, SHORT) for each in (QUESTIONS[0], noise, endless, QUESTIONS[1])]
    first, unreadable, long, last = ask(writer, questions)
    assert isinstance(unreadable, AudioError)
    assert isinstance(long, RequestError)
    assert "512" in str(long)
    assert [text_of(first), text_of(last)] == [reply_to(writer, questions[0]), reply_to(writer, questions[3])]


def test_a_row_that_makes_a_step_fail_fails_alone_and_nothing_is_sent_twice(
    writer: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = engine.draw

    def fragile(logits: torch.Tensor, answers: Sequence[Drawing]) -> torch.Tensor:
        if any(answer.config.seed == 666 and len(answer.said) == 4 for answer in answers):
            raise RuntimeError("probability tensor contains inf")
        return draw(logits, answers)

    monkeypatch.setattr(engine, "draw", fragile)
    bad = Question(QUESTIONS[2], GenerationConfig(max_new_tokens=9, temperature=1.0, seed=666))
    good = [Question(QUESTIONS[2], LONG, top_logprobs=0), *MIXED[:6]]
    *answers, failed = ask(writer, [*good, bad])
    assert isinstance(failed, RuntimeError)
    assert [text_of(events) for events in answers] == [reply_to(writer, question) for question in good]
    counted = sum(len(event.tokens) for event in answers[0] if isinstance(event, TextDelta))
    assert counted in (end_of(answers[0]).completion_tokens, end_of(answers[0]).completion_tokens - 1)


def test_a_voice_that_fails_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    speaker = built(LASTING)

    def broken(*args: object, **settings: object) -> Iterator[Any]:
        raise RuntimeError("no sound")

    monkeypatch.setattr(speaker.voice, "stream", broken)
    spoken, written = ask(speaker, [Question(QUESTIONS[0], SHORT, spoken=True), Question(QUESTIONS[0], SHORT)])
    assert isinstance(spoken, RuntimeError)
    assert text_of(written) == speaker.reply(QUESTIONS[0], config=SHORT).text


def test_max_new_tokens_may_be_a_bound_that_the_context_lowers(writer: Assistant) -> None:
    much = GenerationConfig(max_new_tokens=1000)
    refused, fitted = ask(writer, [Question(QUESTIONS[2], much), Question(QUESTIONS[2], much, fit=True)])
    assert isinstance(refused, RequestError)
    end = end_of(fitted)
    assert end.reason == "stop" or end.prompt_tokens + end.completion_tokens == 512


def test_beyond_the_bound_questions_are_refused_until_there_is_room(writer: Assistant) -> None:
    async def work(answerer: Answerer) -> None:
        answers = [answerer.submit(Question(QUESTIONS[2], LONG)) for _ in range(3)]
        with pytest.raises(BusyError, match="ask again in") as busy:
            answerer.submit(Question(QUESTIONS[2], SHORT))
        assert busy.value.retry_after_s > 0
        answers[1].cancel()
        while answerer.stats().cancelled < 1:
            await asyncio.sleep(0.001)
        last = answerer.submit(Question(QUESTIONS[2], SHORT))
        for answer in (*answers, last):
            await heard(answer)
        stats = answerer.stats()
        assert (stats.accepted, stats.finished, stats.cancelled, stats.refused) == (4, 3, 1, 1)
        assert (stats.rows, stats.waiting) == (0, 0)

    run(writer, work, max_rows=2, max_waiting=1)


def test_a_cancelled_answer_ends_and_leaves_its_place_to_others(
    writer: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(answerer: Answerer) -> None:
        turn, cancelled, told = answerer._scheduler.turn, threading.Event(), threading.Event()
        send = Answer.send

        def sent(answer: Answer, event: Event | Exception) -> None:
            send(answer, event)
            told.set()

        def held() -> None:
            if told.is_set():  # once the answer was over before a busy machine had let anybody cancel it
                cancelled.wait(60)
            turn()

        monkeypatch.setattr(Answer, "send", sent)
        monkeypatch.setattr(answerer._scheduler, "turn", held)
        given_up, waiting = (answerer.submit(Question(QUESTIONS[2], LONG)) for _ in range(2))
        await anext(given_up)
        await asyncio.to_thread(given_up.cancel)  # from any thread
        cancelled.set()
        assert len(await heard(given_up)) < 400
        assert text_of(await heard(waiting)) == reply_to(writer, Question(QUESTIONS[2], LONG))
        waiting.cancel()
        stats = answerer.stats()
        assert (stats.finished, stats.cancelled) == (1, 1)

    run(writer, work, max_rows=1)


def test_speech_that_nobody_waits_for_ends() -> None:
    async def work(answerer: Answerer) -> None:
        spoken = answerer.submit(Question(QUESTIONS[0], SHORT, spoken=True))
        while not isinstance(await anext(spoken), SoundDelta):
            pass
        spoken.cancel()
        assert await answerer.drain(5)
        assert answerer.stats().cancelled == 1

    run(built({**LASTING, "max_seconds": 60.0}), work)


def test_an_answer_that_is_being_said_as_the_answerer_closes_is_told_so() -> None:
    # It left without a word, and whoever read it waited for ever.
    async def work() -> BaseException | None:
        answerer = Answerer(built({**LASTING, "max_seconds": 60.0}))
        answerer.start()
        spoken = answerer.submit(Question(QUESTIONS[0], SHORT, spoken=True))
        while not isinstance(await anext(spoken), SoundDelta):
            pass
        await asyncio.to_thread(answerer.close)
        (told,) = await asyncio.wait_for(asyncio.gather(heard(spoken), return_exceptions=True), 20)
        return told if isinstance(told, BaseException) else None

    assert isinstance(asyncio.run(work()), ClosingError)


def test_draining_answers_what_was_accepted_and_takes_no_more(writer: Assistant) -> None:
    async def work(answerer: Answerer) -> list[list[Event]]:
        answers = [asyncio.create_task(heard(answerer.submit(question))) for question in MIXED[:6]]
        await asyncio.sleep(0)
        assert await answerer.drain(20)
        with pytest.raises(ClosingError):
            answerer.submit(MIXED[0])
        return list(await asyncio.gather(*answers))

    events = run(writer, work, max_rows=2)
    assert [text_of(each) for each in events] == [reply_to(writer, question) for question in MIXED[:6]]


def test_what_is_not_answered_in_time_is_told_so(writer: Assistant) -> None:
    async def work() -> Any:
        answerer = Answerer(writer)  # not started: a machine can be fast
        answers = [answerer.submit(Question(QUESTIONS[2], LONG)) for _ in range(3)]
        assert not await answerer.drain(0.01)
        answerer.close()
        return await asyncio.gather(*map(heard, answers), return_exceptions=True)

    assert all(isinstance(error, ClosingError) for error in asyncio.run(work()))


def test_recordings_are_loaded_in_a_thread_that_is_neither_the_loops_nor_the_models(
    writer: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    example = writer.example
    monkeypatch.setattr(
        writer, "example", lambda conversation: names.append(threading.current_thread().name) or example(conversation)
    )
    ask(writer, [Question(Conversation((user(clip(0.2)),), id="a"), SHORT)])
    assert names == ["sonant-ears"]


@pytest.mark.parametrize("asked", [None, 1])
def test_both_threads_compute_with_the_threads_that_are_asked_for(
    writer: Assistant, monkeypatch: pytest.MonkeyPatch, asked: int | None
) -> None:
    before, found = torch.get_num_threads(), dict[str, int]()

    def counting(name: str, of: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            found[name] = torch.get_num_threads()
            return of(*args, **kwargs)

        return counted

    monkeypatch.setattr(Assistant, "example", counting("hears", Assistant.example))
    monkeypatch.setattr(engine, "draw", counting("writes", engine.draw))
    try:
        torch.set_num_threads(2)
        with answering(writer, **({} if asked is None else {"threads": asked})) as answerer:
            asyncio.run(_heard_one(answerer))
        assert found == {"hears": asked or 2, "writes": asked or 2}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


async def _heard_one(answerer: Answerer) -> None:
    await heard(answerer.submit(Question(QUESTIONS[0], SHORT)))


def test_questions_that_make_no_sense_are_refused_at_once() -> None:
    with pytest.raises(RequestError, match="empty"):
        Question(QUESTIONS[0], SHORT, stop=("",))
    with pytest.raises(RequestError, match="spoken"):
        Question(QUESTIONS[0], SHORT, answer="yes")

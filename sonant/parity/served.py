"""The way through the server: our own application, in this process, asked over HTTP as any client would."""

import base64
from collections.abc import Sequence
from typing import Any

import anyio
import httpx2
import torch

from sonant.chat.messages import Conversation, Message, Part, TextPart
from sonant.errors import RequestError
from sonant.parity.compare import Answer, Token, log_probabilities
from sonant.parity.ways import Roads, Subject
from sonant.serve.answering.answerer import Answerer
from sonant.serve.app import create_app
from sonant.serve.decode_worker import RATE_HZ
from sonant.serve.service import Service
from sonant.serve.settings import MIB, ServeConfig
from sonant.serve.untrusted_audio import AudioDecoder, as_part

NAME = "certified"


def served(subject: Subject) -> Roads:
    """All questions put at once; a client sees the log-probability of each token, and why the answer ended."""
    replies = anyio.run(_ask, subject)
    tokenizer, stop_ids = subject.assistant.tokenizer, subject.assistant.tokenizer.stop_ids
    expected = []
    for answer in log_probabilities(subject.reference):
        ends = answer.tokens[-1] in stop_ids
        kept = [tokenizer.token_bytes(int(id)) for id in (answer.tokens[:-1] if ends else answer.tokens)]
        expected.append(Answer(_tokens(kept, reason="stop" if ends else "length"), answer.scores[: len(kept)]))
    found = []
    for reply in replies:
        (choice,) = reply["choices"]
        scored = choice["logprobs"]["content"]
        tokens = _tokens([bytes(token["bytes"]) for token in scored], reason=choice["finish_reason"])
        found.append(Answer(tokens, torch.tensor([token["logprob"] for token in scored], dtype=torch.float32)))
    return Roads(expected, found)


def _tokens(spelled: Sequence[bytes], *, reason: str) -> tuple[Token, ...]:
    return (*(token.decode(errors="backslashreplace") for token in spelled), f"(end: {reason})")


async def _ask(subject: Subject) -> list[dict[str, Any]]:
    """The server's replies to all questions, in their order."""
    count = len(subject.questions)
    # Limits guard a server against strangers; here they would only leave questions out.
    settings = ServeConfig(
        page=False, max_rows=min(count, 16), max_waiting=count, max_body_bytes=1024 * MIB, max_audio_s=24 * 3600,
        max_text_chars=MIB, max_audio_parts=1024, max_new_tokens=subject.config.max_new_tokens, request_timeout_s=3600,
    )  # fmt: skip
    service = Service(
        answerer=Answerer(subject.assistant, max_rows=settings.max_rows, max_waiting=count),
        decoder=AudioDecoder(memory_bytes=settings.decode_memory_bytes, timeout_s=600),
        settings=settings,
        model_name=NAME,
        has_voice=False,
    )
    app = create_app(service)
    replies: dict[int, httpx2.Response] = {}

    async def put(number: int, question: Conversation) -> None:
        body = {
            "model": NAME,
            "messages": openai_messages(question),
            "max_completion_tokens": subject.config.max_new_tokens,
            "logprobs": True,
        }
        replies[number] = await client.post("/v1/chat/completions", json=body)

    transport = httpx2.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://localhost", timeout=3600) as client,
        anyio.create_task_group() as asking,
    ):
        for number, question in enumerate(subject.questions):
            asking.start_soon(put, number, question)
    return [_checked(question, replies[number]) for number, question in enumerate(subject.questions)]


def _checked(question: Conversation, reply: httpx2.Response) -> dict[str, Any]:
    if reply.status_code != 200:
        raise RequestError(f"the server answers {question.id!r} with status {reply.status_code}: {reply.text[:300]}")
    values: dict[str, Any] = reply.json()
    return values


def openai_messages(question: Conversation) -> list[dict[str, Any]]:
    """Returns the messages of a question as OpenAI's chat completions take them, clips as WAV."""
    return [_message(message) for message in question.messages]


def _message(message: Message) -> dict[str, Any]:
    if message.role != "user":
        return {"role": message.role, "content": message.text}
    return {"role": message.role, "content": [_part(part) for part in message.parts]}


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    heard = as_part(part.load(sample_rate_hz=RATE_HZ)).data
    assert heard is not None
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(heard).decode(), "format": "wav"}}

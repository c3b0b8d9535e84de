"""A model behind a server answers as it does alone, and a server that is told to stop finishes first."""

import asyncio
import base64
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from openai import AsyncOpenAI, OpenAI
from serving import OwnDecoder, serving, wav
from websockets.asyncio.client import connect

from sonant.chat.endpoint_wordings import EndpointWordings
from sonant.chat.messages import AudioPart, Conversation, user
from sonant.errors import ConfigError
from sonant.generate.assistant import Assistant
from sonant.serve import running
from sonant.serve.running import bound, load_service, run, threads_of
from sonant.serve.service import Service
from sonant.serve.settings import ServeConfig, trained_wordings

QUESTIONS = ("where does the bear live", "what does the bear eat", "who is the friend of the shark")


@pytest.fixture
def client(service: Service) -> Iterator[OpenAI]:
    with serving(service) as url, OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_served_answers_are_those_of_the_model_alone(client: OpenAI, cascade: Assistant) -> None:
    clip = wav(0.4)
    parts: Any = [
        {"type": "text", "text": "repeat:"},
        {"type": "input_audio", "input_audio": {"data": base64.b64encode(clip).decode(), "format": "wav"}},
    ]
    asked: list[tuple[Any, Conversation]] = [(text, Conversation((user(text),))) for text in QUESTIONS]
    asked.append((parts, Conversation((user("repeat:", AudioPart(data=clip)),))))

    async def work() -> list[str | None]:
        async with AsyncOpenAI(base_url=client.base_url, api_key="none", max_retries=0) as asynchronous:
            create = asynchronous.chat.completions.create
            calls = [create(model="cascade", messages=[{"role": "user", "content": c}]) for c, _ in asked]
            return [done.choices[0].message.content for done in await asyncio.gather(*calls)]

    assert asyncio.run(work()) == [cascade.reply(conversation).text for _, conversation in asked]
    heard = client.audio.transcriptions.create(model="cascade", file=("a.wav", clip), prompt="repeat:")
    assert heard.text == cascade.reply(asked[-1][1]).text


def test_a_stop_string_ends_an_answer(client: OpenAI) -> None:
    completion = client.chat.completions.create(
        model="cascade", messages=[{"role": "user", "content": QUESTIONS[0]}], stop=" lives"
    )
    assert (completion.choices[0].message.content, completion.choices[0].finish_reason) == ("the bear", "stop")


def test_a_port_that_is_taken_is_told_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        taken.listen()
        with pytest.raises(ConfigError, match="cannot be listened on"):
            bound(ServeConfig(port=taken.getsockname()[1]))


def test_what_follows_the_headers_does_not_wait_for_the_client() -> None:
    # The first token came 40 ms late: the listening socket named no protocol, so asyncio left Nagle's algorithm on, and
    # the client's kernel delays the acknowledgement that it waits for.
    with bound(ServeConfig(port=0)) as listening:
        listening.listen()
        with socket.create_connection(listening.getsockname()[:2]), listening.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize(
    ("asked", "named", "cores", "threads"),
    [(None, None, 2, 1), (None, None, 16, 15), (None, None, 1, 1), (None, "2", 2, 2), (3, "2", 2, 3), (3, None, 8, 3)],
)
def test_one_core_is_left_for_requests_unless_somebody_says_otherwise(
    asked: int | None, named: str | None, cores: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if named is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", named)
    assert threads_of(asked) == threads


@pytest.mark.parametrize(
    ("voice", "named", "kept"), [(False, None, "16"), (True, None, "128"), (False, "1024", "1024")]
)
def test_fewer_kernels_are_kept_where_there_is_no_voice_unless_somebody_says_otherwise(
    voice: bool, named: str | None, kept: str, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", named or "")
    if named is None:
        monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    monkeypatch.setattr(running, "settle", lambda: None)
    monkeypatch.setattr(running._Server, "run", lambda server, sockets: sockets[0].close())
    run(replace(service, has_voice=voice, settings=ServeConfig(port=0, warm_up=False)))
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == kept


def test_wordings_come_from_the_training_if_it_left_any(tmp_path: Path) -> None:
    assert trained_wordings(tmp_path) == EndpointWordings()
    provenance = tmp_path / "provenance.json"
    provenance.write_text('{"steps": 5, "wordings": {"transcription": "repeat:", "languages": ["de"]}}')
    assert trained_wordings(tmp_path) == EndpointWordings(transcription="repeat:", languages=("de",))
    provenance.write_text('{"wordings": {"transcribe": "repeat:"}}')
    with pytest.raises(ConfigError, match=r"provenance\.json: wordings: unknown key 'transcribe'"):
        trained_wordings(tmp_path)


def test_voices_are_read_once_and_media_hosts_are_checked(
    cascade_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "AudioDecoder", lambda **_: OwnDecoder())
    clip = tmp_path / "anna.wav"
    clip.write_bytes(wav())
    service = load_service(cascade_folder, ServeConfig(voices={"anna": str(clip)}))
    assert (service.model_name, service.has_voice) == ("cascade", False)
    assert service.voices == {"default": None, "anna": AudioPart(data=wav())}
    with pytest.raises(ConfigError, match="media host"):
        load_service(cascade_folder, ServeConfig(media_hosts=("http://a/b",)))


@pytest.fixture
def process(cascade_folder: Path) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A server in a process of its own, and its URL."""
    command = [sys.executable, "-m", "sonant", "serve", str(cascade_folder), "--port", "0"]
    started = subprocess.Popen(
        [*command, "decode_workers=1"], stdout=subprocess.PIPE, text=True, env={**os.environ, "SONANT_KEY": "sesame"}
    )
    assert started.stdout is not None
    try:
        first = started.stdout.readline()
        assert first.startswith("cascade listens at http://127.0.0.1:")
        yield started, first.split()[3]
    finally:
        started.kill()
        started.communicate()


@pytest.mark.recipe
@pytest.mark.timeout(300)
def test_sigterm_under_load_answers_what_was_accepted_and_exits_0(
    process: tuple["subprocess.Popen[str]", str],
) -> None:
    server, url = process

    async def work() -> tuple[list[int], int]:
        headers = {"Authorization": "Bearer sesame"}
        async with (
            httpx2.AsyncClient(base_url=url, headers=headers, timeout=120) as client,
            connect(f"ws{url.removeprefix('http')}/v1/realtime", additional_headers=headers) as session,
        ):

            async def ask(number: int) -> tuple[int, str]:
                content = QUESTIONS[number % len(QUESTIONS)]
                body = {"model": "cascade", "messages": [{"role": "user", "content": content}]}
                try:
                    done = await client.post("/v1/chat/completions", json=body)
                except httpx2.ConnectError:  # it has stopped
                    return 503, ""
                return done.status_code, done.text

            first = [asyncio.create_task(ask(number)) for number in range(24)]
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            server.send_signal(signal.SIGTERM)
            while (await client.get("/health")).status_code == 200:
                await asyncio.sleep(0.001)
            late, _ = await ask(0)
            answered = await asyncio.gather(*first)
            told = [json.loads(event) async for event in session]
            assert (told[-1]["error"]["code"], session.close_code) == ("closing", 1001)
            for status, text in answered:
                assert status == 503 or json.loads(text)["choices"][0]["finish_reason"] == "stop"
            return [status for status, _ in answered], late

    first, late = asyncio.run(work())
    assert set(first) <= {200, 503}
    assert 200 in first
    assert late == 503
    assert server.wait(60) == 0

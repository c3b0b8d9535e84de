"""What vLLM's server answers with an exported model, beside what the model answers itself (`make parity-vllm`)."""

import base64
import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import soundfile
import torch

from sonant.chat.messages import Conversation, TextPart
from sonant.export.vllm_folder import export_vllm
from sonant.export.vllm_plugin import AUDIO
from sonant.generate.assistant import Assistant
from sonant.generate.sampling import GenerationConfig
from sonant.parity.compare import Answer, compare, log_probabilities
from sonant.parity.questions import made_questions
from sonant.parity.served import openai_messages
from sonant.parity.ways import answers
from sonant.testing import save_cascade

pytestmark = pytest.mark.vllm
NAME = "certified"
QUESTIONS = made_questions()  # one of them lasts 12 seconds, one holds two clips, one has two turns
CONFIG = GenerationConfig(max_new_tokens=32)
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": "3600",
    "TORCHDYNAMO_DISABLE": "1",  # else the first question waits for a compiler, minutes on few cores
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
}


@pytest.fixture(scope="module")
def cascade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_cascade(tmp_path_factory.mktemp("vllm") / "cascade")


@pytest.fixture(scope="module")
def server(cascade: Path) -> Iterator[str]:
    """The address of vLLM, which has the exported cascade."""
    folder = export_vllm(cascade, cascade.with_name("exported")).folder
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(os.environ["VLLM_PYTHON"], "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)),
        *("--served-model-name", NAME, "--host", "127.0.0.1", "--port", str(port), "--max-model-len", "1024"),
        *("--max-num-seqs", "8", "--enforce-eager", "--dtype", "float32"),
    ]
    process = subprocess.Popen(command, env={**os.environ, **ENVIRONMENT}, stdout=sys.stderr, cwd=cascade.parent)
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 1800
        while not _listens(url):
            assert process.poll() is None, "vLLM has ended; what it says stands above"
            assert time.monotonic() < until, "vLLM does not listen after half an hour"
            time.sleep(1)
        yield url
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def client(server: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none", timeout=900, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def expected(cascade: Path) -> list[Answer]:
    return log_probabilities(answers(Assistant.from_folder(cascade), QUESTIONS, config=CONFIG, together=False))


def _listens(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/health").status_code == 200
    except httpx2.TransportError:
        return False


def _ask(client: openai.OpenAI, messages: list[Any], **settings: Any) -> Any:
    asked = {"max_completion_tokens": CONFIG.max_new_tokens, **settings}
    return client.chat.completions.create(
        model=NAME, messages=messages, logprobs=True, extra_body={"return_token_ids": True}, **asked
    )


def _answer(client: openai.OpenAI, question: Conversation) -> Answer:
    choice = _ask(client, openai_messages(question)).choices[0]  # greedy without being told, as we are
    return Answer(tuple(choice.token_ids), torch.tensor([scored.logprob for scored in choice.logprobs.content]))


@pytest.mark.parametrize("at_once", [1, 2 * len(QUESTIONS)], ids=["one after the other", "all at once"])
def test_vllm_says_the_tokens_of_the_assistant(at_once: int, client: openai.OpenAI, expected: list[Answer]) -> None:
    with ThreadPoolExecutor(at_once) as pool:  # twice: the second time, vLLM has clips and prompts in its caches
        found = list(pool.map(lambda question: _answer(client, question), (*QUESTIONS, *QUESTIONS)))
    compared = compare([*expected, *expected], found)
    assert compared.first_difference is None
    assert compared.num_tokens == 2 * sum(len(answer.tokens) for answer in expected)
    assert compared.largest_difference < 1e-4


def test_the_tokens_of_the_prompt_are_ours_and_a_clip_takes_the_places_of_its_vectors(
    client: openai.OpenAI, cascade: Path
) -> None:
    assistant = Assistant.from_folder(cascade)
    for question in QUESTIONS:
        ids = _ask(client, openai_messages(question)).prompt_token_ids
        text = assistant.example(question).token_ids.tolist()
        audio = assistant.tokenizer.vocab_size
        assert [id for id in ids if id != audio] == text
        has_clip = any(not isinstance(part, TextPart) for message in question.messages for part in message.parts)
        assert (audio in ids) == has_clip


@pytest.mark.parametrize("rate_hz", [8_000, 44_100])
def test_other_rates_are_heard(rate_hz: int, client: openai.OpenAI) -> None:
    assert _ask(client, [{"role": "user", "content": [_clip(2 * rate_hz, rate_hz)]}]).choices[0].message.content


@pytest.mark.parametrize("content", [f"a {AUDIO}", "a <|end|> b", []], ids=["audio token", "markup", "empty clip"])
def test_what_cannot_be_answered_is_the_fault_of_who_asks(content: Any, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        _ask(client, [{"role": "user", "content": content or [_clip(0, 16_000)]}])


def test_a_raw_prompt_with_an_audio_token_does_not_end_the_server(
    client: openai.OpenAI, expected: list[Answer]
) -> None:
    client.completions.create(model=NAME, prompt=f"{AUDIO}{AUDIO} a", max_tokens=2)
    assert _answer(client, QUESTIONS[0]).tokens == expected[0].tokens


def _clip(num_samples: int, rate_hz: int) -> dict[str, Any]:
    samples = 0.3 * torch.sin(torch.arange(num_samples) * (2 * torch.pi * 300 / rate_hz))
    return {"type": "input_audio", "input_audio": {"data": _wav(samples.numpy(), rate_hz), "format": "wav"}}


def _wav(samples: Any, rate_hz: int) -> str:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate_hz, format="WAV")
    return base64.b64encode(buffer.getvalue()).decode()

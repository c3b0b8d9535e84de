"""Whatever our own schema allows is answered as the schema says, and nothing makes the server fail."""

import contextlib
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from serving import Scripted, said, scripted_service, written

from sonant.serve.answering.questions import Question
from sonant.serve.app import create_app
from sonant.testing import tone

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
]


def told(question: Question) -> Any:
    scored = question.top_logprobs is not None
    return said("an answer", tone(0.1)) if question.spoken else written("an answer", scored=scored)


OPERATIONS = [
    ("/health", "GET"),
    ("/metrics", "GET"),
    ("/v1/models", "GET"),
    ("/v1/models/{name}", "GET"),
    ("/v1/chat/completions", "POST"),
    ("/v1/audio/transcriptions", "POST"),
    ("/v1/audio/translations", "POST"),
    ("/v1/audio/speech", "POST"),
]


@pytest.fixture(scope="module")
def web_api() -> Any:
    service = scripted_service(Scripted(told), has_voice=True, page=False, hosts=("testserver",))
    app = create_app(service)
    app.router.lifespan_context = lambda _: contextlib.nullcontext()  # else it would stop after the first request
    return schemathesis.openapi.from_asgi("/openapi.json", app)


def send(web_api: Any, path: str, method: str, *, max_examples: int) -> None:
    """Sends requests that the schema allows, and others that it does not."""
    operation = web_api[path][method]
    cases = st.one_of(*(operation.as_strategy(mode) for mode in GenerationMode))

    @given(cases)
    @settings(max_examples=max_examples, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    def check(case: Any) -> None:
        if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            case.body["model"] = "tiny"  # any other is a 404, and nothing behind it would be tried
        case.call_and_validate(checks=CHECKS)

    check()


def test_the_schema_has_these_operations_and_no_other(web_api: Any) -> None:
    found = {(operation.path, operation.method.upper()) for operation in (r.ok() for r in web_api.get_all_operations())}
    assert found == set(OPERATIONS)


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_the_schema_is_true(web_api: Any, path: str, method: str) -> None:
    send(web_api, path, method, max_examples=3)


@pytest.mark.recipe
@pytest.mark.parametrize(("path", "method"), OPERATIONS[3:])
def test_the_schema_is_true_of_many_requests(web_api: Any, path: str, method: str) -> None:
    send(web_api, path, method, max_examples=50)

"""Whatever our own schema allows is answered as the schema says, and nothing makes the server fail."""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from serving import Scripted, said, scripted_service, written

from sonant.serve.app import create_app
from sonant.serve.questions import Question
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


@pytest.fixture(scope="module")
def web_api() -> Any:
    service = scripted_service(Scripted(told), has_voice=True, page=False, hosts=("testserver",))
    return schemathesis.openapi.from_asgi("/openapi.json", create_app(service))


schema = schemathesis.pytest.from_fixture("web_api")


def check(case: Any) -> None:
    if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
        case.body["model"] = "tiny"  # any other is a 404, and nothing behind it would be tried
    case.call_and_validate(checks=CHECKS)


@schema.parametrize()
@settings(max_examples=3, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
def test_the_schema_is_true(case: Any) -> None:
    check(case)


@pytest.mark.recipe
@schema.parametrize()
@settings(max_examples=80, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
def test_the_schema_is_true_of_many_requests(case: Any) -> None:
    check(case)

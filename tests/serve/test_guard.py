"""Who may ask, how much, and for how long; what becomes of answers that nobody waits for."""

import asyncio
import dataclasses
import hmac
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest
from serving import Scripted, scripted_service, written
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sonant.errors import ConfigError
from sonant.serve import guard
from sonant.serve.app import create_app
from sonant.serve.guard import Deadline, Room
from sonant.serve.service import Doors
from sonant.serve.settings import ServeConfig

KEY = {"Authorization": "Bearer sesame"}
HELLO = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}
REALTIME = "ws://localhost/v1/realtime"
OPEN = {"/health", "/", "/page/{name}"}


@pytest.fixture(scope="module")
def locked() -> Iterator[TestClient]:
    service = scripted_service(key="sesame", max_body_bytes=2000)
    with TestClient(create_app(service), base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


def addresses(app: Any) -> Iterator[tuple[str, str]]:
    """(method or WEBSOCKET, path) of everything the application answers."""
    for route in app.routes:
        if inner := getattr(route, "original_router", None):
            yield from addresses(inner)
        elif isinstance(route, WebSocketRoute):
            yield "WEBSOCKET", route.path
        else:
            yield from ((method, route.path) for method in route.methods)


def test_every_route_but_health_and_the_page_needs_the_key(locked: TestClient) -> None:
    found = list(addresses(locked.app))
    paths = {path for _, path in found}
    assert {"/v1/chat/completions", "/v1/realtime", "/metrics", "/openapi.json"} | OPEN <= paths
    for method, path in found:
        real = path.replace("{name}", "tiny")
        if method == "WEBSOCKET":
            with pytest.raises(WebSocketDenialResponse) as refused, locked.websocket_connect(f"ws://localhost{real}"):
                pass
            status = refused.value.status_code
        else:
            status = locked.request(method, real).status_code
        assert (status == 401) == (path not in OPEN), (method, path)


def test_an_address_that_is_none_needs_the_key_too(locked: TestClient) -> None:
    assert locked.get("/v1/secrets").status_code == 401
    assert locked.get("/v1/secrets", headers=KEY).status_code == 404
    assert locked.get("/docs", headers=KEY).status_code == 404


@pytest.mark.parametrize("value", ["sesame", "Bearer", "Bearer sesam", "Bearer sesame2", "Basic sesame", "Bearer é"])
def test_a_wrong_key_is_told_in_openais_words(locked: TestClient, value: str) -> None:
    answer = locked.get("/v1/models", headers={"Authorization": value.encode()})
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.json()["error"]["code"] == "invalid_api_key"


def test_the_right_key_opens_and_two_keys_do_not(locked: TestClient) -> None:
    assert locked.get("/v1/models", headers=KEY).status_code == 200
    assert locked.get("/v1/models", headers=[("Authorization", "Bearer sesame")] * 2).status_code == 401


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch, locked: TestClient) -> None:
    compared, compare = [], hmac.compare_digest

    def watch(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return compare(one, other)

    monkeypatch.setattr(guard.hmac, "compare_digest", watch)
    for guess in ("s", "sesame", "x" * 5000):
        locked.get("/v1/models", headers={"Authorization": f"Bearer {guess}"})
    assert compared == [(32, 32)] * 3


def test_a_browser_sends_the_key_of_a_websocket_as_a_protocol(locked: TestClient) -> None:
    with locked.websocket_connect(REALTIME, ["realtime", "openai-insecure-api-key.sesame"]) as session:
        assert session.accepted_subprotocol == "realtime"
    with (
        pytest.raises(WebSocketDenialResponse),
        locked.websocket_connect(REALTIME, ["realtime", "openai-insecure-api-key.wrong"]),
    ):
        pass


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "localhost.", "::1"]
)
def test_a_rebound_name_is_refused_on_loopback(client: TestClient, host: str) -> None:
    assert client.get("/v1/models", headers={"Host": host}).status_code == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000", "[::1]"])
def test_the_names_of_this_machine_are_known(client: TestClient, host: str) -> None:
    assert client.get("/health", headers={"Host": host}).status_code == 200


def test_names_that_the_operator_listed_are_known_also_elsewhere() -> None:
    service = scripted_service(host="0.0.0.0", key="sesame", hosts=("speech.example",))
    with TestClient(create_app(service)) as client:
        statuses = [client.get("/health", headers={"Host": h}).status_code for h in ("speech.example:80", "evil")]
    assert statuses == [200, 403]


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:81", "http://localhost@evil", "http://["]
)
def test_pages_of_other_origins_are_refused(client: TestClient, origin: str) -> None:
    headers = {"Origin": origin}
    answer = client.post("/v1/chat/completions", json=HELLO, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "other_origin")
    with (
        pytest.raises(WebSocketDenialResponse),
        client.websocket_connect(REALTIME, headers=headers),
    ):
        pass
    assert client.post("/v1/chat/completions", json=HELLO, headers={"Origin": "http://localhost"}).status_code == 200


def test_no_page_of_another_origin_may_read_an_answer(client: TestClient) -> None:
    headers = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    answers = [client.options("/v1/chat/completions", headers=headers), client.get("/health")]
    assert not [name for answer in answers for name in answer.headers if name.startswith("access-control")]


def test_every_answer_keeps_browsers_careful(client: TestClient) -> None:
    for path in ("/health", "/v1/models", "/none"):
        headers = client.get(path).headers
        assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")
    assert "default-src 'none'" in client.get("/").headers["content-security-policy"]


def test_a_body_is_bounded_whether_or_not_it_tells_its_size(locked: TestClient) -> None:
    large = json.dumps(HELLO | {"user": "a" * 2000}).encode()
    headers = KEY | {"Content-Type": "application/json"}

    def chunks() -> Iterator[bytes]:
        yield from (large[i : i + 100] for i in range(0, len(large), 100))

    for content in (large, chunks()):
        answer = locked.post("/v1/chat/completions", content=content, headers=headers)
        assert answer.status_code == 413
        assert "larger than this server takes" in answer.json()["error"]["message"]
    assert locked.post("/v1/chat/completions", json=HELLO, headers=headers).status_code == 200


def test_a_fault_of_ours_is_told_without_its_words(scripted: Scripted) -> None:
    def fail(question: Any) -> Any:
        raise ZeroDivisionError("at 0x7f3a in /home/somebody")

    scripted.told = fail
    with TestClient(
        create_app(scripted_service(scripted)), base_url="http://localhost", raise_server_exceptions=False
    ) as client:
        answer = client.post("/v1/chat/completions", json=HELLO)
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
    assert "0x7f3a" not in answer.text


async def call(app: ASGIApp, *, path: str = "/v1/models") -> tuple[int, dict[str, str], bytes, bool]:
    """Status, headers, body and whether the body came to its end."""
    sent: list[Message] = []
    scope = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""}

    async def receive() -> Message:
        await anyio.sleep_forever()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start, *bodies = sent
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    return start["status"], headers, b"".join(m["body"] for m in bodies), not bodies[-1].get("more_body", False)


def test_more_requests_than_there_is_room_for_are_told_to_come_again() -> None:
    entered = 0

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal entered
        entered += 1
        await anyio.sleep(0.05)
        await PlainTextResponse("done")(scope, receive, send)

    async def work() -> list[Any]:
        room = Room(slow, doors=Doors(), max_requests=2)
        first = await asyncio.gather(*(call(room) for _ in range(3)), call(room, path="/health"))
        return [*first, await call(room)]

    *two, third, health, later = asyncio.run(work())
    assert [status for status, *_ in two] == [200, 200]
    assert (third[0], third[1]["retry-after"]) == (429, "1")
    assert (health[0], later[0]) == (200, 200)
    assert entered == 4


def test_what_takes_too_long_ends_with_a_503_or_with_a_last_event_or_without_an_end() -> None:
    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.sleep_forever()

    def streaming(media_type: str) -> Callable[[Scope, Receive, Send], Any]:
        async def chunks() -> Any:
            yield "data: 1\n\n"
            await anyio.sleep_forever()

        return StreamingResponse(chunks(), media_type=media_type)

    async def work() -> list[Any]:
        apps: list[ASGIApp] = [silent, streaming("text/event-stream"), streaming("audio/pcm")]
        return [await call(Deadline(app, timeout_s=0.05)) for app in apps]

    late, events, sound = asyncio.run(work())
    assert (late[0], late[1]["retry-after"]) == (503, "1")
    assert events[0] == 200
    assert json.loads(events[2].split(b"data: ")[2])["error"]["code"] == "timeout"
    assert events[3]
    assert (sound[0], sound[2], sound[3]) == (200, b"data: 1\n\n", False)


def test_a_deadline_does_not_touch_what_is_in_time() -> None:
    async def quick(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(b"done")(scope, receive, send)

    assert asyncio.run(call(Deadline(quick, timeout_s=5)))[2] == b"done"


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_nobody_waits_for_is_cancelled(url: str, scripted: Scripted, stream: bool) -> None:
    scripted.told = lambda question: written("never ", "ends")[:-1]
    body = json.dumps(HELLO | {"stream": stream}).encode()
    address = urlsplit(url)
    with socket.create_connection((str(address.hostname), int(address.port or 0))) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        connection.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        if stream:
            heard = b""
            while b"ends" not in heard:
                heard += connection.recv(4096)
        wait_for(lambda: bool(scripted.answers))
    wait_for(lambda: scripted.answers[0].cancelled)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_takes_too_long_is_cancelled(scripted: Scripted, stream: bool) -> None:
    scripted.told = lambda question: written("never ", "ends")[:-1]
    app = create_app(scripted_service(scripted, request_timeout_s=0.6))
    with TestClient(app, base_url="http://localhost") as client:
        answer = client.post("/v1/chat/completions", json=HELLO | {"stream": stream})
    assert answer.status_code == (200 if stream else 503)
    assert json.loads(answer.text.split("data: ")[-1])["error"]["code"] == "timeout"
    assert scripted.answers[0].cancelled


def wait_for(is_true: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not is_true():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_doors_that_close_let_those_inside_finish_and_nobody_else_in() -> None:
    doors = Doors()
    inside = threading.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        inside.set()
        await anyio.sleep(0.1)
        await PlainTextResponse("done")(scope, receive, send)

    async def work() -> tuple[Any, Any]:
        room = Room(slow, doors=doors, max_requests=2)
        first = asyncio.create_task(call(room))
        while not inside.is_set():
            await asyncio.sleep(0)
        closing = asyncio.create_task(doors.close(timeout_s=10))
        await asyncio.sleep(0)
        late = await call(room)
        await closing
        assert first.done()
        return await first, late

    first, late = asyncio.run(work())
    assert (first[0], first[2]) == (200, b"done")
    assert (late[0], late[1]["retry-after"]) == (503, "1")


def test_a_server_that_is_about_to_stop_says_so_to_load_balancers() -> None:
    service = scripted_service()
    with TestClient(create_app(service), base_url="http://localhost") as client:
        assert client.get("/health").json() == {"status": "ok"}
        service.doors.closing = True
        answer = client.get("/health")
        assert (answer.status_code, answer.json()) == (503, {"status": "closing"})


def test_json_that_is_not_called_json_is_told_how(client: TestClient) -> None:
    # What `curl -d` sends unless it is told otherwise.
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = client.post("/v1/chat/completions", content=json.dumps(HELLO), headers=headers)
    assert answer.status_code == 400
    assert "Content-Type: application/json" in answer.json()["error"]["message"]


def test_a_model_whose_name_has_a_slash_is_found_by_it(scripted: Scripted) -> None:
    service = dataclasses.replace(scripted_service(scripted), model_name="org/name")
    with TestClient(create_app(service), base_url="http://localhost") as client:
        for path in ("org/name", "org%2Fname"):  # as vLLM's clients write it, and as OpenAI's does
            assert client.get(f"/v1/models/{path}").json()["id"] == "org/name"
        assert client.get("/v1/models/org/other").status_code == 404


def test_metrics_tell_routes_by_their_templates_and_what_the_answerer_does(client: TestClient) -> None:
    client.post("/v1/chat/completions", json=HELLO)
    client.get("/v1/models/tiny")
    client.get("/no/such/address")
    lines = client.get("/metrics").text.splitlines()
    assert 'sonant_requests_total{route="/v1/chat/completions",status="200"} 1.0' in lines
    assert 'sonant_requests_total{route="/v1/models/{name:path}",status="200"} 1.0' in lines
    assert 'sonant_requests_total{route="none",status="404"} 1.0' in lines
    assert {"sonant_rows 2.0", "sonant_waiting 1.0", 'sonant_tokens_total{kind="prompt"} 70.0'} <= set(lines)
    assert {"sonant_first_token_seconds_count 1.0", "sonant_decoder_restarts_total 0.0"} <= set(lines)


def test_other_machines_are_served_with_a_key_or_when_told_so() -> None:
    for refused in (ServeConfig(host="0.0.0.0"), ServeConfig(host="192.168.0.1"), ServeConfig(key="")):  # type: ignore[arg-type]
        with pytest.raises(ConfigError):
            refused.check_lock()
    for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8"):
        ServeConfig(host=host).check_lock()
    ServeConfig(host="0.0.0.0", key="sesame").check_lock()  # type: ignore[arg-type]
    ServeConfig(host="0.0.0.0", allow_open=True).check_lock()


def test_a_key_is_never_shown() -> None:
    settings = ServeConfig(key="sesame")  # type: ignore[arg-type]
    assert "sesame" not in f"{settings!r} {settings.model_dump_json()}"

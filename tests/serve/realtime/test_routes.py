"""The socket: who is let in, for how long, and whose answers are given up. What is said is tested without it."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from scripted_session import pcm, room, syllables
from serving import Scripted, scripted_service
from starlette.testclient import TestClient, WebSocketDenialResponse, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from sonant.errors import BusyError
from sonant.serve.answering.questions import Finished, TextDelta
from sonant.serve.app import create_app
from sonant.serve.realtime.routes import LONG_MESSAGE

KEY = "k" * 20


@pytest.fixture
def server(scripted: Scripted) -> Callable[..., contextlib.AbstractContextManager[TestClient]]:
    """Begins a server with some settings: `with server(key=...) as client`."""

    @contextlib.contextmanager
    def begun(**settings: Any) -> Iterator[TestClient]:
        with TestClient(create_app(scripted_service(scripted, **settings)), base_url="http://localhost") as client:
            yield client

    return begun


def connect(client: TestClient, *, address: str = "/v1/realtime?model=tiny", **options: Any) -> WebSocketTestSession:
    return client.websocket_connect(f"ws://localhost{address}", **options)  # its base_url is for HTTP alone


def ask(socket: WebSocketTestSession, text: str = "Who?") -> None:
    content = [{"type": "input_text", "text": text}]
    item = {"type": "message", "role": "user", "content": content}
    socket.send_json({"type": "conversation.item.create", "item": item})
    socket.send_json({"type": "response.create"})


def until(socket: WebSocketTestSession, type: str) -> list[dict[str, Any]]:
    """Events up to the first of this type."""
    events: list[dict[str, Any]] = []
    while not events or events[-1]["type"] != type:
        events.append(socket.receive_json())
    return events


def soon(is_so: Callable[[], bool]) -> bool:
    ends_at = time.monotonic() + 10
    while not is_so() and time.monotonic() < ends_at:
        time.sleep(0.005)
    return is_so()


def test_a_client_is_greeted_and_answered(client: TestClient) -> None:
    with connect(client) as socket:
        assert socket.receive_json()["type"] == "session.created"
        ask(socket)
        events = until(socket, "response.done")
        deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
        assert deltas == ["an ", "answer"]
        ask(socket, "Sure?")
        assert until(socket, "response.done")[-1]["response"]["status"] == "completed"


@pytest.mark.parametrize(
    ("address", "status", "told"),
    [
        ("/v1/realtime?model=other", 404, "there is no model"),
        ("/v1/realtime?intent=transcription", 400, "'intent'"),
        ("/v1/realtime?model=tiny&call_id=1", 400, "'call_id'"),
    ],
)
def test_a_session_of_another_kind_is_refused_before_it_opens(
    client: TestClient, address: str, status: int, told: str
) -> None:
    with pytest.raises(WebSocketDenialResponse) as refused, connect(client, address=address):
        pass
    assert refused.value.status_code == status
    assert told in refused.value.json()["error"]["message"]


def test_the_model_need_not_be_named(client: TestClient) -> None:
    with connect(client, address="/v1/realtime") as socket:
        assert socket.receive_json()["session"]["model"] == "tiny"


def test_so_many_sessions_are_open_at_a_time(server: Any) -> None:
    with server(max_sessions=1) as client:
        with connect(client):
            with pytest.raises(WebSocketDenialResponse) as refused, connect(client):
                pass
            assert refused.value.status_code == 429
            assert refused.value.headers["retry-after"] == "1"
        with connect(client) as socket:
            assert socket.receive_json()["type"] == "session.created"


@pytest.mark.parametrize(
    "options",
    [
        {"headers": {"Authorization": f"Bearer {KEY}"}},
        {"subprotocols": ["realtime", f"openai-insecure-api-key.{KEY}"]},
    ],
)
def test_a_key_opens_by_header_or_as_browsers_send_it_and_is_never_said_back(
    server: Any, options: dict[str, Any]
) -> None:
    with server(key=KEY) as client, connect(client, **options) as socket:
        assert socket.accepted_subprotocol == ("realtime" if "subprotocols" in options else None)
        assert KEY not in str(socket.receive_json())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"headers": {"Authorization": "Bearer wrong"}},
        {"subprotocols": ["realtime", "openai-insecure-api-key.wrong"]},
        {"subprotocols": [f"openai-insecure-api-key.{KEY}", "openai-insecure-api-key.wrong"]},
        {"subprotocols": [KEY]},
    ],
)
def test_without_the_key_nothing_opens(server: Any, options: dict[str, Any]) -> None:
    with server(key=KEY) as client:
        with pytest.raises(WebSocketDenialResponse) as refused, connect(client, **options):
            pass
        assert refused.value.status_code == 401


def test_a_page_of_another_origin_does_not_get_in(client: TestClient) -> None:
    with pytest.raises(WebSocketDenialResponse) as refused, connect(client, headers={"Origin": "http://evil.example"}):
        pass
    assert refused.value.status_code == 403
    with connect(client, headers={"Origin": "http://localhost"}) as socket:
        assert socket.receive_json()["type"] == "session.created"


def test_messages_that_are_binary_or_too_long_are_refused_and_the_session_goes_on(server: Any) -> None:
    with server(max_event_bytes=1000) as client, connect(client) as socket:
        socket.receive_json()
        socket.send_bytes(b"\x00\x01")
        assert "binary" in socket.receive_json()["error"]["message"]
        socket.send_json({"type": "input_audio_buffer.append", "audio": "A" * 1000})
        assert socket.receive_json()["error"]["code"] == "too_large"
        ask(socket)
        assert until(socket, "response.done")[-1]["response"]["status"] == "completed"


def test_sound_may_come_all_at_once(client: TestClient) -> None:
    sound = pcm(np.concatenate([room(3.0), syllables(2.0), room(3.0)]))
    assert len(sound) > LONG_MESSAGE
    with connect(client) as socket:
        socket.send_json({"type": "input_audio_buffer.append", "audio": sound})
        events = until(socket, "response.done")
        assert events[-1]["response"]["status"] == "completed"
        assert "input_audio_buffer.committed" in [event["type"] for event in events]


def test_who_says_nothing_is_told_and_left(server: Any) -> None:
    with server(session_idle_s=0.05) as client, connect(client) as socket:
        socket.receive_json()
        assert socket.receive_json()["error"]["code"] == "session_idle"
        with pytest.raises(WebSocketDisconnect) as left:
            socket.receive_json()
        assert (left.value.code, left.value.reason) == (1000, "session_idle")


def test_a_session_ends_when_its_time_is_over(server: Any, scripted: Scripted) -> None:
    scripted.told = lambda question: [TextDelta("it never ends")]
    with server(session_s=0.3) as client, connect(client) as socket:
        assert socket.receive_json()["session"]["expires_at"] <= time.time() + 1
        ask(socket)
        events = until(socket, "error")
        assert events[-1]["error"]["code"] == "session_expired"
        with pytest.raises(WebSocketDisconnect):
            socket.receive_json()
    assert soon(lambda: scripted.answers[0].cancelled)


def test_a_server_that_stops_tells_a_session_and_leaves_it(scripted: Scripted) -> None:
    service = scripted_service(scripted)
    with TestClient(create_app(service), base_url="http://localhost") as client, connect(client) as socket:
        socket.receive_json()
        assert client.portal is not None
        stopped = client.portal.start_task_soon(service.drain)
        assert socket.receive_json()["error"]["code"] == "closing"
        with pytest.raises(WebSocketDisconnect) as left:
            socket.receive_json()
        assert (left.value.code, left.value.reason) == (1001, "closing")
        stopped.result(timeout=10)
        assert service.doors.sessions == 0


def test_a_server_that_stops_finishes_the_answers_of_a_session_and_begins_no_more(scripted: Scripted) -> None:
    scripted.told = lambda question: [TextDelta("it ends ")]
    service = scripted_service(scripted, drain_s=20.0)
    with TestClient(create_app(service), base_url="http://localhost") as client, connect(client) as socket:
        ask(socket)
        until(socket, "response.output_text.delta")
        assert client.portal is not None
        stopped = client.portal.start_task_soon(service.drain)
        assert soon(lambda: service.doors.closing)
        other = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "And?"}]}
        socket.send_json({"type": "response.create", "response": {"conversation": "none", "input": [other]}})
        refused = until(socket, "response.done")[-1]["response"]
        assert (refused["status"], refused["status_details"]["error"]["code"]) == ("failed", "closing")
        assert not stopped.done()
        scripted.answers[0].send(Finished("it ends ", "stop", 7, 2))
        assert until(socket, "response.done")[-1]["response"]["status"] == "completed"
        assert socket.receive_json()["error"]["code"] == "closing"
        stopped.result(timeout=10)


def test_a_client_that_leaves_gives_up_its_answers(client: TestClient, scripted: Scripted) -> None:
    scripted.told = lambda question: [TextDelta("it never ends")]
    with connect(client) as socket:
        ask(socket)
        until(socket, "response.output_text.delta")
    assert soon(lambda: scripted.answers[0].cancelled)


def test_cancel_reaches_the_answerer(client: TestClient, scripted: Scripted) -> None:
    scripted.told = lambda question: [TextDelta("it never ends")]
    with connect(client) as socket:
        ask(socket)
        until(socket, "response.output_text.delta")
        socket.send_json({"type": "response.cancel"})
        assert until(socket, "response.done")[-1]["response"]["status"] == "cancelled"
        assert soon(lambda: scripted.answers[0].cancelled)


def test_what_is_dropped_before_it_is_asked_is_never_left_behind(client: TestClient, scripted: Scripted) -> None:
    scripted.told = lambda question: [TextDelta("it never ends")]
    with connect(client) as socket:
        for _ in range(5):
            ask(socket)
            socket.send_json({"type": "response.cancel"})
        for _ in range(5):
            until(socket, "response.done")
        assert soon(lambda: all(answer.cancelled for answer in scripted.answers))


def test_a_server_that_is_busy_says_so_in_the_response(client: TestClient, scripted: Scripted) -> None:
    scripted.told = lambda question: BusyError("64 questions wait; ask again", retry_after_s=2)
    with connect(client) as socket:
        ask(socket)
        response = until(socket, "response.done")[-1]["response"]
        assert response["status"] == "failed"
        assert response["status_details"]["error"]["code"] == "busy"

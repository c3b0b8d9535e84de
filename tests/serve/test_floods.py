"""Bytes over bare sockets that no client library would send: cut short, and the next request is answered."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from serving import scripted_service, serving

BODY = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "a"}]}).encode()


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    with serving(scripted_service(max_body_bytes=100_000)) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        yield host, int(port)


def exchange(address: tuple[str, int], *chunks: bytes, seconds: float = 10.0) -> bytes:
    """What a server says to bytes until it closes, or until there is a whole response."""
    with closing(socket.create_connection(address, timeout=seconds)) as connection:
        try:
            for chunk in chunks:
                connection.sendall(chunk)
        except OSError:  # it has hung up: what it said may still be read
            pass
        said = b""
        try:
            while part := connection.recv(65_536):
                said += part
                head, end, body = said.partition(b"\r\n\r\n")
                length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                if end and length and len(body) >= int(length[0].split(b":")[1]):
                    break
        except OSError:
            pass
        return said


AROUND = (
    *("/page/../v1/models", "/page/%2e%2e/v1/models", "/page/..%2fv1/models", "//v1/models", "/health/../v1/models"),
    *("/v1/models/", "/V1/models", "/v1/models%00", "/v1//models", "/health;/v1/models", "/health/v1/models"),
    *("/page//v1/models", "/page/\\..\\v1\\models", "/./v1/models", "/v1/models?key=sesame", "/%2fv1/models"),
    *(
        "http://localhost/v1/models",
        "/page/http://localhost/v1/models",
        "*",
        "/v1/models#/page/",
        "/page/%252e%252e/v1",
    ),
)


def status(said: bytes) -> int | None:
    return int(said.split()[1]) if said.startswith(b"HTTP/1.1 ") else None


def is_well(address: tuple[str, int]) -> bool:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return status(exchange(address, head + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)) == 200


HEAD = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
FORM = b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
FLOODS = {
    "one long header": (HEAD, b"X: " + b"a" * 2_000_000 + b"\r\n\r\n"),
    "many headers": (HEAD, *(b"X-%d: a\r\n" % i for i in range(50_000)), b"\r\n"),
    "a header without end": (HEAD, *(b"a" * 10_000 for _ in range(300))),
    "a long path": (b"GET /" + b"a" * 2_000_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",),
    "a long method": (b"A" * 2_000_000 + b" / HTTP/1.1\r\n\r\n",),
    "noise": (bytes(range(256)) * 400,),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),),
    "no host": (b"GET /v1/models HTTP/1.1\r\n\r\n",),
    "two hosts": (HEAD + b"Host: evil.example\r\n\r\n",),
    "a length of 5000 digits": (POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",),
    "a negative length": (POST + b"Content-Length: -1\r\n\r\n",),
    "two lengths": (POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + BODY,),
    "a length and chunks": (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",),
    "a long body announced": (POST + b"Content-Length: 100000000000\r\n\r\n",),
    "a long body in chunks": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n",
        *([b"2710\r\n" + b" " * 10_000 + b"\r\n"] * 30),
    ),
    "a chunk of 2**63": (POST + b"Transfer-Encoding: chunked\r\n\r\n7fffffffffffffff\r\n" + b" " * 300_000,),
    "a chunk that is none": (POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",),
    "a long trailer": (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: " + b"a" * 1_000_000 + b"\r\n\r\n"),
    "form fields in chunks": (
        FORM + b"Transfer-Encoding: chunked\r\n\r\n",
        *([b"36\r\n" + b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n' + b"\r\n"] * 1500),
        b"0\r\n\r\n",
    ),
    "a form of line breaks": (FORM + b"Content-Length: 99000\r\n\r\n" + b"\r\n" * 49_500,),
    "a form of almost boundaries": (FORM + b"Content-Length: 99000\r\n\r\n" + b"\r\n--" * 24_750,),
    "a form of headers": (FORM + b"Content-Length: 99005\r\n\r\n" + b"--b\r\n" + b"X: y\r\n" * 16_500,),
    "a line break in a header": (HEAD + b"X: a\rSet-Cookie: b\r\n\r\n",),
    "a zero in a header": (HEAD + b"X: a\x00b\r\n\r\n",),
    "an upgrade to nothing": (HEAD + b"Connection: upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAAA\r\n\r\n",),
}
HARMLESS = {"an upgrade to nothing"}  # answered as if nothing had been said


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_over_a_socket_is_cut_short_and_the_next_request_is_answered(
    address: tuple[str, int], name: str
) -> None:
    start = time.process_time()
    said = exchange(address, *FLOODS[name])
    assert status(said) in ((200,) if name in HARMLESS else (400, 403, 413, 414, 431, None)), said[:300]
    assert b"Traceback" not in said
    assert b"Set-Cookie" not in said
    assert time.process_time() - start < 3.0
    assert is_well(address)


def test_no_spelling_of_a_path_goes_around_the_key() -> None:
    with serving(scripted_service(key="sesame")) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        for path in AROUND:
            said = exchange((host, int(port)), f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert status(said) in (400, 401, 404), path
            assert b"tiny" not in said


def test_connections_that_say_nothing_keep_nobody_out(address: tuple[str, int]) -> None:
    silent = [socket.create_connection(address) for _ in range(200)]
    try:
        for connection in silent[::2]:
            connection.sendall(HEAD)  # and never the end of it
        assert is_well(address)
    finally:
        for connection in silent:
            connection.close()


def test_a_request_smuggled_behind_another_is_one_of_its_own(address: tuple[str, int]) -> None:
    # Behind a proxy, bytes after the first request must not become somebody else's: they are a second request here.
    said = exchange(address, POST + b"Content-Length: 2\r\n\r\n{}" + b"GET /v1/models HTTP/1.1\r\nHost: evil\r\n\r\n")
    assert status(said) == 400
    assert is_well(address)

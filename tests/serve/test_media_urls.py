"""Recordings behind addresses: `data:` always, others only as listed, looked up once and public."""

import asyncio
import base64
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias

import pytest

from sonant.errors import ConfigError, RequestError
from sonant.serve import media_urls
from sonant.serve.media_urls import MediaHost, fetch

CLIP = b"RIFF of a recording"


def fetched(url: str, *, hosts: tuple[str, ...] = (), max_bytes: int = 1000, timeout_s: float = 5.0) -> bytes:
    return asyncio.run(fetch(url, hosts=hosts, max_bytes=max_bytes, timeout_s=timeout_s))


def data_url(data: bytes) -> str:
    return f"data:audio/wav;base64,{base64.b64encode(data).decode()}"


def test_a_data_url_is_read_without_any_host_listed() -> None:
    assert fetched(data_url(CLIP)) == CLIP
    assert fetched("DATA:;base64,AAAA") == bytes(3)
    assert fetched(data_url(bytes(1000))) == bytes(1000)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (data_url(bytes(1001)), "larger than 1000 bytes"),
        (data_url(bytes(10**6)), "larger than 1000 bytes"),
        ("data:audio/wav;base64,%%%%", "valid base64"),
        ("data:audio/wav;base64,AAA", "valid base64"),
        ("data:audio/wav;base64,\N{BLACK HEART SUIT}", "valid base64"),
        ("data:audio/wav,AAAA", "not base64"),
        ("data:audio/wav;base64", "not base64"),
    ],
)
def test_a_data_url_that_is_too_large_or_damaged_is_refused(url: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        fetched(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://media.example.org/a.wav",  # another scheme than listed
        "https://media.example.org:8443/a.wav",  # another port
        "https://media.example.org:80/a.wav",
        "https://example.org/a.wav",  # another host
        "https://media.example.org.evil.org/a.wav",
        "https://evil.org/media.example.org",
        "https://media.example.org./a.wav",
        "https://media.example.org@evil.org/a.wav",  # users
        "https://evil.org@media.example.org/a.wav",
        "https://evil.org\\@media.example.org/a.wav",  # what one parser takes for the host, another does not
        "https://media.example.org\\.evil.org/a.wav",
        "https://media.example.org\t/a.wav",
        "https://media.example.org/a.wav\r\nX: y",
        "https://media.example.org /a.wav",
        "https://media\N{FULLWIDTH FULL STOP}example.org/a.wav",
        "https://media.example.org:99999/a.wav",
        "https://media.example.org:x/a.wav",
        "https://[::1]/a.wav",
        "https://[media.example.org/a.wav",
        "https://127.0.0.1/a.wav",
        "https://2130706433/a.wav",
        "https://0x7f.1/a.wav",
        "https:///a.wav",
        "https:media.example.org/a.wav",
        "//media.example.org/a.wav",
        "file:///etc/passwd",
        "file://media.example.org/etc/passwd",
        "ftp://media.example.org/a.wav",
        "gopher://media.example.org/a.wav",
        "/etc/passwd",
        "",
        "https://media.example.org/" + "a" * 5000,
    ],
)
def test_what_the_list_does_not_name_is_refused_before_any_name_is_looked_up(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", _never)
    with pytest.raises(RequestError, match=r"not allowed here; addresses of media\.example\.org and data: URLs are"):
        fetched(url, hosts=("media.example.org",))
    with pytest.raises(RequestError, match="only data: URLs are"):
        fetched(url)


def _never(*_: object, **__: object) -> None:
    raise AssertionError("a name was looked up")


def test_the_list_names_places() -> None:
    assert MediaHost.parse("Media.Example.org") == MediaHost("https", "media.example.org", 443)
    assert MediaHost.parse("media.example.org:8443") == MediaHost("https", "media.example.org", 8443)
    assert MediaHost.parse("http://media.example.org") == MediaHost("http", "media.example.org", 80)
    for wrong in ("", "media.example.org/a", "ftp://media.example.org", "*", "user@media.example.org", "a b"):
        with pytest.raises(ConfigError, match="write HOST, HOST:PORT"):
            MediaHost.parse(wrong)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fec0::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
    ],
)
def test_a_listed_name_with_an_address_that_is_not_public_is_refused(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up_as(monkeypatch, "93.184.215.14", address)  # one good address does not excuse the other
    with pytest.raises(RequestError, match=r"media\.example\.org is not a public host") as caught:
        fetched("https://media.example.org/a.wav", hosts=("media.example.org",))
    assert address not in str(caught.value)


def looked_up_as(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[str]:
    """Makes every name have these addresses; returns the list of names that were looked up."""
    asked: list[str] = []

    def lookup(host: str, port: int, *_: object, **__: object) -> list[tuple[object, ...]]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    return asked


Talk: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(talk: Talk, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server on this machine that talks so to who comes: its port. It ends when all that was begun is said."""
    conversations: list[asyncio.Task[None] | None] = []

    async def whole(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversations.append(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await talk(reader, writer)
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(whole, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1]
        await asyncio.gather(*filter(None, conversations))


def exchange(
    monkeypatch: pytest.MonkeyPatch,
    answer: bytes,
    *,
    max_bytes: int = 1000,
    timeout_s: float = 5.0,
    path: str = "/a.wav",
) -> tuple[bytes | RequestError, list[bytes], list[str]]:
    """What is fetched from a server that answers so, as if loopback were public; what it was asked; names looked up."""
    monkeypatch.setattr(media_urls, "_is_public", lambda address: True)
    names = looked_up_as(monkeypatch, "127.0.0.1")

    asked: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)

    async def run() -> tuple[bytes | RequestError, list[bytes], list[str]]:
        async with serving(talk) as port:
            place = f"http://media.example.org:{port}"
            try:
                got = await fetch(place + path, hosts=(place,), max_bytes=max_bytes, timeout_s=timeout_s)
            except RequestError as error:
                return error, asked, names
            return got, asked, names

    return asyncio.run(run())


def answered(body: bytes, *, status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def test_a_listed_host_is_looked_up_once_and_asked_by_that_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")  # a proxy would look the name up again
    got, asked, names = exchange(monkeypatch, answered(CLIP), path="/a%20b.wav?x=1&y=/#part")
    assert got == CLIP
    assert names[0] == "media.example.org"
    assert set(names[1:]) <= {"127.0.0.1"}, "the name was looked up again, and might have changed"
    (request,) = asked
    assert request.startswith(b"GET /a%20b.wav?x=1&y=/ HTTP/1.1\r\n")
    assert b"\r\nHost: media.example.org:" in request
    assert b"cookie" not in request.lower()
    assert b"authorization" not in request.lower()


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Again", "404 None", "500 Broken", "206 Part"])
def test_redirects_are_not_followed_and_other_answers_refused(status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = answered(CLIP, status=status, headers="Location: http://169.254.169.254/latest/meta-data\r\n")
    got, asked, names = exchange(monkeypatch, answer)
    assert isinstance(got, RequestError)
    assert f"answered {status[:3]}" in str(got)
    assert len(asked) == 1
    assert "169.254.169.254" not in names


def test_more_than_the_most_allowed_is_refused_whatever_the_header_says(monkeypatch: pytest.MonkeyPatch) -> None:
    endless = b"HTTP/1.1 200 OK\r\n\r\n" + bytes(5000)
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + 100 * (b"64\r\n" + bytes(100) + b"\r\n")
    for answer in (endless, chunked, answered(bytes(1001))):
        got, _, _ = exchange(monkeypatch, answer)
        assert isinstance(got, RequestError)
        assert "larger than 1000 bytes" in str(got)


def test_a_packed_answer_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    import gzip

    packed = gzip.compress(bytes(10**6))
    got, _, _ = exchange(monkeypatch, answered(packed, headers="Content-Encoding: gzip\r\n"), max_bytes=2000)
    assert got == packed


def test_an_answer_that_does_not_come_and_one_that_is_cut_off_are_refused_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for answer in (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort", b"SSH-2.0-OpenSSH\r\n"):
        got, _, _ = exchange(monkeypatch, answer)
        assert isinstance(got, RequestError)
        assert str(got).startswith("the recording could not be fetched from media.example.org within 5 s")


def test_a_host_that_drips_is_given_up_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_urls, "_is_public", lambda address: True)
    looked_up_as(monkeypatch, "127.0.0.1")

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not reader.at_eof():
            writer.write(b"x")  # each byte in time, all of them never
            await writer.drain()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(reader.read(100), 0.02)

    async def run() -> None:
        async with serving(drip) as port:
            place = f"http://media.example.org:{port}"
            with pytest.raises(RequestError, match=r"within 0\.3 s"):
                await fetch(place + "/", hosts=(place,), max_bytes=10**9, timeout_s=0.3)

    asyncio.run(run())


def test_over_https_the_certificate_must_name_the_host_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_urls, "_is_public", lambda address: True)
    looked_up_as(monkeypatch, "127.0.0.1")
    named: list[str | None] = []
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # without a certificate: no handshake may succeed
    remember: Callable[..., None] = lambda connection, name, context: named.append(name)  # noqa: E731
    tls.sni_callback = remember

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise AssertionError("a handshake without a certificate")

    async def run() -> None:
        async with serving(talk, tls=tls) as port:
            place = f"media.example.org:{port}"
            with pytest.raises(RequestError, match="could not be fetched"):
                await fetch(f"https://{place}/a.wav", hosts=(place,), max_bytes=1000, timeout_s=5.0)

    asyncio.run(run())
    assert named == ["media.example.org"]

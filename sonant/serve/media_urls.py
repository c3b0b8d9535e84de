"""Recordings behind addresses that clients name: `data:` always, others only from hosts the operator listed.

A server that fetches what strangers name is a way into its own network. So there is one parser, and what it understood
is what is asked; the name is looked up once, every address it has must be public, and that address is the one used;
nothing is followed; only the scheme, host and port on the list are asked.
"""

import asyncio
import base64
import binascii
import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

import httpx2

from sonant.errors import ConfigError, RequestError

Scheme = Literal["http", "https"]
_PORTS: dict[Scheme, int] = {"https": 443, "http": 80}
# What a plain URL is written with; no spaces, control or other letters, backslashes: parsers read those differently.
_PLAIN = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]{1,2048}")
_HOST = re.compile(r"[a-z0-9]([a-z0-9\-.]*[a-z0-9])?")
# All that is public in IPv6, but for 6to4, which stands for addresses that may be private.
_UNICAST, _SIX_TO_FOUR = ipaddress.ip_network("2000::/3"), ipaddress.ip_network("2002::/16")


@dataclass(frozen=True)
class MediaHost:
    """Where recordings may be fetched from."""

    scheme: Scheme
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "MediaHost":
        """Returns the place that `media.example.org`, `media.example.org:8443` or `http://host` stand for.

        Raises: ConfigError if it is none of these.
        """
        scheme, separator, rest = text.rpartition("://")
        place = _place(f"{scheme if separator else 'https'}://{rest}/")
        if place is None or "/" in rest:
            raise ConfigError(f"media host {text!r}: write HOST, HOST:PORT, or either behind http:// (default: https)")
        return place


async def fetch(url: str, *, hosts: Sequence[str], max_bytes: int, timeout_s: float) -> bytes:
    """Returns what a `data:` URL holds, or what a listed host (see `MediaHost.parse`) answers in time.

    Raises: RequestError if the URL is not plain, not of a listed host, of an address that is not public, not answered
        with 200 within `timeout_s`, or if it holds more than `max_bytes`.
    """
    if url[:5].lower() == "data:":
        return _read_data_url(url, max_bytes=max_bytes)
    place = _place(url)
    if place is None or place not in {MediaHost.parse(host) for host in hosts}:
        allowed = f"addresses of {', '.join(hosts)} and data: URLs are" if hosts else "only data: URLs are"
        raise RequestError(
            f"this audio address is not allowed here; {allowed}; send the recording itself as input_audio"
        )
    try:
        async with asyncio.timeout(timeout_s):
            return await _download(url, place, await _resolve(place), max_bytes=max_bytes)
    except (TimeoutError, OSError, httpx2.HTTPError, httpx2.InvalidURL):
        # One text for all reasons: which ports answer inside this network is not for strangers to learn.
        raise RequestError(
            f"the recording could not be fetched from {place.host} within {timeout_s:g} s; send it as input_audio"
        ) from None


def _place(url: str) -> MediaHost | None:
    """Where a URL points, if it is plain http(s) without a user."""
    if not _PLAIN.fullmatch(url):
        return None
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    host = parts.hostname or ""
    if "@" in parts.netloc or not _HOST.fullmatch(host):
        return None
    return next(
        (MediaHost(s, host, own if port is None else port) for s, own in _PORTS.items() if s == parts.scheme), None
    )


async def _resolve(place: MediaHost) -> str:
    """The address to use. Raises: RequestError if one of the host's addresses is not public; OSError if it has none."""
    found = await asyncio.get_running_loop().getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    if not all(_is_public(address) for address in addresses):
        raise RequestError(f"{place.host} is not a public host; recordings are fetched only from those")
    return addresses[0]


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        ip = ip.ipv4_mapped or ip
    is_assigned = ip.version == 4 or (ip in _UNICAST and ip not in _SIX_TO_FOUR)
    return ip.is_global and not ip.is_multicast and is_assigned


async def _download(url: str, place: MediaHost, address: str, *, max_bytes: int) -> bytes:
    parts = urlsplit(url)
    target = httpx2.URL(
        scheme=place.scheme,
        host=address,
        port=place.port,
        raw_path=(parts.path or "/").encode() + (b"?" + parts.query.encode() if parts.query else b""),
    )
    # identity: what is unpacked would have to be bounded again. trust_env: no proxy, no .netrc.
    headers = {"Host": parts.netloc, "Accept-Encoding": "identity"}
    extensions = {"sni_hostname": place.host}  # whom the certificate must name
    chunks: list[bytes] = []
    num_bytes = 0
    async with (
        httpx2.AsyncClient(trust_env=False, follow_redirects=False) as client,
        client.stream("GET", target, headers=headers, extensions=extensions) as response,
    ):
        if response.status_code != 200:
            raise RequestError(
                f"{place.host} answered {response.status_code} for the recording, where 200 is needed (redirects are "
                "not followed); send the recording itself as input_audio"
            )
        async for chunk in response.aiter_raw():
            num_bytes += len(chunk)
            if num_bytes > max_bytes:
                raise _too_long(max_bytes)
            chunks.append(chunk)
    return b"".join(chunks)


def _read_data_url(url: str, *, max_bytes: int) -> bytes:
    """The bytes of `data:audio/wav;base64,...`."""
    head, comma, payload = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise RequestError("the audio's data: URL is not base64; write data:audio/wav;base64,... with the recording")
    if len(payload) > 4 * (max_bytes // 3 + 1):
        raise _too_long(max_bytes)
    try:
        data = base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        raise RequestError("the audio's data: URL does not hold valid base64; encode the recording again") from None
    if len(data) > max_bytes:
        raise _too_long(max_bytes)
    return data


def _too_long(max_bytes: int) -> RequestError:
    return RequestError(f"the recording is larger than {max_bytes} bytes, the most allowed here; send a shorter one")

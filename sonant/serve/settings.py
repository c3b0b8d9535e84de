"""What `sonant serve` may be told, with defaults that suit one machine and one model."""

import ipaddress
import json
import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr

from sonant.chat.endpoint_wordings import EndpointWordings
from sonant.config import Config, validate
from sonant.errors import ConfigError

MIB = 1024 * 1024

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


class ServeConfig(Config):
    """Where the server listens, who may ask, and how much."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8000  # 0: any that is free
    key: SecretStr | None = None  # what a client sends as `Authorization: Bearer KEY`; None: none is asked for
    allow_open: bool = False  # listen to other machines without a key
    hosts: tuple[str, ...] = ()  # names besides its own address that a browser may know this server by
    page: bool = True
    model_name: str | None = None  # what clients call the model; None: the name of its folder

    # What is computed at a time, and what waits.
    threads: Count | None = None  # of what hears and of what writes, each; None: one for every core but one
    max_rows: Count = 16
    max_waiting: Annotated[int, Field(ge=0)] = 64
    max_connections: Count = 1024
    max_sessions: Count = 16  # of /v1/realtime
    session_s: Seconds = 3600.0  # that one lasts at most
    session_idle_s: Seconds = 600.0  # without a word from its client
    max_event_bytes: Count = 4 * MIB  # one message of it: a minute of PCM at 24 kHz, in base64
    request_timeout_s: Seconds = 120.0
    warm_up: bool = True  # answer a full batch of noise before listening: the first client waits for nothing
    drain_s: Annotated[float, Field(ge=0)] = 30.0  # to answer what was accepted, once told to stop

    # What one request may hold.
    max_body_bytes: Count = 32 * MIB
    max_messages: Count = 256
    max_parts: Count = 64  # of a message
    max_audio_parts: Count = 16  # of a request
    max_audio_s: Seconds = 300.0  # all clips of a request together
    max_text_chars: Count = 100_000  # of a request
    max_new_tokens: Count = 1024
    max_n: Count = 8
    max_stops: Count = 4

    # How untrusted recordings are read.
    decode_memory_bytes: Count = 1024 * MIB
    decode_timeout_s: Seconds = 20.0
    decode_workers: Count = 1
    media_hosts: tuple[str, ...] = ()  # that audio_url may name; none: data: URLs alone
    media_timeout_s: Seconds = 10.0

    # What the audio endpoints ask of the model, and how.
    wordings: EndpointWordings = EndpointWordings()
    # Name -> a recording of whoever lends it, for models that speak in the voice they heard last; null is another name
    # of the model's own, "default".
    voices: dict[str, str | None] = Field(default_factory=dict)
    segment_s: Seconds = 30.0  # longer recordings are cut at silences before they are transcribed

    @property
    def max_requests(self) -> int:
        """Returns how many HTTP requests may be under way at a time."""
        return self.max_rows + self.max_waiting

    @property
    def is_loopback(self) -> bool:
        """Returns whether only this machine can reach the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def check_lock(self) -> None:
        """Raises: ConfigError if the key is empty, or other machines may ask and none is set."""
        if self.key is not None and not self.key.get_secret_value():
            raise ConfigError("the key is empty; write one into its file, or set none at all")
        if not (self.is_loopback or self.key or self.allow_open):
            raise ConfigError(
                f"host {self.host} can be reached by other machines, and no key is set; set one (--key-file, or "
                "SONANT_KEY in the environment), listen on 127.0.0.1, or say allow_open=true"
            )


def trained_wordings(folder: str | os.PathLike[str]) -> EndpointWordings:
    """Returns the wordings in a model's provenance.json, the default ones if it has none. Raises: ConfigError."""
    path = Path(folder) / "provenance.json"
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return EndpointWordings()
    wordings = values.get("wordings", {}) if isinstance(values, dict) else {}
    return validate(EndpointWordings, wordings, where=f"{path}: wordings")

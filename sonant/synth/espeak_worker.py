"""The process that holds espeak-ng: requests on stdin (JSON lines), answers on stdout (header, then bytes).

It never imports torch and it forks one child for each clip: espeak carries state from one clip to the next and seeds
its noise from the clock, so only a fresh, seeded child makes a clip's bytes depend on nothing but its request. A fork
costs 1.5 ms.

A clip is one line of JSON, then its bytes. The line lists events: [place, sample] of words, [null, sample] of phonemes.
"""

import ctypes
import functools
import json
import os
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

HEADER = struct.Struct("<iI")  # sample rate in Hz (0: the payload is an error message), number of bytes that follow
NO_VOICE = "no voice"  # how the message begins when another text would not help
_SYNCHRONOUS, _PHONEME_EVENTS, _CHARS_UTF8 = 2, 1, 1  # speak_lib.h
_END_OF_EVENTS, _WORD, _PHONEME = 0, 1, 7
# Field of a request -> espeak's parameter, and its value at 1.0.
_PARAMETERS = {"rate": (1, 175), "pitch": (3, 50), "pitch_range": (4, 50), "volume": (2, 100)}


class _Event(ctypes.Structure):
    """speak_lib.h: espeak_EVENT."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("kind", "identifier", "text_position", "length", "audio_ms", "sample")),
        ("user_data", ctypes.c_void_p),
        ("name", ctypes.c_char * 8),
    )


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


def main() -> None:
    """Answers every request of stdin in order."""
    for number in (signal.SIGPIPE, signal.SIGINT):  # who asked is gone: end without a word
        signal.signal(number, signal.SIG_DFL)
    # What espeak prints must not mix with the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    library, data_folder = _find_espeak()
    sample_rate_hz = library.espeak_Initialize(_SYNCHRONOUS, 0, data_folder.encode(), _PHONEME_EVENTS)
    variants = set(os.listdir(Path(data_folder, "voices", "!v")))
    for line in sys.stdin.buffer:
        status, payload = _in_child(functools.partial(_speak, library, variants, **json.loads(line)))
        _answer(answers, sample_rate_hz if status else 0, payload)


def _find_espeak() -> tuple[Any, str]:
    import espeakng_loader

    return ctypes.CDLL(espeakng_loader.get_library_path()), str(espeakng_loader.get_data_path())


def _answer(answers: BinaryIO, sample_rate_hz: int, payload: bytes) -> None:
    answers.write(HEADER.pack(sample_rate_hz, len(payload)) + payload)
    answers.flush()


def _in_child(work: Callable[[], bytes]) -> tuple[bool, bytes]:
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)  # else, if the worker is killed, this child waits for ever to be read, by itself
        status = 1
        with os.fdopen(write_end, "wb") as pipe:
            try:
                pipe.write(work())
                status = 0
            except Exception as error:
                pipe.write(str(error).encode())
        os._exit(status)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        payload = pipe.read()
    return os.waitpid(child, 0)[1] == 0, payload


def _speak(library: Any, variants: set[str], *, text: str, voice: str, **factors: float) -> bytes:
    chunks: list[bytes] = []
    marks: list[tuple[int | None, int]] = []
    library.espeak_ng_SetRandSeed(1)

    def collect(samples: Any, num_samples: int, events: Any) -> int:
        if samples and num_samples > 0:
            chunks.append(ctypes.string_at(samples, num_samples * 2))
        for event in _listed(events):
            if event.kind == _WORD:
                marks.append((event.text_position - 1, event.sample))
            elif event.kind == _PHONEME and not event.name.startswith(b"_"):  # those are pauses
                marks.append((None, event.sample))
        return 0

    callback = _CALLBACK(collect)  # must stay alive while espeak may call it
    library.espeak_SetSynthCallback(callback)
    variant = voice.partition("+")[2]
    # espeak takes an unknown variant without a word and speaks with the plain voice.
    if (variant and variant not in variants) or library.espeak_SetVoiceByName(voice.encode()) != 0:
        raise ValueError(f"{NO_VOICE} {voice!r}")
    for name, factor in factors.items():
        number, own = _PARAMETERS[name]
        _check(library.espeak_SetParameter(number, round(own * factor), 0), name)
    if "\0" in text:
        raise ValueError("the text holds a zero character, at which espeak would stop")
    encoded = text.encode() + b"\0"
    _check(library.espeak_Synth(encoded, len(encoded), 0, 1, 0, _CHARS_UTF8, None, None), "synthesis")
    _check(library.espeak_Synchronize(), "synthesis")
    return json.dumps(marks).encode() + b"\n" + b"".join(chunks)


def _listed(events: Any) -> Iterator[_Event]:
    for event in events or ():
        if event.kind == _END_OF_EVENTS:
            return
        yield event


def _check(code: int, what: str) -> None:
    if code != 0:
        raise ValueError(f"espeak's {what} call returned {code}")


if __name__ == "__main__":
    main()

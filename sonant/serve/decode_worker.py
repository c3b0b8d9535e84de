"""The process that decodes what strangers send: recordings on stdin, samples on stdout.

It holds no model, no key and no other client's answer; a decoder that is broken into or brought down takes nothing with
it. Once its libraries are loaded it can open no file and no socket, leaves no core dump and has a ceiling on memory
(Linux) and, for each recording, on processor time. It never imports torch. It ends when its stdin does.

    stdin    REQUEST (most seconds allowed, number of bytes), bytes
    stdout   READY, once; then for each request: REPLY (what it is, count), `count` float32 samples or message bytes
"""

import io
import math
import os
import resource
import signal
import struct
import sys
import time

import numpy as np
from numpy.typing import NDArray

from sonant.audio.io import load
from sonant.errors import AudioError
from sonant.serve import browser_audio

RATE_HZ = 16_000
REQUEST = struct.Struct("<dQ")
REPLY = struct.Struct("<BQ")
SAMPLES, REFUSED = 0, 1
READY = b"R"
# Float formats and lossy ones may go a little beyond 1; what is far beyond overflows when features square it.
MAX_PEAK = 8.0
_SILENT_AAC = bytes.fromhex("fff16040017ffc01182007")  # one frame


def main() -> None:
    """Answers every request of stdin in order: `python -m sonant.serve.decode_worker MEMORY_BYTES CPU_SECONDS`."""
    memory_bytes, cpu_s = int(sys.argv[1]), float(sys.argv[2])
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group at a stop; who asked still drains
        signal.signal(number, signal.SIG_IGN)
    requests, replies = os.fdopen(0, "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not mix with the replies
    _load_libraries()
    _renounce(memory_bytes)
    replies.write(READY)
    replies.flush()
    while header := requests.read(REQUEST.size):
        max_duration_s, num_bytes = REQUEST.unpack(header)
        _allow_cpu(cpu_s)
        kind, count, payload = _answer(requests.read(num_bytes), max_duration_s)
        replies.write(REPLY.pack(kind, count))
        replies.write(payload)
        replies.flush()


def decode(data: bytes, *, max_duration_s: float) -> NDArray[np.float32]:
    """Returns the samples of a recording in any of our formats: (S,) float32, mono, 16 kHz, finite, within MAX_PEAK.

    Raises: AudioError as `sonant.audio.io.load` and `browser_audio.load` do, and if the samples are far too loud.
    """
    read = load if browser_audio.container_of(data) is None else browser_audio.load
    samples = read(data, sample_rate_hz=RATE_HZ, max_duration_s=max_duration_s)
    peak = float(max(-samples.min(), samples.max()))
    if not peak <= MAX_PEAK:  # written so that NaN, from a resampler that overflowed, is refused too
        raise AudioError(
            f"audio of {len(data)} bytes: the peak is {peak:.4g}; float samples lie in [-1, 1]; scale them, or send "
            "integers in an integer format"
        )
    return samples


def _answer(data: bytes, max_duration_s: float) -> tuple[int, int, memoryview]:
    """What to reply; any other exception ends the process, and the server starts a new one."""
    try:
        samples = np.ascontiguousarray(decode(data, max_duration_s=max_duration_s), dtype="<f4")
    except AudioError as error:
        message = str(error)
    except MemoryError:
        message = f"audio of {len(data)} bytes: takes more memory to decode than is allowed here; send a shorter one"
    else:
        return SAMPLES, len(samples), samples.data
    payload = message.encode()
    return REFUSED, len(payload), memoryview(payload)


def _load_libraries() -> None:
    """Loads what decoding imports only when it runs: afterwards no file can be opened."""
    import soundfile

    silent_wav = io.BytesIO()
    soundfile.write(silent_wav, np.zeros(800, np.float32), 8000, format="WAV")
    for clip in (silent_wav.getvalue(), _SILENT_AAC):
        decode(clip, max_duration_s=1.0)


def _renounce(memory_bytes: int) -> None:
    """Gives up, for good, whatever decoding does not need."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)  # libraries write about a stranger's file what the stranger chose
    os.close(silence)
    if sys.platform == "linux":  # elsewhere the system does not keep to it
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + memory_bytes, now + memory_bytes))
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE):
        resource.setrlimit(limit, (0, 0))


def _allow_cpu(seconds: float) -> None:
    """Ends this process after that much more work: nobody is left to do so when the server was killed."""
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    wanted = math.ceil(time.process_time() + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


if __name__ == "__main__":
    main()

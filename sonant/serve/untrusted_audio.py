"""Recordings from strangers -> samples, decoded in processes that may die.

    bytes ──▶ a thread for each worker ──▶ pipe ──▶ decode_worker (no model, no key, limits) ──▶ samples

A recording that kills, hangs or floods its decoder is refused, by itself; the next one finds a new process.
"""

import asyncio
import logging
import math
import os
import queue
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from sonant.chat.messages import AudioPart
from sonant.errors import AudioError, ClosingError, ConfigError
from sonant.serve.decode_worker import RATE_HZ, READY, REFUSED, REPLY, REQUEST, SAMPLES

log = logging.getLogger(__name__)

WORKER = "sonant.serve.decode_worker"
START_S = 60.0  # to load the libraries, also on a machine that is busy
MAX_MESSAGE_BYTES = 4096
# All that a worker is given of the server's environment: no key, no token.
_INHERITED = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "TMPDIR")
_WAV_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")
_WAV_FLOAT = 3


class AudioDecoder:
    """Decodes untrusted recordings, `workers` at a time; others wait their turn.

    `memory_bytes` is what one may take beyond what an idle worker holds, `timeout_s` how long, of the clock and of the
    processor. Serves any number of event loops and threads.
    """

    def __init__(self, *, memory_bytes: int, timeout_s: float, workers: int = 1) -> None:
        # -P: a folder that the server was started in, such as a stranger's model, must not lend its modules.
        command = [sys.executable, "-P", "-m", WORKER, str(memory_bytes), str(timeout_s)]
        self._workers = [_Worker(command, timeout_s) for _ in range(workers)]
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="sonant-decode")

    async def decode(self, data: bytes, *, max_duration_s: float) -> NDArray[np.float32]:
        """Returns a recording as samples (S,) float32, mono, 16 kHz, finite: wav, flac, ogg, mp3, webm, mp4 or aac.

        Raises: AudioError if it is none of these, damaged, empty, longer than `max_duration_s`, or takes more memory
            or time than is allowed; ClosingError after `close`; ConfigError if a worker does not start.
        """
        if not (math.isfinite(max_duration_s) and max_duration_s > 0):
            raise AudioError(f"no seconds of audio are left of what one request may hold ({max_duration_s:g} s)")
        try:
            answer = self._threads.submit(self._decode, data, max_duration_s)
        except RuntimeError:
            raise ClosingError("this server is shutting down; ask again when it is back") from None
        return await asyncio.wrap_future(answer)

    @property
    def restarts(self) -> int:
        """Returns how often a worker had to be started anew."""
        return sum(worker.restarts for worker in self._workers)

    def close(self) -> None:
        """Ends every worker, whatever it does, and waits for it; recordings that wait are cancelled."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.process.kill()
        self._threads.shutdown(wait=True)
        for worker in self._workers:  # again: a thread may just have started a new one
            worker.stop()

    def _decode(self, data: bytes, max_duration_s: float) -> NDArray[np.float32]:
        worker = self._idle.get_nowait()  # there are as many threads as workers
        try:
            return worker.decode(data, max_duration_s)
        finally:
            self._idle.put(worker)


def as_part(samples: NDArray[np.float32]) -> AudioPart:
    """Returns samples (S,) float32 at 16 kHz as an audio part whose bytes `sonant.audio.io.load` reads back exactly.

    Equal samples give equal bytes, and so the same name. Raises: AudioError if there is no sample.
    """
    if samples.ndim != 1 or not len(samples):
        raise AudioError(f"the samples have shape {samples.shape}; give one row (S,) with a sample or more")
    payload = samples.astype("<f4", copy=False).tobytes()
    # Written by hand because libsndfile puts the time of day into float WAV.
    header = _WAV_HEADER.pack(
        *(b"RIFF", _WAV_HEADER.size - 8 + len(payload), b"WAVE"),
        *(b"fmt ", 16, _WAV_FLOAT, 1, RATE_HZ, 4 * RATE_HZ, 4, 32),
        *(b"data", len(payload)),
    )
    return AudioPart(data=header + payload)


class _Worker:
    """One decoding process, and the one after it when it dies; used by one thread at a time."""

    def __init__(self, command: list[str], timeout_s: float) -> None:
        self._command = command
        self._timeout_s = timeout_s
        self.restarts = 0
        self._start()

    def _start(self) -> None:
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        # One arena, one thread: threads and arenas take address space, which is what the ceiling counts.
        single = {"MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=inherited | single,
            process_group=0,  # Ctrl-C in the terminal is for the server, which drains first
        )
        self._is_ready = False

    def stop(self) -> None:
        """Ends the process and leaves nothing of it behind."""
        self.process.kill()
        self.process.communicate()

    def decode(self, data: bytes, max_duration_s: float) -> NDArray[np.float32]:
        if self.process.poll() is not None:  # died while idle: not this recording's fault
            self._restart(f"it ended by itself with status {self.process.returncode}")
        if not self._is_ready:
            self._await_start()
        with self._deadline(self._timeout_s) as is_late:
            try:
                answer = self._ask(data, max_duration_s)
            except (OSError, EOFError):
                answer = None
        if answer is None or is_late.is_set():
            what = f"audio of {len(data)} bytes"
            self._restart(f"{what} " + ("took too long" if is_late.is_set() else "brought it down"))
            if is_late.is_set():
                raise AudioError(f"{what}: takes longer than {self._timeout_s:g} s to decode; send a shorter recording")
            raise AudioError(f"{what}: cannot be decoded; it is damaged or not audio; convert or record it again")
        if isinstance(answer, str):
            raise AudioError(answer)
        return answer

    def _ask(self, data: bytes, max_duration_s: float) -> NDArray[np.float32] | str:
        """The samples, or why there are none. Raises: OSError or EOFError if the process broke or breaks the rules."""
        stdin = self.process.stdin
        assert stdin is not None
        stdin.write(REQUEST.pack(max_duration_s, len(data)))
        stdin.write(data)
        stdin.flush()
        kind, count = REPLY.unpack(self._read(REPLY.size))
        if kind == REFUSED and count <= MAX_MESSAGE_BYTES:
            return self._read(count).decode(errors="replace")
        # A second more: resamplers round up.
        if kind != SAMPLES or not 0 < count <= (max_duration_s + 1) * RATE_HZ:
            raise EOFError
        return np.frombuffer(self._read(4 * count), "<f4").astype(np.float32)

    def _read(self, num_bytes: int) -> bytes:
        assert self.process.stdout is not None
        payload = self.process.stdout.read(num_bytes)
        if len(payload) < num_bytes:
            raise EOFError
        return payload

    def _await_start(self) -> None:
        with self._deadline(START_S) as is_late:
            assert self.process.stdout is not None
            self._is_ready = self.process.stdout.read(1) == READY
        if not self._is_ready or is_late.is_set():
            self._restart("it did not start")
            raise ConfigError(
                "the audio decoder does not start; its own message is above in the server's log; "
                "it needs: pip install 'sonant[serve]'"
            )

    def _restart(self, why: str) -> None:
        log.warning("the audio decoder is started anew: %s", why)
        self.restarts += 1
        self.stop()
        self._start()

    @contextmanager
    def _deadline(self, seconds: float) -> Iterator[threading.Event]:
        """Kills the process when the time is up, which ends whatever waits for it; the event tells."""
        is_late = threading.Event()
        process = self.process

        def end() -> None:
            is_late.set()
            process.kill()

        timer = threading.Timer(seconds, end)
        timer.start()
        try:
            yield is_late
        finally:
            timer.cancel()
            timer.join()  # from here on it has killed or never will

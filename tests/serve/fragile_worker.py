"""A decoding worker in which a recording may do what a broken decoder could: stands for faults not yet found."""

import os
import resource
import signal
import socket
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sonant.errors import AudioError
from sonant.serve import decode_worker

HONEST = decode_worker.decode


def decode(data: bytes, *, max_duration_s: float) -> NDArray[np.float32]:
    """Returns what the real worker does, unless the bytes begin with an order."""
    order = data[:8].decode("ascii", errors="replace").strip()
    match order:
        case "SEGV" | "KILL" | "ABRT":
            os.kill(os.getpid(), signal.Signals[f"SIG{order}"])
        case "HANG":
            time.sleep(3600)
        case "SPIN":
            while True:
                pass
        case "MEMORY":
            np.ones(10**10, np.uint8)
        case "RAISE":
            raise TypeError(f"<object at {id(data):#x}> in /secret/place")
        case "FLOOD":
            return np.zeros(10**7, np.float32)
        case "EMPTY":
            return np.zeros(0, np.float32)
        case "PRINT":
            os.write(1, b"libfault: 0xdeadbeef\n")
            os.write(2, b"libfault: 0xdeadbeef\n")
        case "SPY":
            raise AudioError(" ".join(_reached()))
    return HONEST(data.removeprefix(b"PRINT   "), max_duration_s=max_duration_s)


def _reached() -> list[str]:
    """What a decoder that a stranger has taken over can still reach."""
    found = [f"env:{name}" for name in os.environ if "KEY" in name or "TOKEN" in name]
    found += [f"module:{name}" for name in ("torch", "transformers", "fastapi") if name in sys.modules]
    try:
        Path(__file__).read_bytes()
        found.append("files")
    except OSError:
        pass
    try:
        socket.socket().close()
        found.append("sockets")
    except OSError:
        pass
    found += [f"core:{resource.getrlimit(resource.RLIMIT_CORE)}"] if resource.getrlimit(resource.RLIMIT_CORE)[1] else []
    return found or ["nothing"]


if __name__ == "__main__":
    decode_worker.decode = decode
    decode_worker.main()

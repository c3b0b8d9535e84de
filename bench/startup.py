"""How long a newcomer waits for `sonant --help`, and that it does not import torch."""

import subprocess
import sys
import time
from pathlib import Path

from bench.figure import Figure, at_most

COMMAND = [str(Path(sys.executable).with_name("sonant")), "--help"]


def measure() -> list[Figure]:
    seconds = []
    for _ in range(6):
        started = time.perf_counter()
        subprocess.run(COMMAND, check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    code = "import sys, sonant.cli.main; print('torch' in sys.modules)"
    imported = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    return [
        at_most("`sonant --help`, worst of 5 warm starts", 0.3, [max(seconds[1:])], "s"),
        Figure("torch imported by it", "no", "no" if imported == "False" else "yes", imported == "False"),
    ]

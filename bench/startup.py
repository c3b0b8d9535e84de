"""How long one waits for `sonant --help` and for what training imports, and how much `pip install sonant` installs.

The second and third are asked of a virtual environment of their own, with the core dependencies alone (a minute, once).
"""

import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from bench.figure import RUNS, Figure, at_most, reported

COMMAND = [str(Path(sys.executable).with_name("sonant")), "--help"]
CORE = RUNS / "startup" / "core"
# Torch, transformers, peft and all that is ours, as `sonant train` imports it; and as it is for who imports it bare.
TRAINING = """
from sonant.cli.imports import quick_imports
with quick_imports():
    import sonant.recipes.voicetextblender
"""
BARE = "import sonant.recipes.voicetextblender"


def measure() -> list[Figure]:
    python = _core()
    help_s = max(_seconds(COMMAND) for _ in range(5))
    training_s = statistics.median(_seconds([python, "-c", TRAINING]) for _ in range(3))
    bare_s = statistics.median(_seconds([python, "-c", BARE]) for _ in range(3))
    code = "import sys, sonant.cli.main; print('torch' in sys.modules)"
    imported = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    installer = {"pip", "setuptools"}  # of the virtual environment itself
    site = next(CORE.glob("lib/python*/site-packages"))
    names = {found.name for found in importlib.metadata.distributions(path=[str(site)])} - installer
    size = sum(file.stat().st_size for file in CORE.rglob("*") if file.is_file() and not file.is_symlink())
    return [
        at_most("`sonant --help`, worst of 5 warm starts", 0.3, [help_s], "s"),
        Figure("torch imported by it", "no", "no" if imported == "False" else "yes", imported == "False"),
        at_most("import of what training needs, as `sonant train` does it, warm, median of 3", 3.5, [training_s], "s"),
        reported("the same, while Python looks for garbage among it", [bare_s], "s"),
        at_most("packages of `pip install sonant`, itself among them", 60, [len(names)], "packages"),
        at_most("its environment", 1.5, [size / 1e9], "GB"),
    ]


def _core() -> str:
    """The Python of a virtual environment with the core dependencies as pinned."""
    python = CORE / "bin" / "python"
    pins = json.dumps([Path(name).read_text() for name in ("pyproject.toml", "constraints.txt")])
    installed = CORE / "installed.json"
    if not installed.exists() or installed.read_text() != pins:
        subprocess.run([sys.executable, "-m", "venv", "--clear", CORE], check=True)
        command = [python, "-m", "pip", "install", "--quiet", "--constraint", "constraints.txt", "--editable", "."]
        subprocess.run(command, check=True)
        installed.write_text(pins)
    _seconds([str(python), "-c", TRAINING])  # bytecode is written, files are in memory
    return str(python)


def _seconds(command: list[str]) -> float:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=kept)
    return time.perf_counter() - started

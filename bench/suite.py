"""How long the tests take."""

import re
import subprocess
import sys
import time

from bench.figure import Figure, at_most


def measure() -> list[Figure]:
    unit_s, unit = _run(["-m", "pytest", "-q", "-n", "2"])
    recipe_s, recipe = _run(["-m", "pytest", "-q", "-m", "recipe", "--timeout", "600"])
    check_s = sum(_run(["-m", *tool])[0] for tool in (["ruff", "check", "."], ["mypy"]))
    return [
        at_most(f"unit tests ({unit})", 90, [unit_s], "s"),
        at_most(f"make test in all, set-up aside (recipe tests: {recipe})", 900, [unit_s + recipe_s + check_s], "s"),
    ]


def _run(arguments: list[str]) -> tuple[float, str]:
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    found = re.findall(r"^.*\b(?:passed|failed)\b.*$", done.stdout, re.MULTILINE)
    return time.perf_counter() - started, found[-1].strip("= ") if found else f"exit {done.returncode}"

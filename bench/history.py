"""`python -m bench.history NAME [WORDS...] [--out PLOT]`: how the figures of a benchmark moved, commit by commit.

Prints date, commit, machine and value of every figure of benchmark NAME whose description holds all WORDS, and draws
them, one line a figure (the mean where a figure lists several values). The history is runs/bench/history.jsonl, to
which every `python -m bench` adds a line.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

from bench.figure import HISTORY, RUNS

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.history", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("name", help="of a benchmark, as in `python -m bench`")
    parser.add_argument("words", nargs="*", help="that the figure's description holds; all figures by default")
    parser.add_argument("--out", type=Path, help="of the plot; runs/bench/NAME.svg by default")
    args = parser.parse_args()
    entries = [json.loads(line) for line in HISTORY.read_text().splitlines()] if HISTORY.exists() else []
    entries = [entry for entry in entries if entry["bench"] == args.name]
    found = {
        what
        for entry in entries
        for what in entry["figures"]
        if all(word.lower() in what.lower() for word in args.words)
    }
    if not found:
        parser.error(f"{HISTORY} holds no figure of {args.name!r} with {' '.join(args.words) or 'a value'} in it")
    for entry in entries:
        for what in sorted(found & entry["figures"].keys()):
            print(entry["date"], entry["commit"], entry["machine"], what, entry["figures"][what], sep="  ")
    print(draw(entries, sorted(found), args.out or RUNS / f"{args.name}.svg"))


def value_of(measured: str) -> float | None:
    """Returns the number in a figure: the mean where several are listed, else the first; None where there is none."""
    found = _NUMBER.search(measured.partition("(mean ")[2] or measured)
    return float(found[0].replace(",", "")) if found else None


def draw(entries: list[dict[str, Any]], names: list[str], path: Path) -> Path:
    """Returns `path` after drawing the figures `names` over the commits, oldest left."""
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(10, 5), layout="constrained")
    axes = canvas.subplots()
    for name in names:
        points = [(i, value_of(e["figures"][name])) for i, e in enumerate(entries) if name in e["figures"]]
        shown = [(i, value) for i, value in points if value is not None]
        axes.plot(*zip(*shown, strict=True), marker="o", label=name) if shown else None
    axes.set_xticks(range(len(entries)), [f"{e['commit'][-14:]}\n{e['date'][:10]}" for e in entries], rotation=60)
    axes.legend(fontsize="small")
    canvas.savefig(path)
    return path


if __name__ == "__main__":
    main()

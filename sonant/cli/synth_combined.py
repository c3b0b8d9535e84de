"""`sonant synth combined`: several things asked at once of one recording."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sonant.cli.build import Seed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sonant.chat.messages import Conversation

EPILOG = """Examples:

    sonant synth combined asr.jsonl translation.jsonl questions.jsonl --out combined.jsonl

    sonant synth combined test/*.jsonl --out test/combined.jsonl --split test   (orders that training has not)

    sonant synth combined test/*.jsonl --out test/combined_seen.jsonl --split test --combinations seen

    sonant synth combined test/*.jsonl --out test/chained.jsonl --split test --kind chained   (with steps, and direct)

Rows about the same recording are combined; rows without one are asked in between. See docs/combined.md.
"""
Kind = Literal["independent", "chained"]


def combined(
    sources: Annotated[list[Path], typer.Argument(help="Manifests (.jsonl) of one split: a task a row.")],
    out: Annotated[Path, typer.Option(help="Manifest to write.")],
    split: Annotated[Literal["train", "dev", "test"], typer.Option(help="Of the rows, wordings and orders.")] = "train",
    kind: Annotated[Kind, typer.Option(help="chained: a step rests on the one before; for tests.")] = "independent",
    combinations: Annotated[
        Literal["held-out", "seen"] | None,
        typer.Option(help="Orders that only this split has, or those of training. Default: held-out but for train."),
    ] = None,
    per_recording: Annotated[int, typer.Option(min=1, help="Independent rows for each recording.")] = 1,
    preset: Annotated[str, typer.Option(help="best, tiny, or a YAML file: tasks, chains, wordings.")] = "best",
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any setting of the preset, as a.b=c.")] = None,
    seed: Seed = 0,
) -> None:
    """Combine single tasks into instructions of one to four parts; orders that only tests have are held out."""
    from collections import Counter

    from sonant.data.manifest import Manifest, write
    from sonant.errors import ConfigError
    from sonant.synth.combined import Combiner, load_combined

    if kind == "chained" and combinations is not None:
        raise ConfigError("--combinations is for --kind independent: chains are named in the preset")
    rows = [row for source in sources for row in Manifest(source)]
    combiner = Combiner(rows, load_combined(preset, overrides=settings or []), split=split, seed=seed)
    unseen = combinations == "held-out" if combinations else split != "train"
    made = combiner.chained() if kind == "chained" else combiner.independent(unseen=unseen, per_recording=per_recording)
    rows = list(made)
    for reason, count in Counter(dropped.reason for dropped in combiner.dropped).most_common():
        typer.echo(f"{count:8} dropped: {reason}")
    if not rows:
        raise ConfigError("nothing to write: no recording has rows for a combination of this split; add other tasks")
    _tell(rows)
    typer.echo(f"{out}: {write(out, rows)} rows")


def _tell(rows: "Iterable[Conversation]") -> None:
    """Prints how many rows there are for each sub-task, at each place, and how many combinations."""
    from collections import Counter

    combinations = [tuple(row.extra["combination"]) for row in rows]
    longest = max(map(len, combinations))
    places = Counter((name, place) for names in combinations for place, name in enumerate(names))
    names = sorted({name for name, _ in places})
    width = max(map(len, names))
    typer.echo(f"{'':{width}}" + "".join(f"{f'part {place + 1}':>8}" for place in range(longest)))
    for name in names:
        typer.echo(f"{name:{width}}" + "".join(f"{places[name, place]:8}" for place in range(longest)))
    typer.echo(f"{len(set(combinations))} combinations")

"""What the commands that build data share: options of voices and shards, and the run (`sonant.data.shards`)."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sonant.cli.data import progress_bar

if TYPE_CHECKING:
    from sonant.data.shards import Builder

Engine = Annotated[str, typer.Option(help="espeak, flite, festival, hf:FOLDER, http://HOST/v1#MODEL, 'command:...'.")]
VoicesOption = Annotated[
    list[str] | None, typer.Option("--voices", help="en=VOICE,VOICE or a YAML file; may be repeated. Default: all.")
]
Bounds = tuple[float, float]
Rates = Annotated[Bounds, typer.Option(help="Lowest and highest rate of a speaker, 1 1 for none.")]
Pitches = Annotated[Bounds, typer.Option(help="Lowest and highest pitch of a speaker, 1 1 for none.")]
Seed = Annotated[int, typer.Option(min=0, help="Same seed, same bytes.")]
ShardRows = Annotated[int, typer.Option("--shard-rows", min=1, help="Source rows in a shard, the unit of resuming.")]
Part = Annotated[str, typer.Option("--part", help="i/n: make only the i-th of n parts (i from 0); for job arrays.")]


def run(builder: "Builder", source: Path, out: Path, *, shard_rows: int, part: str) -> None:
    """Makes the shards that are missing in a part, joins them when none is left, and prints the counts."""
    from sonant.data.shards import merge_build, plan_build, run_build
    from sonant.errors import SonantError

    number, parts = _numbers(part)
    build = plan_build(builder, source, out, shard_rows=shard_rows)
    try:
        with progress_bar("shards") as progress:
            run_build(builder, build, part=number, parts=parts, progress=progress)
    except SonantError:
        # A mistake in the settings: once corrected they may use the folder, unless other parts are at work in it.
        if parts == 1 and len(build.missing) == build.num_shards:
            (build.out / "build.json").unlink(missing_ok=True)
        raise
    if build.missing:
        typer.echo(
            f"{out}: {len(build.missing)} of {build.num_shards} shards are not made yet; the last part to finish joins "
            f"them, and so does: sonant synth merge {out}"
        )
    else:
        show(merge_build(build), out)


def show(report: dict[str, Any], out: Path) -> None:
    """Prints the counts of a joined build."""
    for reason, count in report["dropped"].items():
        typer.echo(f"{count:8} dropped: {reason}")
    dropped = sum(report["dropped"].values())
    typer.echo(f"{out / 'rows.jsonl'}: {report['rows']} rows from {report['source_rows']}, {dropped} dropped")


def _numbers(part: str) -> tuple[int, int]:
    from sonant.errors import ConfigError

    number, _, parts = part.partition("/")
    if not (number.isdecimal() and parts.isdecimal() and int(number) < int(parts)):
        raise ConfigError(f"--part {part!r}: write i/n with i from 0 to n - 1, such as 0/4")
    return int(number), int(parts)

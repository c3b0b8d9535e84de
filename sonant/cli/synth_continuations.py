"""`sonant synth continuations`: the beginning of an utterance is heard, the rest is to be said."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from sonant.cli.build import Part, Seed, ShardRows, run

EPILOG = """Examples:

    sonant synth continuations asr.jsonl runs/continued   (prompts of 1 to 8 s, cut in pauses)

    sonant synth continuations asr.jsonl runs/published --cut anywhere --min-prompt-s 3 --max-prompt-s 3 --prompts none

    sonant data mark-words asr.jsonl marked.jsonl
    sonant synth continuations marked.jsonl runs/continued --boundary ' | '

Nothing is copied: both parts are stretches of the same file. What word marks are for: docs/spectron.md.
"""


def continuations(
    source: Annotated[Path, typer.Argument(help="A manifest (.jsonl) of transcribed utterances.")],
    out: Annotated[Path, typer.Argument(help="Folder for shards and the manifest rows.jsonl.")],
    min_prompt_s: Annotated[float, typer.Option("--min-prompt-s", help="Shortest beginning, in seconds.")] = 1.0,
    max_prompt_s: Annotated[float, typer.Option("--max-prompt-s", help="Longest beginning, in seconds.")] = 8.0,
    min_target_s: Annotated[float, typer.Option("--min-target-s", help="Shortest rest, in seconds.")] = 0.5,
    cut: Annotated[
        Literal["silence", "marks", "anywhere"],
        typer.Option(help="In a pause, where a word is marked, or anywhere."),
    ] = "silence",
    boundary: Annotated[str, typer.Option(help="Text between the two; needs word marks. Default: none.")] = "",
    prompts: Annotated[str, typer.Option(help="Bank of instructions, a YAML file, or none.")] = "continuation",
    split: Annotated[Literal["train", "dev", "test"], typer.Option(help="Split of the bank.")] = "train",
    seed: Seed = 0,
    shard_rows: ShardRows = 256,
    part: Part = "0/1",
) -> None:
    """Cut utterances in two: a prompt to hear, and a rest to write and say; those too short are counted."""
    from sonant.data.prompts import load_prompt_bank
    from sonant.synth.continuations import Continuations
    from sonant.synth.cutting import CutRule

    builder = Continuations(
        CutRule(cut, min_prompt_s, max_prompt_s, min_target_s),
        None if prompts == "none" else load_prompt_bank(prompts),
        split=split,
        boundary=boundary,
        seed=seed,
    )
    run(builder, source, out, shard_rows=shard_rows, part=part)

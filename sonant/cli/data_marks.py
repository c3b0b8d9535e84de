"""`sonant data mark-words`: when each word of a recording begins."""

from pathlib import Path
from typing import Annotated

import typer

EPILOG = """Examples:

    sonant data mark-words asr.jsonl marked.jsonl

    sonant data mark-words asr.jsonl marked.jsonl --encoder runs/parts/encoder/model --tokenizer runs/parts/tokenizer

Marks help a voice to learn (docs/spectron.md) and let utterances be cut at words: sonant synth continuations.
"""


def mark_words(
    source: Annotated[Path, typer.Argument(help="A manifest (.jsonl) of recordings with transcripts.")],
    out: Annotated[Path, typer.Argument(help="Manifest to write, with 'words' beside each transcript.")],
    encoder: Annotated[str, typer.Option(help="Folder of a tiny encoder with a CTC head.")] = "tiny/encoder",
    tokenizer: Annotated[str, typer.Option(help="Folder of the tokenizer it spells in.")] = "tiny/llm",
) -> None:
    """Find by forced alignment when each word of a recording begins; marks that are there are kept."""
    from collections import Counter

    from sonant.data.manifest import Manifest, write
    from sonant.errors import ConfigError
    from sonant.generate.word_marks import WordMarker, marked_rows

    if out.absolute() == source.absolute():
        raise ConfigError(f"{out} is the source; choose another name for the marked manifest")
    counts: Counter[str] = Counter()
    num_rows = write(out, marked_rows(Manifest(source), WordMarker.from_parts(encoder, tokenizer), counts))
    for what, count in counts.most_common():
        if count:
            typer.echo(f"{count:8} {what}")
    typer.echo(f"{out}: {num_rows} rows")

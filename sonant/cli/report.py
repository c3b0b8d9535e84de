"""`sonant report`: a page that shows what runs are worth."""

from pathlib import Path
from typing import Annotated

import typer

EPILOG = """Examples:

    sonant report runs/quickstart

    sonant report runs/joint runs/speech_only --out both.html --embed-audio   (a page that needs no other file)
"""


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; several are compared.")],
    out: Annotated[Path | None, typer.Option(help="Where to write; report.html in the first run by default.")] = None,
    embed_audio: Annotated[bool, typer.Option("--embed-audio", help="Hold recordings in the page itself.")] = False,
) -> None:
    """Write report.html: scores against the cascade, forgetting, and what to listen to where answers differ."""
    from sonant.evaluate.report.page import write_report

    typer.echo(f"written: {write_report(runs, out=out or runs[0] / 'report.html', embed_audio=embed_audio)}")

"""The command `sonant`: its verbs, and how a mistake is told in one line."""

import errno
import os
import sys
from typing import Annotated

import typer

from sonant import __version__
from sonant.cli import ablate, ask, data, evaluate, export, parity, quickstart, report, serve, synth, talk, train, world
from sonant.errors import SonantError

app = typer.Typer(
    name="sonant",
    help="Gives any language model ears: train, measure and talk to speech language models.",
    epilog="Begin with:  sonant quickstart",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


app.command(epilog=quickstart.EPILOG)(quickstart.quickstart)
app.add_typer(world.app, name="world")
app.add_typer(data.app, name="data")
app.add_typer(synth.app, name="synth")
app.command(epilog=train.EPILOG)(train.train)
app.command(epilog=ablate.EPILOG)(ablate.ablate)
app.command(epilog=evaluate.EPILOG)(evaluate.evaluate)
app.command(epilog=report.EPILOG)(report.report)
app.command(epilog=ask.EPILOG)(ask.ask)
app.command(epilog=serve.EPILOG)(serve.serve)
app.command(epilog=talk.EPILOG)(talk.talk)
app.command(epilog=export.EPILOG)(export.export)
app.command(epilog=parity.EPILOG)(parity.parity)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sonant {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Runs the command line. A SonantError, a full disk or a path that does not work is one line and exit status 1."""
    # Threads that spin while idle cost up to 6x on a busy machine; must be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    try:
        app()
    except SonantError as error:
        sys.exit(f"sonant: {error}")
    except OSError as error:
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        remedy = "free space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "check the path and its permissions"
        sys.exit(f"sonant: {error.strerror}: {error.filename or 'no file named'}; {remedy} or choose another place")

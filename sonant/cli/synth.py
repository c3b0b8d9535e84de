"""`sonant synth`: data that did not exist before, made in shards that any launcher can run."""

from pathlib import Path
from typing import Annotated

import typer

from sonant.cli import synth_combined, synth_continuations, synth_mixed_modal, synth_spoken_qa, synth_tts
from sonant.cli.build import show

app = typer.Typer(help="Make data: speech from text, questions, mixed-modal chats.", no_args_is_help=True)

MERGE_EPILOG = """Example:

    sonant synth merge runs/spoken   (writes runs/spoken/rows.jsonl; refused while a shard is missing)
"""

app.command(epilog=synth_tts.EPILOG)(synth_tts.tts)
app.command("spoken-qa", epilog=synth_spoken_qa.EPILOG)(synth_spoken_qa.spoken_qa)
app.command(epilog=synth_mixed_modal.MIXED_MODAL_EPILOG)(synth_mixed_modal.mixed_modal)
app.command(epilog=synth_mixed_modal.REVOICE_EPILOG)(synth_mixed_modal.revoice)
app.command(epilog=synth_combined.EPILOG)(synth_combined.combined)
app.command(epilog=synth_continuations.EPILOG)(synth_continuations.continuations)


@app.command(epilog=MERGE_EPILOG)
def merge(out: Annotated[Path, typer.Argument(help="Folder of a build whose shards are all made.")]) -> None:
    """Join the shards of a build that several machines made."""
    from sonant.data.shards import merge_build, open_shards

    show(merge_build(open_shards(out)), out)

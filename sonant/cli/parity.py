"""`sonant parity`: the certificate that a model answers alike however it is asked."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sonant.cli.imports import quick_imports

if TYPE_CHECKING:
    from sonant.generate.assistant import Assistant
    from sonant.parity.certificate import Certificate, Finding

EPILOG = """Examples:

    sonant parity runs/quickstart/model

    sonant parity runs/quickstart/model --rows dev.jsonl --num-rows 16 --json parity.json

Exit status 1 if any way differs.
"""


def parity(
    model: Annotated[Path, typer.Argument(help="Folder of a trained model.")],
    rows: Annotated[Path | None, typer.Option(help="A manifest to ask from; else questions made of a buzz.")] = None,
    num_rows: Annotated[int, typer.Option(min=1, help="Ask the first rows only.")] = 8,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 32,
    device: Annotated[str, typer.Option(help="Where the model runs: auto, cpu, cuda, cuda:1.")] = "auto",
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the certificate here, too.")] = None,
) -> None:
    """Certify that batched, cached, saved, merged, exported and served answers are those of each question alone."""
    from tempfile import TemporaryDirectory

    from rich.console import Console

    with quick_imports():
        from sonant.generate.assistant import Assistant
        from sonant.parity.certificate import certify
        from sonant.parity.questions import made_questions, manifest_questions
    questions = made_questions()[:num_rows] if rows is None else manifest_questions(rows, num_rows=num_rows)
    assistant = Assistant.from_folder(model, device=device)
    with TemporaryDirectory(prefix="sonant-parity-") as scratch, Console(stderr=True).status("asked alone") as status:
        certificate = certify(
            assistant,
            questions,
            scratch=Path(scratch),
            name=str(model),
            max_new_tokens=max_new_tokens,
            progress=status.update,
        )
    _print(certificate, assistant)
    if json_out is not None:
        json_out.write_text(json.dumps(certificate.to_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if not certificate.holds:
        raise typer.Exit(1)


def _print(certificate: "Certificate", assistant: "Assistant") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    title = f"{certificate.model}: {len(certificate.questions)} questions, {certificate.num_tokens} tokens"
    table = Table(title=Text(f"{title}, {certificate.dtype}"), title_justify="left")
    for column in ("way", "compares", "largest difference", "tolerance", "tokens", "verdict"):
        table.add_column(column, overflow="fold")
    notes = []
    for finding in certificate.findings:
        found = finding.comparison
        numbers = ["-"] * 3
        if found is not None:
            same = "equal" if found.first_difference is None else "differ"
            numbers = [f"{found.largest_difference:.2g}", f"{finding.tolerance:.2g}", same]
        verdict = finding.verdict.upper() if finding.verdict == "differs" else finding.verdict
        table.add_row(*map(Text, (finding.way, finding.compares, *numbers, verdict)))
        notes += [
            f"{finding.way}: {note}" for note in (_parting(finding, certificate, assistant), finding.note) if note
        ]
    console = Console()
    console = console if console.is_terminal else Console(width=max(console.width, 140))
    console.print(table)
    for note in notes:
        typer.echo(note)
    if certificate.left_out:
        typer.echo(f"left out, as the LLM has no room for them: {', '.join(certificate.left_out)}")
    typer.echo("All ways give the same answers." if certificate.holds else "NOT ALL WAYS GIVE THE SAME ANSWERS.")


def _parting(finding: "Finding", certificate: "Certificate", assistant: "Assistant") -> str:
    """Where the tokens part, in words."""
    from sonant.parity.certificate import spell

    parting = None if finding.comparison is None else finding.comparison.first_difference
    if parting is None:
        return ""
    found, expected = spell(parting.found, assistant), spell(parting.expected, assistant)
    by = "" if parting.margin is None else f", likelier by {parting.margin:.2g}"
    return f"{certificate.questions[parting.row]!r}, token {parting.position + 1}: {found} in place of {expected}{by}"
